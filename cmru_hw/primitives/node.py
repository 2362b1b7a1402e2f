"""Currents at the gates and drains of weak-inversion transistors: what a mirror makes of a diode's current.

A mirror's current is I_diode f(V_DS) / f(V_GS), f the card's output curve of its polarity. Where the curves
are 1 a node carries relu(sum+ - sum-); as they are, it settles at the V of its diode where

    sum+ f(V_DD - V) - sum- f(V) = I_diode(V),       I_diode(V) = I_gate(V) f(V)

All of it per unit transistor and of one variable, a current or V, is tabulated: over currents in `OCTAVES` of
`STEPS` equal parts, which a float's exponent and leading bits number, so that neither logarithms nor
exponentials are left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit

from cmru_hw.primitives.device import Array
from cmru_hw.technology import Polarity, Technology

FIRST, OCTAVES = -64, 44  # from 5.4e-20 A to 9.5e-7 A
BITS = 6
STEPS = 1 << BITS
_SHIFT = 52 - BITS
_BELOW = (1023 + FIRST) << BITS
_REST = (1 << _SHIFT) - 1
LEAST = 1e-6  # V of a diode; nothing is told apart below
VOLTS = 5e-4  # V between the points of what depends on V
FLAT = 0.12  # V, from which on an output curve rises by less than 0.4 in 1 V
SHARES = 256  # points of the inverse of an output curve


@dataclass(frozen=True, eq=False)
class Tables:
    """Of one polarity; `raised` and `copied` multiply a diode's current, the others are of a node.

    `over` and `under` are f(V_DD - V) and f(V) and `volts` V in steps of the grid, all where the diode
    carries a current; `nodes` [V, 3] is f(V_DD - V), f(V) and I_diode; `inverse` the V where f(V) is a share.
    """

    raised: Array  # what transistors on its gate carry where f is 1
    copied: Array  # what those on its copy's gate do
    least: float  # A; a diode without a current still leaks
    over: Array
    under: Array
    volts: Array
    nodes: Array
    inverse: Array


def tables(technology: Technology, polarity: Polarity) -> Tables:
    """The tables of a technology at its temperature and supply."""
    curve = technology.output_curve
    return _tables(
        polarity, technology.supply, technology.thermal_voltage,
        *((technology.slope_factor.of(p), technology.gate_voltage_at_1na.of(p)) for p in ("n", "p")),
        tuple(curve.volts), tuple(curve.n), tuple(curve.p),
    )  # fmt: skip


@lru_cache(maxsize=64)
def _tables(
    polarity: Polarity, supply: float, thermal: float, n: tuple[float, float], p: tuple[float, float],
    volts: tuple[float, ...], curve_n: tuple[float, ...], curve_p: tuple[float, ...],
) -> Tables:  # fmt: skip
    kinds = {"n": (*n, curve_n), "p": (*p, curve_p)}
    other = "p" if polarity == "n" else "n"

    def curve(of: str, at: Array) -> Array:
        return np.interp(at, volts, kinds[of][2])

    def gate_current(of: str, at: Array) -> Array:
        slope, at_1na, _ = kinds[of]
        return 1e-9 * np.exp((at - at_1na) / (slope * thermal))

    def gate_voltage(of: str, current: Array) -> Array:
        slope, at_1na, _ = kinds[of]
        return np.maximum(at_1na + slope * thermal * np.log(current / 1e-9), 0.0)

    def raised(of: str, current: Array) -> Array:
        """I_gate / I_diode of a diode that carries `current`."""
        at = np.geomspace(LEAST, max(volts), 8001)
        gate = np.log(gate_current(of, at))
        own = gate + np.log(curve(of, at))
        return np.exp(np.interp(np.log(current), own, gate - own))

    def least(of: str) -> float:
        first = np.array(LEAST)
        return max(float(gate_current(of, first) * curve(of, first)), 2.0**FIRST)

    currents = _grid()
    floored = np.maximum(currents, least(polarity))
    native = floored * raised(polarity, floored)
    copy = native * curve(polarity, supply - gate_voltage(other, currents))
    copy = np.maximum(copy, least(other))
    at = np.minimum(gate_voltage(polarity, currents), supply)
    grid = np.linspace(0.0, supply, int(np.ceil(supply / VOLTS)) + 1)
    under = curve(polarity, grid)
    nodes = np.stack([curve(other, supply - grid), under, gate_current(polarity, grid) * under], axis=-1)
    shares = np.linspace(0.0, under[-1], SHARES)
    return Tables(
        raised=native / floored,
        copied=copy * raised(other, copy) / floored,
        least=least(polarity),
        over=curve(other, supply - at),
        under=curve(polarity, at),
        volts=at / grid[1],
        nodes=nodes,
        inverse=np.interp(shares / under[-1], under / under[-1], np.arange(len(under), dtype=float)),
    )


def _grid() -> Array:
    """Currents (A) that the tables are of."""
    return np.asarray(
        np.ldexp(1 + np.arange(OCTAVES * STEPS) % STEPS / STEPS, FIRST + np.arange(OCTAVES * STEPS) // STEPS)
    )


def mirrored(technology: Technology, polarity: Polarity, current: Array, units: int) -> Array:
    """What as many transistors as a diode's `units`, on its gate, carry (A) where f is 1.

    The diode carries `current` at V_DS = V_GS; without any, they still leak.
    """
    known = tables(technology, polarity)
    return _each(_times, current, float(units), known.least, known.raised)


def copied(technology: Technology, polarity: Polarity, current: Array, units: int) -> Array:
    """Likewise of transistors on the gate of the diode's copy, which has as many units.

    The copy's own V_DS is the supply less the gate voltage of the other polarity's diode that it drives.
    """
    known = tables(technology, polarity)
    return _each(_times, current, float(units), known.least, known.copied)


def settle(
    technology: Technology, polarity: Polarity, plus: Array, minus: Array, units: int
) -> tuple[Array, Array]:
    """Currents (A) of diodes of `units` at nodes, and what arrives there.

    `plus` and `minus` are what is mirrored into and out of a node where the curves are 1.
    """
    shape = np.broadcast_shapes(plus.shape, minus.shape)
    known = tables(technology, polarity)
    flat_plus, flat_minus = (
        np.ascontiguousarray(np.broadcast_to(one, shape)).ravel() for one in (plus, minus)
    )
    flat_from = FLAT / technology.supply * (len(known.nodes) - 1)
    value, arriving = _settle(
        flat_plus,
        flat_minus,
        float(units),
        flat_from,
        known.over,
        known.under,
        known.volts,
        known.nodes,
        known.inverse,
    )
    return value.reshape(shape), arriving.reshape(shape)


def _each(kernel: Callable[..., Array], current: Array, *given: Any) -> Array:
    flat = np.ascontiguousarray(current, dtype=np.float64).ravel()
    return kernel(flat, *given).reshape(np.shape(current))


@njit(cache=True, nogil=True)
def _times(current: Array, units: float, least: float, table: Array) -> Array:
    """Currents, at least `least` a unit, times what the table says of one unit's."""
    found = np.empty_like(current)
    for k in range(len(current)):
        found[k] = max(current[k] / units, least)
    bits = found.copy().view(np.int64)
    for k in range(len(current)):
        i = min((bits[k] >> _SHIFT) - _BELOW, len(table) - 2)
        share = (bits[k] & _REST) / (_REST + 1)
        found[k] *= units * (table[i] + share * (table[i + 1] - table[i]))
    return found


@njit(cache=True, nogil=True)
def _settle(
    plus: Array, minus: Array, units: float, flat: float, over: Array, under: Array, volts: Array,
    nodes: Array, inverse: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Where what the sums say of V is not enough, Newton's method on the grid, within a shrinking bracket."""
    value, arriving = np.empty_like(plus), np.empty_like(plus)
    for k in range(len(plus)):
        value[k] = (plus[k] - minus[k]) / units
    bits = value.copy().view(np.int64)
    last = len(nodes) - 2
    for k in range(len(plus)):
        start = 0
        if np.isnan(value[k]):
            arriving[k] = value[k]
            continue
        if value[k] * units > 0.03 * plus[k]:
            i = min(max((bits[k] >> _SHIFT) - _BELOW, 0), len(over) - 2)
            share = (bits[k] & _REST) / (_REST + 1)
            if value[k] * units > 0.2 * plus[k] and volts[i] > flat:  # hardly anything changes with V
                arriving[k] = plus[k] * (over[i] + share * (over[i + 1] - over[i]))
                value[k] = arriving[k] - minus[k] * (under[i] + share * (under[i + 1] - under[i]))
                continue
            start = int(volts[i])
        elif minus[k] > 0.0:  # what takes falls to what arrives, and leaves the diode next to nothing
            share = min(plus[k] / (minus[k] * nodes[-1, 1]), 0.999999) * (len(inverse) - 1)
            i = int(share)
            start = int(inverse[i] + (share - i) * (inverse[i + 1] - inverse[i]))
        low, high = 0, last
        at = min(start, last)
        p, m = plus[k] / units, minus[k] / units
        while True:
            here = p * nodes[at, 0] - m * nodes[at, 1] - nodes[at, 2]
            there = p * nodes[at + 1, 0] - m * nodes[at + 1, 1] - nodes[at + 1, 2]
            if here < 0.0:
                high = at - 1
            elif there > 0.0:
                low = at + 1
            if low > high or (here >= 0.0 and there <= 0.0):
                break
            following = at + int(np.floor(here / (here - there)))
            at = following if low <= following <= high else (low + high) // 2
        share = min(max(here / (here - there), 0.0), 1.0) if here > there else 0.0
        value[k] = units * (nodes[at, 2] + share * (nodes[at + 1, 2] - nodes[at, 2]))
        arriving[k] = plus[k] * (nodes[at, 0] + share * (nodes[at + 1, 0] - nodes[at, 0]))
    return value, arriving
