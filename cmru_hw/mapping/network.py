"""A trained network to a design, layer by layer, and what has no circuit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cmru_hw.design import Design, Facts
from cmru_hw.errors import MappingError
from cmru_hw.mapping.builder import Builder
from cmru_hw.mapping.config import MappingConfig
from cmru_hw.mapping.memories import Built, bmru_latch, fq_clocked, fq_latch, integrator, signed_bank
from cmru_hw.mapping.report import MappingReport, RestPoint
from cmru_hw.mapping.units import is_clocked, on_integrator, weight_units
from cmru_hw.primitives.clock import BankClock
from cmru_hw.primitives.device import Array
from cmru_hw.primitives.mirror import Input, Term
from cmru_hw.primitives.signal import Memory
from cmru_hw.scaling import Weights, rescale
from cmru_hw.technology import Polarity, Technology

if TYPE_CHECKING:
    from cmru_hw.nn.network import Network, NetworkConfig

HARDWARE_UNITS = ("fq_bmru", "bmru", "cmru", "alpha_cmru")


def map_network(
    network: Network, technology: Technology, choices: MappingConfig | None = None
) -> tuple[Design, MappingReport]:
    """The design of a trained network and the report of what it cost.

    Raises MappingError, naming tensor and index, for what cannot be built: another unit, norms, GLU or
    dropout, a weight beyond the largest ratio, a clock that does not fit the frame, and with `strict` any
    value that would be clipped.
    """
    config, choices = network.config, choices or MappingConfig()
    check_mappable(config, choices)
    technology = technology.at(unit_area=choices.unit_area, latch_units=choices.latch_units)
    units = weight_units(config, choices)
    weights = {name: value.detach().double().numpy() for name, value in network.state_dict().items()}
    core = choices.boundary == "core"
    prepared = _prepared(weights, config, choices)
    fixed = {}
    if on_integrator(config, choices):  # one packet for a layer: no factor of its own for each gain
        fixed = {name: prepared.pop(name) for name in list(prepared) if name.endswith(".gain")}
    scaled, logit_factor = rescale(prepared, config.num_layers, units, technology.largest_ratio)
    scaled |= fixed
    builder = Builder(technology, choices, units, scaled, weights)
    if is_clocked(config, choices):
        builder.clocks = _clocks(config, choices)
    _projection(builder)
    stream, subtract = {"projection_pos": 1}, True  # x = sum of the stream - projection_neg
    for layer in range(config.num_layers):
        output = f"layers.{layer}.output"
        memory, offset = _layer(builder, config, layer, stream, subtract)
        y_units = builder.row_units(f"layer{layer}_y", choices.copy_units)
        builder.matrix(f"layer{layer}_y", y_units, memory, output, offset)
        y = {f"layer{layer}_y": 1}
        stream, subtract = ({**stream, **y}, True) if config.skip else (y, False)
    outputs = _readout(builder, stream, subtract)
    stages = builder.finished()
    facts = Facts(
        technology=technology.reference, unit=config.unit, boundary=choices.boundary, pool=config.pool,
        num_classes=config.num_classes, input_size=config.input_size, unit_current=choices.unit_current,
        logit_scale=1.0 if core else logit_factor, quiescent_current=choices.quiescent_current,
        frame_period=choices.frame_period, ramp=_ramp(config, choices), supply=technology.supply,
        temperature_celsius=technology.temperature_celsius, unit_area=technology.unit_area,
        latch_units=choices.latch_units,
        inputs=[stage.name for stage in stages if isinstance(stage, Input)], outputs=outputs,
        states=[stage.name for stage in stages if isinstance(stage, Memory)],
    )  # fmt: skip
    software = {}
    if core:
        software = {
            f"{k}.{p}": scaled[f"{k}.{p}"] for k in ("projection", "readout") for p in ("weight", "bias")
        }
        software["readout.weight"] = software["readout.weight"] / logit_factor
        software["readout.bias"] = software["readout.bias"] / logit_factor
    design = Design(facts, stages, software)
    report = builder.report
    report.choices = choices.model_dump()
    for layer, rest in enumerate(_rest_points(scaled, config, choices)):
        _note_rest(report, f"layers.{layer}.unit", rest, choices.unit_current, technology.rest_margin)
    report.transistors, report.area_m2 = design.transistors, design.area
    for name, array in design.devices().items():
        stage = name.partition(".")[0]
        report.transistors_by_stage[stage] = report.transistors_by_stage.get(stage, 0) + array.count
    return design, report


def map_folder(
    folder: Path, network: Network, technology: Technology, choices: MappingConfig
) -> tuple[Design, MappingReport]:
    """`map_network`; what cannot be built is reported with the folder that the network is in."""
    try:
        return map_network(network, technology, choices)
    except MappingError as error:
        raise MappingError(f"{folder}: {error}") from error


def check_mappable(config: NetworkConfig, choices: MappingConfig) -> None:
    """Raise MappingError, naming the key, for a network that has no circuit whatever its weights."""
    if config.unit not in HARDWARE_UNITS:
        raise MappingError(
            f"network.yaml: unit {config.unit} has no circuit; {', '.join(HARDWARE_UNITS)} have one"
        )
    for name, off in (("norm", "none"), ("glu", False), ("dropout", 0.0), ("epsilon", 0.0)):
        if getattr(config, name) != off:
            raise MappingError(
                f"network.yaml: {name}: must be {off} for hardware, got {getattr(config, name)}"
            )
    if choices.latch == "9t" and (config.unit in ("cmru", "alpha_cmru") or config.input_dependent_threshold):
        raise MappingError(
            f"mapping.latch: 9t holds one bit and has constant thresholds; a {config.unit}"
            f"{' with input_dependent_threshold' if config.input_dependent_threshold else ''} needs clocked"
        )
    if choices.accumulator == "integrator" and config.unit not in ("cmru", "alpha_cmru"):
        raise MappingError(
            f"mapping.accumulator: layers.0.unit is a {config.unit}, which latches hold, not an integrator"
        )
    if choices.accumulator == "latch_bank" and not is_clocked(config, choices):
        raise MappingError(
            f"mapping.accumulator: layers.0.unit is a {config.unit} on 9T latches, which are no latch_bank; "
            "give latch: clocked or leave it out"
        )
    if choices.accumulator == "latch_bank" and config.unit == "alpha_cmru":
        raise MappingError(
            "mapping.accumulator: layers.0.unit is an alpha_cmru, whose state is not quantised: "
            "no latch_bank holds it, an integrator does"
        )
    if config.unit == "alpha_cmru" and config.rails is None:
        raise MappingError("network.yaml: rails: missing; an integrator stops at its rails: train with them")
    if choices.levels is not None and config.unit != "cmru":
        raise MappingError(f"mapping.levels: belongs to cmru, the unit is {config.unit}")
    if config.unit == "cmru":
        levels_of(config, choices)


def levels_of(config: NetworkConfig, choices: MappingConfig) -> int:
    """K of a CMRU's banks. Raises MappingError if it is not said, or said in two ways."""
    if config.levels is None and choices.levels is None:
        raise MappingError(
            "network.yaml: levels: a bank of 2K latches saturates at K; train with levels, "
            "or give mapping.levels"
        )
    if None not in (config.levels, choices.levels) and config.levels != choices.levels:
        raise MappingError(
            f"mapping.levels: {choices.levels}, but the network was trained with levels {config.levels}"
        )
    return config.levels or choices.levels or 0


def equalize(network: Network, units: Mapping[str, int], largest_ratio: float) -> None:
    """Rescale a network in place to its equivalent that rounds best; for quantisation-aware training.

    `units` are those that make a weight of 1, by matrix.
    """
    import torch

    weights = {name: value.detach().double().numpy() for name, value in network.state_dict().items()}
    scaled, factor = rescale(weights, network.config.num_layers, units, largest_ratio)
    scaled["readout.weight"] /= factor
    scaled["readout.bias"] /= factor
    network.load_state_dict({name: torch.from_numpy(value).float() for name, value in scaled.items()})


def _prepared(weights: Weights, config: NetworkConfig, choices: MappingConfig) -> Weights:
    """The same function with gains >= 0: the sign of a gain goes to its output column.

    On an integrator all gains of a layer become its largest, and columns take the rest.
    """
    weights = dict(weights)
    for layer in range(config.num_layers):
        gain, output = f"layers.{layer}.unit.gain", f"layers.{layer}.output.weight"
        if gain not in weights:
            continue
        size = np.abs(weights[gain])
        if on_integrator(config, choices):
            size = np.full_like(size, size.max())
        share = np.divide(weights[gain], size, out=np.zeros_like(size), where=size > 0)
        weights[output] = weights[output] * share
        weights[gain] = size
    return weights


def _ramp(config: NetworkConfig, choices: MappingConfig) -> float:
    """Slow inputs keep the 9T latch from hazards; a comparator looks when all has settled."""
    return choices.ramp or choices.frame_period / (50 if is_clocked(config, choices) else 10)


def _clocks(config: NetworkConfig, choices: MappingConfig) -> list[BankClock]:
    """A clock a layer. Raises MappingError, naming the layer, where it does not fit the frame."""
    clocks, layers, copying = [], config.num_layers, on_integrator(config, choices)
    for layer in range(layers):
        try:
            clocks.append(BankClock.for_layer(choices.frame_period, layer, layers, copying))
        except MappingError as error:
            raise MappingError(f"layers.{layer}.unit: {error}") from error
    settled = clocks[0].decides * choices.frame_period
    ramp = _ramp(config, choices)
    if ramp >= settled:
        raise MappingError(
            f"mapping.ramp: layers.0.unit decides {settled:.3g} s into the frame, before inputs have ramped "
            f"for {ramp:g} s"
        )
    return clocks


def _layer(
    builder: Builder, config: NetworkConfig, layer: int, stream: dict[str, int], subtract: bool
) -> Built:
    """x and what holds the state."""
    prefix, choices = f"layer{layer}", builder.choices
    negative = {"projection_neg": -1} if subtract else {}
    builder.sums(f"{prefix}_x", "n", builder.row_units(f"{prefix}_x"), {**stream, **negative})
    x = {f"{prefix}_x": 1}
    clocked = is_clocked(config, choices)
    if config.unit == "fq_bmru":
        return (fq_clocked if clocked else fq_latch)(builder, layer, x)
    if subtract:
        below = {row: -sign for row, sign in {**stream, **negative}.items()}
        builder.sums(f"{prefix}_below", "p", builder.row_units(f"{prefix}_below"), below)
        x[f"{prefix}_below"] = -1
    if not clocked:
        return bmru_latch(builder, layer, x)
    levels = levels_of(config, choices) if config.unit == "cmru" else None
    if not on_integrator(config, choices):
        return signed_bank(builder, layer, x, levels)
    if levels is None:
        return integrator(builder, layer, x, config.rails or 0.0)
    packet = float(builder.scaled[f"layers.{layer}.unit.gain"].max())
    return integrator(builder, layer, x, levels * packet, packet)


def _projection(builder: Builder) -> None:
    choices = builder.choices
    names: tuple[tuple[str, Polarity, int], ...] = (
        ("projection_pos", "p", builder.row_units("projection_pos", choices.copy_units)),
        ("projection_neg", "n", builder.row_units("projection_neg")),
    )
    if choices.boundary == "core":
        for name, polarity, diode in names:
            builder.input(name, len(builder.scaled["projection.bias"]), polarity, diode)
        return
    inputs = ("input_pos", "input_neg")
    for name in inputs:
        size = builder.scaled["projection.weight"].shape[1]
        builder.input(name, size, "n", builder.row_units(name))
    units, trained = builder.quantized("projection", inputs)
    bias = builder.bias("projection.bias", tuple(name for name, _, _ in names))
    for (name, polarity, diode), sign in zip(names, (1, -1), strict=True):
        terms = (
            Term("input_pos", sign * units, sign * trained),
            Term("input_neg", -sign * units, -sign * trained),
        )
        builder.nodes(name, polarity, diode, terms, sign * bias)


def _readout(builder: Builder, stream: dict[str, int], subtract: bool) -> list[str]:
    """The readout; returns the output stages."""
    choices = builder.choices
    core = choices.boundary == "core"
    builder.sums("readout_x", "n", builder.row_units("readout_x"), stream, read=core)
    if core:
        if not subtract:
            return ["readout_x"]
        builder.sums("readout_neg", "p", builder.row_units("readout_neg"), {"projection_neg": 1}, read=True)
        return ["readout_x", "readout_neg"]
    outputs = ["readout_pos", "readout_neg"]
    taken = ("readout_x", "projection_neg") if subtract else ("readout_x",)
    units, trained = builder.quantized("readout", taken)
    bias = builder.bias("readout.bias", tuple(outputs))
    for name, sign in zip(outputs, (1, -1), strict=True):
        terms = [Term("readout_x", np.maximum(sign * units, 0), sign * trained)]
        if subtract:
            terms.append(Term("projection_neg", np.maximum(-sign * units, 0), -sign * trained))
        diode = builder.row_units(name)
        builder.nodes(name, "p", diode, tuple(terms), np.maximum(sign * bias, 0.0), read=True)
    return outputs


def _rest_points(
    weights: Weights, config: NetworkConfig, choices: MappingConfig
) -> Iterator[tuple[Array, list[Array]]]:
    """Candidates of each layer (model units) when the input rests at zero, and their thresholds.

    The layers before are at the state that the rest itself brings about.
    """
    x = weights["projection.bias"]
    for layer in range(config.num_layers):
        unit, output = f"layers.{layer}.unit", f"layers.{layer}.output"
        if config.unit == "fq_bmru":
            rested = weights[f"{unit}.candidate.weight"] @ np.maximum(x, 0.0)
            c = np.maximum(rested + weights[f"{unit}.candidate.bias"], 0.0)
            low = weights[f"{unit}.threshold_low"]
            high = low + weights[f"{unit}.width"]
            yield c, [low, high]
            h = weights[f"{unit}.gain"] * (c >= high)
        else:
            c = weights[f"{unit}.candidate.weight"] @ x + weights[f"{unit}.candidate.bias"]
            beta = (
                np.abs(weights[f"{unit}.threshold"])
                if f"{unit}.threshold" in weights
                else np.abs(weights[f"{unit}.threshold.weight"] @ x + weights[f"{unit}.threshold.bias"])
            )
            yield c, [beta, -beta]
            reach = {"bmru": 1.0, "alpha_cmru": config.rails or 0.0}.get(config.unit)
            reach = float(levels_of(config, choices)) if reach is None else reach
            held = np.where(np.abs(c) >= beta, np.sign(c) * reach, weights[f"{unit}.initial_state"])
            h = weights.get(f"{unit}.gain", 1.0) * held
        y = np.maximum(weights[f"{output}.weight"] @ h + weights[f"{output}.bias"], 0.0)
        x = x + y if config.skip else y


def _note_rest(
    report: MappingReport, unit: str, rest: tuple[Array, list[Array]], unit_current: float, margin: float
) -> None:
    """Report candidates that rest closer than `margin` (A) to a threshold."""
    candidates, thresholds = rest
    for i, candidate in enumerate(candidates * unit_current):
        for threshold in unit_current * np.unique([one[i] for one in thresholds]):
            distance = float(abs(candidate - threshold))
            report.smallest_rest_margin = min(report.smallest_rest_margin, distance)
            if distance < margin:
                report.rest_points.append(RestPoint(unit, [i], float(candidate), float(threshold)))
