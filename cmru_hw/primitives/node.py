"""Currents at the gates and drains of weak-inversion transistors: what a mirror makes of a diode's current.

A mirror's current is I_diode f(V_DS) / f(V_GS), f the card's output curve of its polarity. Where the curves
are 1 a node carries relu(sum+ - sum-); as they are, it settles at the V of its diode where

    sum+ f(V_DD - V) - sum- f(V) = I_diode(V),       I_diode(V) = I_gate(V) f(V)

All of it per unit transistor and of one variable, a current or V, is tabulated: over currents in `OCTAVES` of
2^`BITS` equal parts, which a float's exponent and leading bits number, so that neither logarithms nor
exponentials are left. Where V matters, a step of Newton's method begins with V from a table of both sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cmru_hw.primitives.device import Array
from cmru_hw.technology import Polarity, Technology

FIRST, OCTAVES = -64, 44  # from 5.4e-20 A to 9.5e-7 A
BITS = 6
_SHIFT = 52 - BITS
_BELOW = (1023 + FIRST) << BITS
_REST = (1 << _SHIFT) - 1
LEAST = 1e-6  # V of a diode; nothing is told apart below
VOLTS = 5e-4  # V between the points of what depends on V
FLAT = 0.12  # V, from which on an output curve rises by less than 0.4 in 1 V
START_FIRST, START_OCTAVES = -60, 46  # sum+ + sum- of a unit, from 8.7e-19 A to 6.1e-5 A
START_BITS = 2
SHARES = 128  # parts of what is asked of a node's balance, (sum+ - sum-) / (sum+ + sum-)
_START_SHIFT = 52 - START_BITS
_START_BELOW = (1023 + START_FIRST) << START_BITS
_START_REST = np.uint64((1 << _START_SHIFT) - 1)
_ONE = np.uint64(1023 << 52)  # bits of 1.0
NEAR = 2.5  # points of the grid that a step of Newton's method may go and still be the last
TILE = 512  # nodes that are settled together


@dataclass(frozen=True, eq=False)
class Tables:
    """Of one polarity; `raised` and `copied` multiply a diode's current, the others are of a node.

    `curves` [current, 2] are f(V_DD - V) and f(V) where the diode carries a current, `flat` the current from
    which on they hardly change; `nodes` [V, 3] is f(V_DD - V), f(V) and I_diode; `start` [sum, share] is V in
    steps of the grid by sum+ + sum- and by sign(x) sqrt(abs(x)), x = (sum+ - sum-) / (sum+ + sum-).
    """

    raised: Array  # what transistors on its gate carry where f is 1
    copied: Array  # what those on its copy's gate do
    least: float  # A; a diode without a current still leaks
    curves: Array
    flat: float
    nodes: Array
    start: Array


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

    currents = _grid(FIRST, OCTAVES, BITS)
    floored = np.maximum(currents, least(polarity))
    native = floored * raised(polarity, floored)
    copy = native * curve(polarity, supply - gate_voltage(other, currents))
    copy = np.maximum(copy, least(other))
    at = np.minimum(gate_voltage(polarity, currents), supply)
    grid = np.linspace(0.0, supply, int(np.ceil(supply / VOLTS)) + 1)
    under = curve(polarity, grid)
    nodes = np.stack([curve(other, supply - grid), under, gate_current(polarity, grid) * under], axis=-1)
    sums, roots = _grid(START_FIRST, START_OCTAVES, START_BITS), np.linspace(-1, 1, SHARES + 1)
    shares = roots * np.abs(roots)
    start = _starts(sums[:, None] * (1 + shares) / 2, sums[:, None] * (1 - shares) / 2, nodes)
    return Tables(
        raised=native / floored,
        copied=copy * raised(other, copy) / floored,
        least=least(polarity),
        curves=np.stack([curve(other, supply - at), curve(polarity, at)], axis=-1),
        flat=float(gate_current(polarity, np.array(FLAT))),
        nodes=nodes,
        start=start.astype(np.float32),
    )


def _grid(first: int, octaves: int, bits: int) -> Array:
    """Currents (A), 2^bits in each octave."""
    steps = 1 << bits
    number = np.arange(octaves * steps + 1)
    return np.asarray(np.ldexp(1 + number % steps / steps, first + number // steps))


def summed(bias: Array, terms: Sequence[tuple[Array, Array]]) -> Array:
    """Currents (A) [..., rows, out]: a bias [..., out], and drives [..., rows, in] by gains [..., out, in].

    In memory the rows of an output are next to each other, as many to take at once.
    """
    if not terms:
        return bias[..., None, :]
    lead = np.broadcast_shapes(bias.shape[:-1], *(one.shape[:-2] for term in terms for one in term))
    rows = max(drives.shape[-2] for drives, _ in terms)
    total = np.empty((*lead, bias.shape[-1], rows))
    flat, begun = total.reshape(-1, *total.shape[-2:]), _stacked(bias[..., None], lead, 1)
    for number, (drives, gains) in enumerate(terms):
        given = _stacked(np.swapaxes(drives, -1, -2), lead, rows), _stacked(gains, lead, gains.shape[-1])
        _add(flat, begun, number == 0, *given)
    return np.swapaxes(total, -1, -2)


def _stacked(array: Array, lead: tuple[int, ...], last: int) -> Array:
    """As [n, rows, last], contiguous; n is 1 where it is the same for all of `lead`."""
    if array.size == array.shape[-2] * array.shape[-1]:
        lead, array = (), array.reshape(array.shape[-2:])
    shape = (*lead, array.shape[-2], last)
    array = array if array.shape == shape else np.broadcast_to(array, shape)
    return np.ascontiguousarray(array.reshape(-1, *shape[-2:]))


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
    known, shape = tables(technology, polarity), np.broadcast_shapes(plus.shape, minus.shape)
    like = _in_memory(np.broadcast_to(plus if plus.shape == shape else minus, shape))
    value, arriving = np.empty_like(like), np.empty_like(like)
    given = [one if one.strides == like.strides else _laid_out(one, like) for one in (plus, minus)]
    p, m, v, a = (one.ravel(order="K") for one in (*given, value, arriving))
    _settle(p, m, v, a, float(units), known.flat, known.curves, known.nodes, known.start)
    return value, arriving


def _in_memory(array: Array) -> Array:
    """The array, or a copy, such that `ravel` finds it flat in the order it lies in."""
    array = np.asarray(array, dtype=np.float64)
    flat = array.flags.c_contiguous or (array.ndim > 1 and np.swapaxes(array, -1, -2).flags.c_contiguous)
    return array if flat else np.ascontiguousarray(array)


def _laid_out(array: Array, like: Array) -> Array:
    """A copy that lies in memory as another array does."""
    found = np.empty_like(like)
    found[...] = array
    return found


def _each(kernel: Callable[..., None], current: Array, *given: Any) -> Array:
    current = _in_memory(current)
    found = np.empty_like(current)
    kernel(current.ravel(order="K"), found.ravel(order="K"), *given)
    return found


@njit(cache=True, nogil=True)
def _add(total: Array, bias: Array, first: bool, drives: Array, gains: Array) -> None:
    """Add gains [., out, in] times drives [., in, rows] to totals [n, out, rows], or, where it is the first
    of the terms, to a bias [., out, 1].
    """
    for c in range(len(total)):
        gain, drive = gains[c % len(gains)], drives[c % len(drives)]
        for j in range(gain.shape[0]):
            if first:
                total[c, j] = bias[c % len(bias), j, 0]
            for i in range(gain.shape[1]):
                if gain[j, i] != 0.0:
                    for r in range(total.shape[2]):
                        total[c, j, r] += gain[j, i] * drive[i, r]


@njit(cache=True, nogil=True, error_model="numpy")
def _times(current: Array, found: Array, units: float, least: float, table: Array) -> None:
    """Currents, at least `least` a unit, times what the table says of one unit's."""
    unit = 1.0 / units
    for k in range(len(current)):
        found[k] = max(current[k] * unit, least)
    bits, last = found.view(np.int64), len(table) - 2
    for k in range(len(current)):
        i = np.uint64(min((bits[k] >> _SHIFT) - _BELOW, last))
        share = (bits[k] & _REST) / (_REST + 1.0)
        found[k] *= units * (table[i] + share * (table[i + np.uint64(1)] - table[i]))


@njit(cache=True, nogil=True, error_model="numpy")
def _settle(
    plus: Array, minus: Array, value: Array, arriving: Array, units: float, flat: float, curves: Array,
    nodes: Array, start: Array,
) -> None:  # fmt: skip
    """Settle all nodes, as many at a time as stay in a cache: as if curves hardly changed with V, then again
    where they do.
    """
    rest, scratch = np.empty(TILE + 1, np.int32), np.empty((6, TILE))
    for first in range(0, len(plus), TILE):
        p, m = plus[first : first + TILE], minus[first : first + TILE]
        v, a = value[first : first + TILE], arriving[first : first + TILE]
        left = _flat(p, m, v, a, rest, units, flat, curves)
        _newton(p, m, v, a, rest[:left], scratch, units, nodes, start)


@njit(cache=True, nogil=True, error_model="numpy")
def _flat(
    plus: Array, minus: Array, value: Array, arriving: Array, rest: NDArray[np.int32], units: float,
    flat: float, curves: Array,
) -> int:  # fmt: skip
    """Settle nodes as if curves hardly changed with V; how many of them do, and in `rest` which."""
    unit, one, last, left = 1.0 / units, np.uint64(1), len(curves) - 2, 0
    for k in range(len(plus)):
        alone = (plus[k] - minus[k]) * unit
        value[k] = alone if alone > 2.0**FIRST else 2.0**FIRST
    for k in range(len(plus)):
        rest[left] = k
        left += 0 if (value[k] > flat) & (value[k] * units > 0.2 * plus[k]) else 1
    bits = value.view(np.int64)
    for k in range(len(plus)):
        i = np.uint64(min((bits[k] >> _SHIFT) - _BELOW, last))
        share = (bits[k] & _REST) / (_REST + 1.0)
        over, under = curves[i, 0], curves[i, 1]
        arriving[k] = plus[k] * (over + share * (curves[i + one, 0] - over))
        value[k] = arriving[k] - minus[k] * (under + share * (curves[i + one, 1] - under))
    return left


@njit(cache=True, nogil=True, error_model="numpy")
def _newton(
    plus: Array, minus: Array, value: Array, arriving: Array, chosen: NDArray[np.int32], scratch: Array,
    units: float, nodes: Array, start: Array,
) -> None:  # fmt: skip
    """Settle chosen nodes with a step of Newton's method from the table's V.

    Step by step for all of them, so that a processor has many of each to do at once.
    """
    unit, one, row, table = 1.0 / units, np.uint64(1), np.uint64(SHARES + 1), start.ravel()
    lowest, highest = 2.0**START_FIRST, 2.0 ** (START_FIRST + START_OCTAVES) * (1 - 1e-9)
    p, m, total, share, between, at = scratch
    bits, share_bits, index = total.view(np.uint64), share.view(np.uint64), np.empty(TILE, np.int32)
    count = len(chosen)
    for q in range(count):
        k = np.uint64(chosen[q])
        p[q], m[q] = plus[k] * unit, minus[k] * unit
    for q in range(count):
        s = p[q] + m[q]
        s = s if s > lowest else lowest  # also where it is not a number
        total[q] = s if s < highest else highest
    for q in range(count):
        share_bits[q] = (bits[q] & _START_REST) | _ONE
    for q in range(count):
        x = (p[q] - m[q]) / total[q]
        y = (np.copysign(np.sqrt(abs(x)), x) + 1.0) * (SHARES / 2)
        y = y if y > 0.0 else 0.0
        y = y if y < SHARES - 1e-9 else SHARES - 1e-9
        j = np.int32(y)
        between[q] = y - j
        octave = np.int32((bits[q] >> np.uint64(_START_SHIFT)) - np.uint64(_START_BELOW))
        index[q] = octave * np.int32(SHARES + 1) + j
    for q in range(count):
        i = np.uint64(index[q])
        low = table[i] + between[q] * (table[i + one] - table[i])
        high = table[i + row] + between[q] * (table[i + row + one] - table[i + row])
        at[q] = low + (share[q] - 1.0) * (1 << START_BITS) * (high - low)
    for q in range(count):
        point = at[q] if at[q] > 0.0 else 0.0
        index[q] = np.int32(point if point < len(nodes) - 2 else len(nodes) - 2)
    for q in range(count):
        i = np.uint64(index[q])
        here = p[q] * nodes[i, 0] - m[q] * nodes[i, 1] - nodes[i, 2]
        there = p[q] * nodes[i + one, 0] - m[q] * nodes[i + one, 1] - nodes[i + one, 2]
        share[q] = here / (here - there)
    for q in range(count):
        k, s = np.uint64(chosen[q]), share[q]
        if not abs(s - 0.5) <= NEAR:
            index[q], s = _balance(p[q], m[q], nodes, int(index[q]))
        i = np.uint64(index[q])
        value[k] = units * (nodes[i, 2] + s * (nodes[i + one, 2] - nodes[i, 2]))
        arriving[k] = units * p[q] * (nodes[i, 0] + s * (nodes[i + one, 0] - nodes[i, 0]))


@njit(cache=True, nogil=True, error_model="numpy")
def _balance(p: float, m: float, nodes: Array, at: int) -> tuple[int, float]:
    """Where a node balances: the point of the grid below, and the share of its step.

    Newton's method on the grid, within a shrinking bracket.
    """
    if np.isnan(p) or np.isnan(m):
        return 0, np.nan
    low, high = 0, len(nodes) - 2
    while True:
        here = p * nodes[at, 0] - m * nodes[at, 1] - nodes[at, 2]
        there = p * nodes[at + 1, 0] - m * nodes[at + 1, 1] - nodes[at + 1, 2]
        if here < 0.0:
            high = at - 1
        elif there > 0.0:
            low = at + 1
        if low > high or (here >= 0.0 and there <= 0.0):
            return at, min(max(here / (here - there), 0.0), 1.0) if here > there else 0.0
        following = at + int(np.floor(here / (here - there)))
        at = following if low <= following <= high else (low + high) // 2


@njit(cache=True, nogil=True, error_model="numpy")
def _starts(plus: Array, minus: Array, nodes: Array) -> Array:
    """V in steps of the grid where nodes balance."""
    found = np.empty_like(plus)
    for i in range(plus.shape[0]):
        at = 0
        for j in range(plus.shape[1]):
            at, share = _balance(plus[i, j], minus[i, j], nodes, at)
            found[i, j] = at + share
    return found
