"""Currents at the gates and drains of weak-inversion transistors: what a mirror makes of a diode's current.

A mirror's current is I_diode f(V_DS) / f(V_GS), f the card's output curve of its polarity. Where the curves
are 1 a node carries relu(sum+ - sum-); as they are, it settles at the V of its diode where

    sum+ f(V_DD - V) - sum- f(V) = I_diode(V),       I_diode(V) = I_gate(V) f(V)

All of it per unit transistor and tabulated: mirrors over a diode's current, nodes over both of their sums. An
octave of a current has 2^bits equal parts, which a float's exponent and leading bits number, so that neither
logarithms nor exponentials are left. In single precision, which rounds a hundred times less than a table does
and lets a processor take twice as many currents at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cmru_hw.primitives.device import Array, Single
from cmru_hw.technology import Polarity, Technology

FIRST, OCTAVES, BITS = -64, 44, 6  # of a diode's current: from 5.4e-20 A to 9.5e-7 A
SUM_FIRST, SUM_OCTAVES, SUM_BITS = -60, 40, 3  # of sum+ + sum-: from 8.7e-19 A to 9.5e-7 A
SHARES = 320  # parts of the root of (sum+ - sum-) / (sum+ + sum-), with its sign from -1 to 1
LEAST = 1e-6  # V of a diode; nothing is told apart below
VOLTS = 1e-4  # V between the points where a node's balance is looked for
TILE = 512  # currents that are looked up together

_EXPONENT, _FRACTION = 127, 23  # of a float32: its bias, and the bits that follow
_MAGNITUDE = 0x7FFFFFFF  # all but its sign, which what is not a number can have


Pairs = NDArray[np.int64]
"""A table's numbers, each in the first half of 64 bits, with the step to the next in the second: two floats
of single precision that are fetched at once.
"""


@dataclass(frozen=True, eq=False)
class Tables:
    """Of one polarity. `raised` and `copied` [current] multiply a diode's current.

    `besides` and `arriving` [sum, share] multiply a node's sum+: what its diode carries besides
    relu(sum+ - sum-), and what of sum+ arrives.
    """

    raised: Pairs  # what transistors on its gate carry where f is 1
    copied: Pairs  # what those on its copy's gate do
    least: float  # A; a diode without a current still leaks
    besides: Pairs
    arriving: Pairs


def tables(technology: Technology, polarity: Polarity) -> Tables:
    """The tables of a technology at its temperature and supply."""
    curve = technology.output_curve
    return _tables(
        polarity, technology.supply, technology.thermal_voltage,
        *((technology.slope_factor.of(p), technology.gate_voltage_at_1na.of(p)) for p in ("n", "p")),
        tuple(curve.volts), tuple(curve.n), tuple(curve.p),
    )  # fmt: skip


@lru_cache(maxsize=32)
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

    grid = np.linspace(0.0, supply, int(np.ceil(supply / VOLTS)) + 1)
    under = curve(polarity, grid)
    nodes = np.stack([curve(other, supply - grid), under, gate_current(polarity, grid) * under], axis=-1)
    roots = np.linspace(-1, 1, SHARES + 1)
    # Where sum+ is 0, what the diode would carry of it is that of a sum+ of a thousandth.
    shares = np.maximum(roots * np.abs(roots), 1e-3 - 1)
    sums = _grid(SUM_FIRST, SUM_OCTAVES, SUM_BITS)[:, None]
    plus, minus = sums * (1 + shares) / 2, sums * (1 - shares) / 2
    value, over = _balanced(plus, minus, nodes)
    return Tables(
        raised=_paired(native / floored),
        copied=_paired(copy * raised(other, copy) / floored),
        least=least(polarity),
        besides=_paired((value - np.maximum(plus - minus, 0.0)) / plus),
        arriving=_paired(over),
    )


def _paired(table: Array) -> Pairs:
    """With the steps along the last axis; the last one's is 0."""
    steps = np.diff(table, axis=-1, append=table[..., -1:])
    return np.stack([table, steps], axis=-1).astype(Single).view(np.int64)[..., 0]


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
    total = np.empty((*lead, bias.shape[-1], rows), Single)
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
    return np.ascontiguousarray(array.reshape(-1, *shape[-2:]), Single)


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


def settle(technology: Technology, polarity: Polarity, plus: Array, minus: Array, units: int) -> Array:
    """Currents (A) of diodes of `units` at nodes.

    `plus` and `minus` are what is mirrored into and out of a node where the curves are 1.
    """
    return _node(plus, minus, units, True, tables(technology, polarity).besides)


def arrive(technology: Technology, polarity: Polarity, plus: Array, minus: Array, units: int) -> Array:
    """What is left of `plus` (A) where such nodes have settled."""
    return _node(plus, minus, units, False, tables(technology, polarity).arriving)


def _node(plus: Array, minus: Array, units: int, relu: bool, table: Pairs) -> Array:
    shape = np.broadcast_shapes(plus.shape, minus.shape)
    like = _in_memory(np.broadcast_to(plus if plus.shape == shape else minus, shape))
    found = np.empty_like(like)
    p, m = (one if _lies_as(one, like) else _laid_out(one, like) for one in (plus, minus))
    _looked_up(p.ravel(order="K"), m.ravel(order="K"), found.ravel(order="K"), float(units), relu, table)
    return found


def _in_memory(array: Array) -> Array:
    """The array, or a copy, such that `ravel` finds it flat in the order it lies in."""
    array = np.asarray(array, Single)
    flat = array.flags.c_contiguous or (array.ndim > 1 and np.swapaxes(array, -1, -2).flags.c_contiguous)
    return array if flat else np.ascontiguousarray(array)


def _lies_as(array: Array, like: Array) -> bool:
    return array.dtype == like.dtype and array.shape == like.shape and array.strides == like.strides


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
def _times(current: Array, found: Array, units: float, least: float, table: Pairs) -> None:
    """Currents, at least `least` a unit, times what the table says of one unit's."""
    unit, whole, floor = Single(1 / units), Single(units), Single(least)
    below, last = np.int32((_EXPONENT + FIRST) << BITS), np.int32(len(table) - 1)
    shift, rest, part = _FRACTION - BITS, (1 << _FRACTION - BITS) - 1, Single(2.0 ** (BITS - _FRACTION))
    index, share, pair = np.empty(TILE, np.int32), np.empty(TILE, Single), np.empty(TILE, np.int64)
    halves = pair.view(Single)
    for first in range(0, len(current), TILE):
        given, made = current[first : first + TILE], found[first : first + TILE]
        bits = made.view(np.int32)
        for k in range(len(given)):
            each = given[k] * unit
            made[k] = each if not each < floor else floor
        for k in range(len(given)):
            index[k] = min(np.int32(((bits[k] & _MAGNITUDE) >> shift) - below), last)
            share[k] = Single(bits[k] & rest) * part
        for k in range(len(given)):
            pair[k] = table[np.uint64(index[k])]
        for k in range(len(given)):
            made[k] *= whole * (halves[2 * k] + share[k] * halves[2 * k + 1])


@njit(cache=True, nogil=True, error_model="numpy")
def _looked_up(plus: Array, minus: Array, found: Array, units: float, relu: bool, table: Pairs) -> None:
    """`plus` times what the table [sum, share] says of both sums, and relu(plus - minus) if asked for."""
    unit, zero, one, tiny, more = Single(1 / units), Single(0), Single(1), Single(1e-37), Single(relu)
    lowest, highest = Single(2.0**SUM_FIRST), Single(2.0 ** (SUM_FIRST + SUM_OCTAVES) * (1 - 1e-6))
    row, half, last = np.int32(SHARES + 1), Single(SHARES / 2), np.int32(SHARES - 1)
    below, down, flat = np.int32((_EXPONENT + SUM_FIRST) << SUM_BITS), np.uint64(SHARES + 1), table.ravel()
    shift, rest = _FRACTION - SUM_BITS, (1 << _FRACTION - SUM_BITS) - 1
    part = Single(2.0 ** (SUM_BITS - _FRACTION))
    total, x, y = np.empty(TILE, Single), np.empty(TILE, Single), np.empty(TILE, Single)
    bits, index = total.view(np.int32), np.empty(TILE, np.int32)
    here, next_sum = np.empty(TILE, np.int64), np.empty(TILE, np.int64)
    low, high = here.view(Single), next_sum.view(Single)
    for first in range(0, len(plus), TILE):
        p, m, f = plus[first : first + TILE], minus[first : first + TILE], found[first : first + TILE]
        for k in range(len(p)):
            both = p[k] + m[k]
            x[k] = (p[k] - m[k]) / max(both, tiny)
            each = both * unit
            each = each if each > lowest else lowest  # also where it is not a number
            total[k] = each if each < highest else highest
        for k in range(len(p)):
            at = (np.copysign(np.sqrt(abs(x[k])), x[k]) + one) * half
            at = at if at > zero else zero  # also where it is not a number
            j = min(np.int32(at), last)
            y[k] = at - Single(j)
            index[k] = ((bits[k] >> shift) - below) * row + j
            x[k] = Single(bits[k] & rest) * part
        for k in range(len(p)):
            i = np.uint64(index[k])
            here[k], next_sum[k] = flat[i], flat[i + down]
        for k in range(len(p)):
            lower = low[2 * k] + y[k] * low[2 * k + 1]
            upper = high[2 * k] + y[k] * high[2 * k + 1]
            alone = p[k] - m[k]
            alone = alone if not alone < zero else zero
            f[k] = more * alone + p[k] * (lower + x[k] * (upper - lower))


@njit(cache=True, nogil=True, error_model="numpy")
def _balanced(plus: Array, minus: Array, nodes: Array) -> tuple[Array, Array]:
    """Currents of unit diodes where nodes balance, and f(V_DD - V) there.

    `nodes` [V, 3] is f(V_DD - V), f(V) and I_diode.
    """
    value, over = np.empty_like(plus), np.empty_like(plus)
    for i in range(plus.shape[0]):
        at = 0
        for j in range(plus.shape[1]):
            at, share = _balance(plus[i, j], minus[i, j], nodes, at)
            value[i, j] = nodes[at, 2] + share * (nodes[at + 1, 2] - nodes[at, 2])
            over[i, j] = nodes[at, 0] + share * (nodes[at + 1, 0] - nodes[at, 0])
    return value, over


@njit(cache=True, nogil=True, error_model="numpy")
def _balance(p: float, m: float, nodes: Array, at: int) -> tuple[int, float]:
    """Where a node balances: the point of the grid below, and the share of its step.

    Newton's method on the grid, within a shrinking bracket.
    """
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
