"""A trained FQ-BMRU network to a design: whole unit transistors, bias currents, pre-distorted latches.

Signed signals are pairs of currents. With x_0 = P - N, N = relu(-x_0) is made once and P grows by y >= 0
from layer to layer; each layer takes relu(P - N). Node polarities alternate, so most contributions need
no extra mirror: candidates and ReLU outputs are pMOS diodes, the inputs of a matrix nMOS diodes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from cmru_hw.config import Strict, write_atomically
from cmru_hw.design import Boundary, Design, Facts, Stage
from cmru_hw.errors import MappingError
from cmru_hw.primitives.device import Array, Units
from cmru_hw.primitives.latch import Latch, calibration
from cmru_hw.primitives.mirror import Input, Mirror, Term
from cmru_hw.scaling import Weights, rescale, unit_counts
from cmru_hw.technology import Polarity, Technology

if TYPE_CHECKING:
    from cmru_hw.nn.network import Network, NetworkConfig


class MappingConfig(Strict):
    """Choices of the mapping."""

    boundary: Boundary = "full"
    units: Annotated[int, Field(ge=1, le=256)] = 16  # unit transistors in a diode that weights divide by
    copy_units: Annotated[int, Field(ge=1, le=256)] = 8  # in a diode that is only copied 1:1
    bias_units: Annotated[int, Field(ge=1, le=256)] = 4  # in a bias current and in its reference
    unit_current: Annotated[float, Field(gt=0)] = 1e-9  # A for one model unit
    quiescent_current: Annotated[float, Field(ge=0)] = 3e-11  # A in both currents of an input pair
    frame_period: Annotated[float, Field(gt=0)] = 1e-2  # s
    ramp: Annotated[float, Field(gt=0)] = 1e-3  # s, in which inputs move to a frame's values
    strict: bool = False  # refuse what would have to be clipped

    @model_validator(mode="after")
    def _ramp_fits_the_frame(self) -> Self:
        if not self.ramp < self.frame_period:
            raise ValueError(f"ramp must be shorter than frame_period, {self.frame_period:g} s")
        return self


@dataclass(frozen=True)
class Clip:
    """A trained value that the circuit cannot have, and what is built instead (model units)."""

    tensor: str
    index: list[int]
    trained: float
    built: float
    reason: str


@dataclass(frozen=True)
class RestPoint:
    """A candidate that rests, with no input, closer to a threshold than the technology's margin (A)."""

    tensor: str
    index: list[int]
    candidate: float
    threshold: float


@dataclass
class MappingReport:
    """What mapping found out; `save` writes it as `mapping.json`."""

    transistors: int = 0
    transistors_by_stage: dict[str, int] = field(default_factory=dict)
    area_m2: float = 0.0
    unit_histogram: dict[int, int] = field(default_factory=dict)  # units in parallel: how many weights
    quantization_error: dict[str, float] = field(default_factory=dict)  # rms error / rms weight
    clipped: list[Clip] = field(default_factory=list)
    rest_points: list[RestPoint] = field(default_factory=list)
    smallest_rest_margin: float = float("inf")  # A

    def save(self, folder: Path) -> None:
        """Write `mapping.json`."""
        write_atomically(folder / "mapping.json", json.dumps(asdict(self), indent=1) + "\n")


def map_network(
    network: Network, technology: Technology, choices: MappingConfig | None = None
) -> tuple[Design, MappingReport]:
    """The design of a trained network and the report of what it cost.

    Raises MappingError, naming tensor and index, for what cannot be built: another unit, norms, GLU or
    dropout, a weight beyond the largest ratio, and with `strict` any value that would be clipped.
    """
    config, choices = network.config, choices or MappingConfig()
    check_mappable(config)
    weights = {name: value.detach().double().numpy() for name, value in network.state_dict().items()}
    core = choices.boundary == "core"
    scaled, logit_factor = rescale(weights, config.num_layers, choices.units, technology.largest_ratio)
    mapper = _Mapper(technology, choices, scaled, weights)
    stages = mapper.stages(config.num_layers, config.skip)
    facts = Facts(
        technology=technology.name, unit=config.unit, boundary=choices.boundary, pool=config.pool,
        num_classes=config.num_classes, input_size=config.input_size, unit_current=choices.unit_current,
        logit_scale=1.0 if core else logit_factor, quiescent_current=choices.quiescent_current,
        frame_period=choices.frame_period, ramp=choices.ramp, supply=technology.supply,
        inputs=[stage.name for stage in stages if isinstance(stage, Input)], outputs=mapper.outputs,
        states=[stage.name for stage in stages if isinstance(stage, Latch)],
    )  # fmt: skip
    software = {}
    if core:
        software = {
            f"{k}.{p}": scaled[f"{k}.{p}"] for k in ("projection", "readout") for p in ("weight", "bias")
        }
        software["readout.weight"] = software["readout.weight"] / logit_factor
        software["readout.bias"] = software["readout.bias"] / logit_factor
    design = Design(facts, stages, software)
    report = mapper.report
    for layer, rest in enumerate(_rest_candidates(scaled, config.num_layers, config.skip)):
        _note_rest(report, f"layers.{layer}.unit", rest, scaled, choices.unit_current, technology.rest_margin)
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


def check_mappable(config: NetworkConfig) -> None:
    """Raise MappingError, naming the key, for a network that has no circuit whatever its weights."""
    if config.unit != "fq_bmru":
        raise MappingError(f"network.yaml: unit {config.unit} has no circuit; fq_bmru has one")
    for name, off in (("norm", "none"), ("glu", False), ("dropout", 0.0), ("epsilon", 0.0)):
        if getattr(config, name) != off:
            raise MappingError(
                f"network.yaml: {name}: must be {off} for hardware, got {getattr(config, name)}"
            )


def _note_rest(
    report: MappingReport, unit: str, rest: Array, scaled: Weights, unit_current: float, margin: float
) -> None:
    """Report candidates that rest closer than `margin` (A) to a threshold."""
    low = scaled[f"{unit}.threshold_low"]
    for i, candidate in enumerate(rest * unit_current):
        for threshold in unit_current * np.unique([low[i], low[i] + scaled[f"{unit}.width"][i]]):
            distance = float(abs(candidate - threshold))
            report.smallest_rest_margin = min(report.smallest_rest_margin, distance)
            if distance < margin:
                report.rest_points.append(RestPoint(unit, [i], float(candidate), float(threshold)))


def equalize(network: Network, units: int, largest_ratio: float) -> None:
    """Rescale a network in place to its equivalent that rounds best; for quantisation-aware training."""
    import torch

    weights = {name: value.detach().double().numpy() for name, value in network.state_dict().items()}
    scaled, factor = rescale(weights, network.config.num_layers, units, largest_ratio)
    scaled["readout.weight"] /= factor
    scaled["readout.bias"] /= factor
    network.load_state_dict({name: torch.from_numpy(value).float() for name, value in scaled.items()})


class _Mapper:
    """Builds the stages in signal order, noting quantisation, clips and rest points on the way."""

    def __init__(
        self, technology: Technology, choices: MappingConfig, scaled: Weights, trained: Weights
    ) -> None:
        self.technology, self.choices = technology, choices
        self.scaled, self.trained = scaled, trained
        self.report = MappingReport()
        self.outputs: list[str] = []
        self._stages: list[Stage] = []
        self._diode_units: dict[str, int] = {}

    def stages(self, layers: int, skip: bool) -> tuple[Stage, ...]:
        """All stages, with the copies that they ask of one another."""
        self._projection()
        stream, subtract = ["projection_pos"], True  # x = sum of the stream - projection_neg
        for layer in range(layers):
            prefix = f"layer{layer}"
            self._nodes(f"{prefix}_x", "n", self.choices.units, self._sum(stream, subtract))
            self._matrix(
                f"{prefix}_candidate", self.technology.latch_units, f"{prefix}_x",
                f"layers.{layer}.unit.candidate", read=True,
            )  # fmt: skip
            self._latch(layer)
            self._matrix(f"{prefix}_y", self.choices.copy_units, f"{prefix}_latch", f"layers.{layer}.output")
            stream, subtract = ([*stream, f"{prefix}_y"], True) if skip else ([f"{prefix}_y"], False)
        self._readout(stream, subtract)
        return _with_copies(self._stages)

    def _projection(self) -> None:
        names: tuple[tuple[str, Polarity, int], ...] = (
            ("projection_pos", "p", self.choices.copy_units),
            ("projection_neg", "n", self.choices.units),
        )
        if self.choices.boundary == "core":
            for name, polarity, diode in names:
                self._input(name, len(self.scaled["projection.bias"]), polarity, diode)
            return
        units, trained = self._quantized("projection")
        bias = self._bias("projection.bias")
        for name in ("input_pos", "input_neg"):
            self._input(name, units.shape[1], "n", self.choices.units)
        for (name, polarity, diode), sign in zip(names, (1, -1), strict=True):
            terms = (
                Term("input_pos", sign * units, sign * trained),
                Term("input_neg", -sign * units, -sign * trained),
            )
            self._nodes(name, polarity, diode, terms, sign * bias)

    def _readout(self, stream: list[str], subtract: bool) -> None:
        core = self.choices.boundary == "core"
        self._nodes("readout_x", "n", self.choices.units, self._sum(stream, False), read=core)
        if core:
            self.outputs = ["readout_x"]
            if subtract:
                self._nodes(
                    "readout_neg", "p", self.choices.units, self._sum(["projection_neg"], False), read=True
                )
                self.outputs.append("readout_neg")
            return
        units, trained = self._quantized("readout")
        bias = self._bias("readout.bias")
        self.outputs = ["readout_pos", "readout_neg"]
        for name, sign in zip(self.outputs, (1, -1), strict=True):
            terms = [Term("readout_x", np.maximum(sign * units, 0), sign * trained)]
            if subtract:
                terms.append(Term("projection_neg", np.maximum(-sign * units, 0), -sign * trained))
            self._nodes(name, "p", self.choices.units, tuple(terms), np.maximum(sign * bias, 0.0), read=True)

    def _latch(self, layer: int) -> None:
        """The latches of a layer, programmed so that they switch at the trained thresholds."""
        unit, choices, card = f"layers.{layer}.unit", self.choices, self.technology
        table = calibration(card)
        low, width, gain = (self.scaled[f"{unit}.{name}"] for name in ("threshold_low", "width", "gain"))
        i_threshold, i_width = np.empty_like(low), np.empty_like(low)
        largest = float(table.gain[-1])
        i_gain = table.programmed_gain(gain * choices.unit_current)
        for i in map(int, np.flatnonzero(i_gain > largest)):
            i_gain[i] = self._clip(f"{unit}.gain", i, largest, "largest characterised gain current")
        smallest, widest = table.upper_range()
        for i in range(len(low)):
            beta_lo, beta_hi = (choices.unit_current * v for v in (low[i], low[i] + width[i]))
            if 0 < beta_hi - beta_lo < card.smallest_hysteresis:
                self._clip(f"{unit}.width", i, 0.0, "narrower than the smallest hysteresis: a comparator")
                beta_hi = beta_lo = (beta_hi + beta_lo) / 2
            if not smallest <= beta_hi <= widest:
                nearest = min(max(beta_hi, smallest), widest)
                reason = "upper threshold outside the characterised range"
                if beta_lo > nearest:  # move both thresholds, keep the width as far as it goes
                    built = max(nearest - (beta_hi - beta_lo), 0.0)
                    beta_hi += self._clip(f"{unit}.threshold_low", i, built, reason) - beta_lo
                    beta_lo = built
                if abs(beta_hi - nearest) > 1e-9 * nearest:
                    self._clip(f"{unit}.width", i, nearest - beta_lo, reason)
                beta_hi = nearest
            if 0 < beta_lo < card.smallest_threshold and beta_lo < beta_hi:
                beta_lo = self._clip(f"{unit}.threshold_low", i, 0.0, "below leakage: never resets")
            i_threshold[i], i_width[i] = table.programmed(beta_hi, beta_lo)
        capacitances = card.latch_capacitance
        name = f"layer{layer}_latch"
        self._add(
            Latch(
                name=name, polarity="p", diode_units=choices.units, copied=_none(len(low)),
                candidate=f"layer{layer}_candidate", i_threshold=i_threshold, i_width=i_width, i_gain=i_gain,
                initial_state=self.scaled[f"{unit}.initial_state"].astype(np.int64),
                capacitance=capacitances[min(layer, len(capacitances) - 1)],
            )
        )  # fmt: skip

    def _clip(self, tensor: str, index: int, built: float, reason: str) -> float:
        """Note a value built as `built` (A) instead, or refuse it if strict."""
        trained = float(self.trained[tensor][index])
        factor = self.scaled[tensor][index] / trained if trained else 1.0
        model_units = float(built / (self.choices.unit_current * factor))
        if self.choices.strict:
            raise MappingError(f"{tensor}[{index}]: {trained:g} would become {model_units:g}: {reason}")
        self.report.clipped.append(Clip(tensor, [index], trained, model_units, reason))
        return built

    def _quantized(self, name: str) -> tuple[Units, Array]:
        """Whole units of a matrix, and its trained weights; notes the rounding error."""
        weight, trained = self.scaled[f"{name}.weight"], self.trained[f"{name}.weight"]
        largest = np.unravel_index(np.argmax(np.abs(weight)), weight.shape)
        if abs(weight[largest]) > self.technology.largest_ratio:
            index = [int(i) for i in largest]
            raise MappingError(
                f"{name}.weight{index}: {trained[largest]:g} needs a mirror ratio of "
                f"{abs(weight[largest]):.3g}, the largest is {self.technology.largest_ratio:g}"
            )
        units = unit_counts(weight, self.choices.units).astype(np.int64)
        error = units / self.choices.units - weight
        norm = float(np.sqrt(np.mean(weight**2)))
        self.report.quantization_error[f"{name}.weight"] = (
            float(np.sqrt(np.mean(error**2))) / norm if norm else 0.0
        )
        for count, number in zip(*np.unique(np.abs(units), return_counts=True), strict=True):
            histogram = self.report.unit_histogram
            histogram[int(count)] = histogram.get(int(count), 0) + int(number)
        return units, trained

    def _bias(self, name: str) -> Array:
        """Bias currents (A); refuses one that would leave its transistors out of weak inversion."""
        bias = self.scaled[name] * self.choices.unit_current
        largest = self.choices.bias_units * self.technology.largest_unit_current
        i = int(np.argmax(np.abs(bias)))
        if abs(bias[i]) > largest:
            raise MappingError(
                f"{name}[{i}]: {self.trained[name][i]:g} needs a bias current of {abs(bias[i]):.3g} A, "
                f"the largest is {largest:.3g} A"
            )
        return bias

    def _sum(self, stream: list[str], subtract: bool) -> tuple[Term, ...]:
        """Terms of stream - projection_neg, each taken 1:1."""
        names = [(name, 1) for name in stream] + ([("projection_neg", -1)] if subtract else [])
        eye = np.eye(len(self.scaled["projection.bias"]), dtype=np.int64)
        return tuple(
            Term(name, sign * self._diode_units[name] * eye, sign * np.eye(len(eye))) for name, sign in names
        )

    def _matrix(self, name: str, diode_units: int, source: str, tensor: str, read: bool = False) -> None:
        """A row of pMOS nodes: relu(W source + b)."""
        units, trained = self._quantized(tensor)
        bias = self._bias(f"{tensor}.bias")
        self._nodes(name, "p", diode_units, (Term(source, units, trained),), bias, read)

    def _nodes(
        self, name: str, polarity: Polarity, diode_units: int, terms: tuple[Term, ...],
        bias: Array | None = None, read: bool = False,
    ) -> None:  # fmt: skip
        size = len(terms[0].units)
        self._add(
            Mirror(
                name=name, polarity=polarity, diode_units=diode_units, copied=_none(size), terms=terms,
                bias=np.zeros(size) if bias is None else bias, bias_units=self.choices.bias_units, read=read,
            )
        )  # fmt: skip

    def _input(self, name: str, size: int, polarity: Polarity, diode_units: int) -> None:
        self._add(Input(name=name, polarity=polarity, diode_units=diode_units, copied=_none(size)))

    def _add(self, stage: Stage) -> None:
        self._stages.append(stage)
        self._diode_units[stage.name] = stage.diode_units


def _none(size: int) -> Units:
    return np.zeros(size, dtype=np.int64)


def _with_copies(stages: list[Stage]) -> tuple[Stage, ...]:
    """The stages, each with the copies (of the other polarity) that later stages take from it."""
    copied = {stage.name: stage.copied.copy() for stage in stages}
    polarity = {stage.name: stage.polarity for stage in stages}
    for stage in (stage for stage in stages if isinstance(stage, Mirror)):
        for term in stage.terms:
            for positive in (True, False):
                if stage.transistor_polarity(positive) != polarity[term.source]:
                    taken = (term.units > 0 if positive else term.units < 0).any(axis=0)
                    copied[term.source] |= taken.astype(np.int64)
    return tuple(replace(stage, copied=copied[stage.name]) for stage in stages)


def _rest_candidates(weights: Weights, layers: int, skip: bool) -> Iterator[Array]:
    """Candidates of each layer (model units) when the input rests at zero and all latches are low or set
    by the rest itself."""
    x = weights["projection.bias"]
    for layer in range(layers):
        unit, output = f"layers.{layer}.unit", f"layers.{layer}.output"
        rested = weights[f"{unit}.candidate.weight"] @ np.maximum(x, 0.0)
        candidate = np.maximum(rested + weights[f"{unit}.candidate.bias"], 0.0)
        yield candidate
        high = candidate >= weights[f"{unit}.threshold_low"] + weights[f"{unit}.width"]
        y = np.maximum(
            weights[f"{output}.weight"] @ (weights[f"{unit}.gain"] * high) + weights[f"{output}.bias"], 0.0
        )
        x = x + y if skip else y
