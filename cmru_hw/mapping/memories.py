"""What holds a layer's state: from the rows of its input to a row of currents that tell the state.

Every function builds the stages of layer `layer` on x, the signed sum of `x` (rows by sign), and returns the
name of the row that holds the state and the offset (A, [N]) of its currents: what flows where h = 0.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from cmru_hw.errors import MappingError
from cmru_hw.mapping.builder import Builder, none
from cmru_hw.primitives.comparator import WindowComparator, smallest_threshold
from cmru_hw.primitives.device import Array, Units
from cmru_hw.primitives.integrator import Integrator, integrator_geometry, output_units
from cmru_hw.primitives.latch import Latch, calibration
from cmru_hw.primitives.latch_bank import BANK_UNITS, LatchBank
from cmru_hw.primitives.mirror import Term
from cmru_hw.primitives.rectifier import rectifier_stages

Built = tuple[str, Array]
LATCH_OFFSET = 1.5
"""A BMRU on the 9T latch: what is added to its candidate, in beta. The latch then sets at 2.5 beta and resets
at 0.5 beta."""
SMALLEST_STEP = 1e-11
"""A; a state whose step is smaller drowns in the leakage of the off steps."""


def fq_latch(builder: Builder, layer: int, x: dict[str, int]) -> Built:
    """FQ-BMRU on the 9T latch, programmed so that it switches at the trained thresholds."""
    unit, uc = f"layers.{layer}.unit", builder.choices.unit_current
    (row,) = x
    name = f"layer{layer}_candidate"
    builder.matrix(name, builder.technology.latch_units, row, f"{unit}.candidate", read=True)
    low, width, gain = (uc * builder.scaled[f"{unit}.{part}"] for part in ("threshold_low", "width", "gain"))
    thresholds = [_fit_thresholds(builder, unit, i, low[i], low[i] + width[i]) for i in range(len(low))]
    initial = builder.scaled[f"{unit}.initial_state"].astype(np.int64)
    i_gain = _programmed_gain(builder, unit, gain)
    return _latch(builder, layer, name, thresholds, i_gain, initial, "bit"), np.zeros(len(gain))


def bmru_latch(builder: Builder, layer: int, x: dict[str, int]) -> Built:
    """BMRU with a constant beta on the 9T latch, whose thresholds are positive: c gets an offset."""
    unit = f"layers.{layer}.unit"
    beta, gain = _beta(builder, unit), builder.choices.unit_current * builder.scaled[f"{unit}.gain"]
    name = f"layer{layer}_candidate"
    units, trained = builder.quantized(f"{unit}.candidate", tuple(x))
    bias = builder.bias(f"{unit}.candidate.bias", (name,), LATCH_OFFSET * beta)
    terms = tuple(Term(row, sign * units, sign * trained) for row, sign in x.items())
    builder.nodes(name, "p", builder.technology.latch_units, terms, bias, read=True)
    thresholds = []
    smallest, widest = calibration(builder.technology).upper_range()
    for i, one in enumerate(beta):
        low, high = (LATCH_OFFSET - 1) * one, (LATCH_OFFSET + 1) * one
        if not smallest <= high <= widest or low < builder.technology.smallest_threshold:
            raise MappingError(
                f"{unit}.threshold[{i}]: {builder.trained[f'{unit}.threshold'][i]:g} needs a latch "
                f"that sets at {high:.3g} A; the 9T latch does from {smallest:.3g} to {widest:.3g} A"
            )
        thresholds.append((high, low))
    initial = (_held_state(builder, unit, np.array([-1.0, 1.0])) > 0).astype(np.int64)
    i_gain = _programmed_gain(builder, unit, 2 * gain)
    return _latch(builder, layer, name, thresholds, i_gain, initial, "sign"), gain


def fq_clocked(builder: Builder, layer: int, x: dict[str, int]) -> Built:
    """FQ-BMRU on a clocked latch: a window of half the width around the middle of the two thresholds."""
    unit, uc = f"layers.{layer}.unit", builder.choices.unit_current
    (row,) = x
    name = f"layer{layer}_candidate"
    builder.matrix(name, builder.technology.latch_units, row, f"{unit}.candidate", read=True)
    low, width, gain = (uc * builder.scaled[f"{unit}.{part}"] for part in ("threshold_low", "width", "gain"))
    narrowest = 2 * smallest_threshold(builder.clocks[layer], builder.technology)
    for i in map(int, np.flatnonzero(width < narrowest)):
        centre = low[i] + width[i] / 2
        width[i] = builder.clip(f"{unit}.width", i, narrowest, "narrower than the clocked comparator decides")
        low[i] = max(centre - width[i] / 2, 0.0)
    middle = f"layer{layer}_middle"
    builder.nodes(middle, "p", builder.technology.latch_units, (), low + width / 2, read=True)
    comparator = _comparator(builder, layer, (name, middle), width / 2)
    bank, step = _bank(builder, layer, comparator, gain, builder.scaled[f"{unit}.initial_state"], "bit")
    return bank, np.zeros(len(step))


def signed_bank(builder: Builder, layer: int, x: dict[str, int], levels: int | None) -> Built:
    """BMRU (`levels` None) or CMRU on clocked latches."""
    unit = f"layers.{layer}.unit"
    comparator = _window(builder, layer, x)
    gain = builder.choices.unit_current * builder.scaled[f"{unit}.gain"]
    reach = levels or 1
    states = np.arange(-reach, reach + 1.0) if levels else np.array([-1.0, 1.0])
    initial = _held_state(builder, unit, states)
    name, step = _bank(builder, layer, comparator, gain, initial, "count" if levels else "sign", reach)
    return name, reach * step


def integrator(
    builder: Builder, layer: int, x: dict[str, int], rails: float, packet: float | None = None
) -> Built:
    """alphaCMRU, or with a constant `packet` (model units) a CMRU, on integrators stopped at +-`rails`.

    The state's currents are a share f = D / U of the model's, so that the rails lie where the cell was
    measured: D unit transistors in its output diode, where U make a weight of 1, scale them back. The
    amplitudes' diodes are 1 / f times as wide as the mirrors that take them.
    """
    unit, prefix, technology = f"layers.{layer}.unit", f"layer{layer}", builder.technology
    comparator = _window(builder, layer, x)
    size = len(builder.scaled[f"{unit}.candidate.bias"])
    per_unit = integrator_geometry(technology).packet_units * builder.choices.units
    try:
        diode_units = output_units(
            rails, builder.choices.unit_current, builder.choices.units, builder.clocks[layer], technology
        )
    except MappingError as error:
        raise MappingError(f"{unit}: {error}") from error
    state_current = builder.choices.unit_current * diode_units / builder.choices.units
    i_packet, amplitude = np.zeros(size), None
    if packet is None:
        resting = np.abs(builder.scaled[f"{unit}.amplitude.bias"])
        if (wrong := resting > 2 * rails).any():
            i = int(np.argmax(wrong))
            raise MappingError(
                f"{unit}.amplitude.bias[{i}]: packets of {resting[i]:g} with no input do not fit between the "
                f"rails, {2 * rails:g} apart"
            )
        pair = builder.pair(
            f"{prefix}_amplitudes", f"{unit}.amplitude", x, technology.latch_units, read=False
        )
        for stage in rectifier_stages(f"{prefix}_amplitude", *pair, diode_units=per_unit // diode_units):
            builder.add(stage)
            amplitude = stage.name
    else:
        i_packet += packet * state_current
    initial = builder.scaled[f"{unit}.initial_state"]
    for i in map(int, np.flatnonzero(np.abs(initial) > 1e-6)):
        builder.note_clip(f"{unit}.initial_state", i, 0.0, "an integrator starts halfway between its rails")
    made = Integrator(
        name=f"{prefix}_integrator", polarity="p", diode_units=diode_units, copied=none(size),
        comparator=comparator, amplitude_signal=amplitude, i_packet=i_packet,
        rails=np.full(size, rails * state_current), clock=clock_name(layer),
        state_current=state_current * (1.0 if packet is None else packet),
    )  # fmt: skip
    made.check_measured(technology)
    made.check_clock(builder.clocks[layer], technology)
    builder.add(made)
    return made.name, made.i_middle


def _window(builder: Builder, layer: int, x: dict[str, int]) -> str:
    """Comparators of c = W_c x + b_c with beta, constant or |W_b x + b_b|."""
    unit, prefix, latch_units = f"layers.{layer}.unit", f"layer{layer}", builder.technology.latch_units
    rows = builder.pair(f"{prefix}_candidate", f"{unit}.candidate", x, latch_units)
    names = rows[0].name, rows[1].name
    if f"{unit}.threshold.weight" not in builder.scaled:
        return _comparator(builder, layer, names, _beta(builder, unit))
    pair = builder.pair(f"{prefix}_threshold", f"{unit}.threshold", x, latch_units, read=False)
    rectified = rectifier_stages(f"{prefix}_beta", *pair, diode_units=latch_units, read=True)
    for stage in rectified:
        builder.add(stage)
    return _comparator(builder, layer, names, np.zeros(rows[0].size), rectified[-1].name)


def _comparator(
    builder: Builder, layer: int, rows: tuple[str, str], beta: Array, threshold_signal: str | None = None
) -> str:
    technology = builder.technology
    stage = WindowComparator(
        name=f"layer{layer}_comparator", polarity="p", diode_units=technology.latch_units,
        copied=none(len(beta)), positive=rows[0], negative=rows[1], i_threshold=beta,
        threshold_signal=threshold_signal, clock=clock_name(layer),
    )  # fmt: skip
    stage.check_clock(builder.clocks[layer], technology)
    builder.add(stage)
    return stage.name


def _bank(
    builder: Builder,
    layer: int,
    comparator: str,
    gain: Array,
    initial: Array,
    holds: Literal["count", "sign", "bit"],
    levels: int = 1,
) -> Built:
    """A row of banks that tell `gain` (A) for one unit of the state; and what flows for it, [N] (A).

    The output diode has `BANK_UNITS` transistors where U make a weight of 1, so a current of that share does.
    """
    technology = builder.technology
    name = f"layer{layer}_bank"
    diode_units = builder.row_units(name, min(BANK_UNITS, builder.choices.units))
    share = diode_units / builder.choices.units
    largest = technology.latch_units * technology.largest_unit_current
    step = share * gain
    for i in range(len(step)):
        built = min(max(step[i], SMALLEST_STEP), largest)
        if built != step[i]:
            reason = "outside the range of an output step"
            step[i] = share * builder.clip(f"layers.{layer}.unit.gain", i, built / share, reason)
    bank = LatchBank(
        name=name, polarity="p", diode_units=diode_units, copied=none(len(step)),
        comparator=comparator, holds=holds, levels=levels, i_alpha=step,
        initial_state=initial.astype(np.int64), clock=clock_name(layer),
    )  # fmt: skip
    made = bank.currents({}, {}, technology)["outputs"]
    programmed = step * step * (bank.states[-1] - bank.states[0]) / made[:, -1]
    builder.add(replace(bank, i_alpha=programmed))
    return bank.name, step


def clock_name(layer: int) -> str:
    """Prefix of a layer's clock nets."""
    return f"layer{layer}_clock"


def _beta(builder: Builder, unit: str) -> Array:
    """Constant thresholds (A)."""
    beta = builder.choices.unit_current * np.abs(builder.scaled[f"{unit}.threshold"])
    if (wrong := ~(beta > 0)).any():
        i = int(np.argmax(wrong))
        raise MappingError(f"{unit}.threshold[{i}]: beta must be > 0, got {beta[i]:g} A")
    return beta


def _held_state(builder: Builder, unit: str, states: Array) -> Array:
    """Initial states, each the nearest one that can be held."""
    trained = builder.scaled[f"{unit}.initial_state"]
    nearest = states[np.abs(trained[:, None] - states).argmin(axis=1)]
    for i in map(int, np.flatnonzero(np.abs(nearest - trained) > 1e-6)):
        builder.note_clip(f"{unit}.initial_state", i, float(nearest[i]), "not a state of the latches")
    return nearest


def _programmed_gain(builder: Builder, unit: str, gain: Array) -> Array:
    """I_gain (A) of 9T latches whose outputs are `gain`."""
    table = calibration(builder.technology)
    largest = float(table.gain[-1])
    i_gain = table.programmed_gain(gain)
    for i in map(int, np.flatnonzero(i_gain > largest)):
        i_gain[i] = builder.clip(f"{unit}.gain", i, largest, "largest characterised gain current")
    return i_gain


def _latch(
    builder: Builder, layer: int, candidate: str, thresholds: list[tuple[float, float]], i_gain: Array,
    initial: Units, holds: Literal["bit", "sign"],
) -> str:  # fmt: skip
    """A row of 9T latches that set at the first and reset at the second of each pair of thresholds (A)."""
    capacitances = builder.technology.latch_capacitance
    programmed = [calibration(builder.technology).programmed(high, low) for high, low in thresholds]
    i_threshold, i_width = np.array(programmed).T
    name = f"layer{layer}_latch"
    builder.add(
        Latch(
            name=name, polarity="p", diode_units=builder.row_units(name),
            copied=none(len(i_gain)), candidate=candidate, i_threshold=i_threshold, i_width=i_width,
            i_gain=i_gain, initial_state=initial, holds=holds,
            capacitance=capacitances[min(layer, len(capacitances) - 1)],
        )
    )  # fmt: skip
    return name


def _fit_thresholds(
    builder: Builder, unit: str, i: int, beta_lo: float, beta_hi: float
) -> tuple[float, float]:
    """Upper and lower threshold (A) that the 9T latch can have, nearest to those asked for."""
    card = builder.technology
    smallest, widest = calibration(card).upper_range()
    if 0 < beta_hi - beta_lo < card.smallest_hysteresis:
        builder.clip(f"{unit}.width", i, 0.0, "narrower than the smallest hysteresis: a comparator")
        beta_hi = beta_lo = (beta_hi + beta_lo) / 2
    if not smallest <= beta_hi <= widest:
        nearest = min(max(beta_hi, smallest), widest)
        reason = "upper threshold outside the characterised range"
        if beta_lo > nearest:  # move both thresholds, keep the width as far as it goes
            built = max(nearest - (beta_hi - beta_lo), 0.0)
            beta_hi += builder.clip(f"{unit}.threshold_low", i, built, reason) - beta_lo
            beta_lo = built
        if abs(beta_hi - nearest) > 1e-9 * nearest:
            builder.clip(f"{unit}.width", i, nearest - beta_lo, reason)
        beta_hi = nearest
    if 0 < beta_lo < card.smallest_threshold and beta_lo < beta_hi:
        beta_lo = builder.clip(f"{unit}.threshold_low", i, 0.0, "below leakage: never resets")
    return beta_hi, beta_lo
