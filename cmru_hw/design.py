"""What is to be built: stages of primitives in signal order, in SI units. Immutable; saves and loads equal.

A `Design` knows how model inputs become currents (`encode`) and currents become logits (`decode`); the
behavioural model and the SPICE netlist are both read off its stages.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from cmru_hw.config import Strict, read_yaml, to_yaml, validate, write_atomically
from cmru_hw.errors import ConfigError, MappingError
from cmru_hw.primitives.clock import BankClock
from cmru_hw.primitives.comparator import WindowComparator
from cmru_hw.primitives.device import Array, DeviceArray
from cmru_hw.primitives.integrator import Integrator
from cmru_hw.primitives.latch import Latch
from cmru_hw.primitives.latch_bank import LatchBank
from cmru_hw.primitives.mirror import Input, Mirror, Term
from cmru_hw.primitives.signal import Decider, Memory, Signal, block_of, devices_of
from cmru_hw.technology import TYPICAL, Polarity, Technology, load_technology

Stage = Input | Mirror | Latch | WindowComparator | LatchBank | Integrator
Pool = Literal["mean", "last", "vote"]
Boundary = Literal["full", "core"]
Decisions = NDArray[np.int64]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""A word that is safe in a netlist."""
T = TypeVar("T")


class Facts(Strict):
    """What a design is, besides its stages. SI units."""

    technology: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$")]  # a name or a folder; one line
    unit: Name  # the recurrent unit, as in network.yaml
    boundary: Boundary  # full: input currents to logit currents; core: the recurrent layers alone
    pool: Pool
    num_classes: Annotated[int, Field(ge=1)]
    input_size: Annotated[int, Field(ge=1)]
    unit_current: Annotated[float, Field(gt=0)]  # A for one model unit
    logit_scale: Annotated[float, Field(gt=0)]  # output current of one logit, in units of unit_current
    quiescent_current: Annotated[float, Field(ge=0)]  # A added to both currents of an input pair
    frame_period: Annotated[float, Field(gt=0)]  # s
    ramp: Annotated[float, Field(gt=0)]  # s, in which inputs move to a new frame's value
    supply: Annotated[float, Field(gt=0, le=10)]  # V
    temperature_celsius: float
    corner: str = TYPICAL  # of the process
    unit_area: Annotated[float, Field(gt=0)] = 1.0  # W L of the unit transistor over the card's
    latch_units: Annotated[int, Field(ge=1)] | None = None  # for each current of a latch; default: the card's
    inputs: Annotated[list[str], Field(min_length=2, max_length=2)]  # positive and negative input stage
    outputs: Annotated[
        list[str], Field(min_length=1)
    ]  # names of the positive and (where x can be negative) the negative output stage
    states: list[str]  # names of the stages that hold the state, by layer

    @model_validator(mode="after")
    def _ramp_fits_the_frame(self) -> Self:
        if not self.ramp < self.frame_period:
            raise ValueError(f"ramp must be shorter than frame_period, {self.frame_period:g} s")
        return self


@dataclass(frozen=True, eq=False)
class Design:
    """`facts`, the `stages` in signal order, and for the core boundary the matrices left to software."""

    facts: Facts
    stages: tuple[Stage, ...]
    software: dict[str, Array] = field(default_factory=dict)  # projection/readout weight and bias, float64

    def __post_init__(self) -> None:
        seen: dict[str, Signal] = {}
        for stage in self.stages:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", stage.name) or stage.name in seen:
                raise ConfigError(f"design: stage name {stage.name!r} is not a plain new name")
            for name, size in stage.taken():
                if name not in seen:
                    raise ConfigError(f"design: stage {stage.name} takes {name!r}, which is not before it")
                if size != seen[name].size:
                    raise ConfigError(
                        f"design: stage {stage.name} takes {size} of {name!r}, which has {seen[name].size}"
                    )
            seen[stage.name] = stage
        for stage in self.stages:
            if isinstance(stage, LatchBank | Integrator) and stage.clock not in self.clocks:
                raise ConfigError(f"design: stage {stage.name}: no comparator has the clock {stage.clock!r}")
        facts = self.facts
        for kind, names in ((Input, facts.inputs), (Signal, facts.outputs), (Memory, facts.states)):
            for name in names:
                if not isinstance(seen.get(name), kind):
                    raise ConfigError(f"design: there is no {kind.__name__.lower()} stage called {name!r}")

    @cached_property
    def technology(self) -> Technology:
        """The technology card at the design's supply and temperature, with its sizes."""
        facts = self.facts
        return load_technology(facts.technology).at(
            facts.temperature_celsius, facts.supply, facts.corner,
            unit_area=facts.unit_area, latch_units=facts.latch_units,
        )  # fmt: skip

    def at(
        self, celsius: float | None = None, supply: float | None = None, corner: str | None = None
    ) -> Design:
        """The same circuit and currents at another temperature (degrees Celsius), supply (V) or corner.

        Raises ConfigError or MappingError where the technology was not characterised.
        """
        facts = self.facts
        changes = {
            "temperature_celsius": facts.temperature_celsius if celsius is None else celsius,
            "supply": facts.supply if supply is None else supply,
            "corner": facts.corner if corner is None else corner,
        }
        there = facts.model_copy(update=changes)
        found = self if there == facts else replace(self, facts=there)
        for memory in found.memories:
            memory.check_measured(found.technology)
        return found

    @cached_property
    def signals(self) -> dict[str, Stage]:
        """Stages by name."""
        return {stage.name: stage for stage in self.stages}

    @property
    def memories(self) -> list[Memory]:
        """The stages that hold the state, by layer."""
        found = (self.signals[name] for name in self.facts.states)
        return [stage for stage in found if isinstance(stage, Memory)]

    @property
    def deciders(self) -> list[Decider]:
        """The stages that move the state, by layer."""
        found = (self.signals[memory.decider] for memory in self.memories)
        return [stage for stage in found if isinstance(stage, Decider)]

    def thresholds(self, layer: int, values: Mapping[str, Array]) -> tuple[Array, Array]:
        """Upper and lower threshold (A) of a layer of the nominal design, [..., N] each.

        `values` are the currents of the rows that the thresholds follow, where they follow the input.
        """
        decider = self.deciders[layer]
        return decider.thresholds(decider.currents(self.signals, {}, self.technology), values)

    @cached_property
    def clocks(self) -> dict[str, BankClock]:
        """Clocks by name, one a clocked layer, in the layers' order; none if no layer is clocked."""
        deciding = (stage for stage in self.stages if isinstance(stage, WindowComparator))
        names = list(dict.fromkeys(stage.clock for stage in deciding))
        copying = any(isinstance(stage, Integrator) for stage in self.stages)
        return {
            name: BankClock.for_layer(self.facts.frame_period, layer, len(names), copying)
            for layer, name in enumerate(names)
        }

    def named(self, by_stage: Mapping[str, T]) -> Mapping[str, T]:
        """A mapping by stage, checked. Raises ConfigError for a stage that the design does not have."""
        if unknown := sorted(set(by_stage) - set(self.signals)):
            raise ConfigError(f"design: there is no stage called {unknown[0]!r}")
        return by_stage

    def devices(self) -> dict[str, DeviceArray]:
        """Every transistor, as `{stage}.{part}`; the one list that mismatch, area and count are made from."""
        return devices_of(self.stages, self.technology)

    @property
    def transistors(self) -> int:
        """Unit transistors in all."""
        return sum(array.count for array in self.devices().values())

    @property
    def area(self) -> float:
        """Active area in m^2: W L of every transistor, no layout."""
        return sum(array.area for array in self.devices().values())

    def encode(self, x: Array) -> dict[str, Array]:
        """Input currents (A) by input stage, [..., T, n], from model inputs [..., T, I]."""
        facts = self.facts
        signed = x
        if facts.boundary == "core":
            signed = x @ self.software["projection.weight"].T + self.software["projection.bias"]
        current = signed * facts.unit_current
        positive, negative = facts.inputs
        return {
            positive: np.maximum(current, 0.0) + facts.quiescent_current,
            negative: np.maximum(-current, 0.0) + facts.quiescent_current,
        }

    def decode(self, values: Mapping[str, Array]) -> Array:
        """Logits [..., C] from the currents (A) of the output stages."""
        currents = [values[name] for name in self.facts.outputs]
        value = (currents[0] - sum(currents[1:])) / (self.facts.unit_current * self.facts.logit_scale)
        if self.facts.boundary == "core":
            return value @ self.software["readout.weight"].T + self.software["readout.bias"]
        return value

    def save(self, folder: Path) -> None:
        """Write `design.yaml` and `design.safetensors`."""
        text, tensors = self._content()
        write_atomically(folder / "design.safetensors", tensors)
        write_atomically(folder / "design.yaml", text)

    def to_table(self) -> list[dict[str, str | int | float | None]]:
        """A row for every transistor that is there, as plain values.

        Keys: `block`, `instance` (the stage), `primitive`, `device`, `polarity`, `w_um`, `l_um`, `units` (in
        parallel); of a weight what was `trained` and what it was `mapped` to; `current_a` of a branch whose
        current is constant. None where there is no such value.
        """
        rows: list[dict[str, str | int | float | None]] = []
        for stage in self.stages:
            constant = _constant_currents(stage, self.technology)
            weights = _weights(stage, self.signals)
            for part, array in stage.devices(self.technology).items():
                for index, units in np.ndenumerate(array.units):
                    if not units:
                        continue
                    trained, mapped = (
                        (float(of[index]) for of in weights[part]) if part in weights else (None,) * 2
                    )
                    rows.append(
                        {
                            "block": block_of(stage.name), "instance": stage.name, "primitive": stage.kind,
                            "device": f"{part}[{','.join(map(str, index))}]", "polarity": array.polarity,
                            "w_um": array.geometry.w_um, "l_um": array.geometry.l_um, "units": int(units),
                            "trained": trained, "mapped": mapped,
                            "current_a": float(constant[part][index]) if part in constant else None,
                        }
                    )  # fmt: skip
        return rows

    @property
    def fingerprint(self) -> str:
        """Short hash of the design and its technology card."""
        text, tensors = self._content()
        card = self.technology.model_dump_json() + self.technology.model_hash
        return hashlib.sha256(text.encode() + tensors + card.encode()).hexdigest()[:16]

    def _content(self) -> tuple[str, bytes]:
        arrays: dict[str, NDArray[Any]] = {f"software.{k}": v for k, v in self.software.items()}
        structure = [_dump_stage(stage, arrays) for stage in self.stages]
        content = {
            "transistors": self.transistors,
            "area_m2": float(f"{self.area:.6g}"),
            "facts": self.facts.model_dump(),
            "stages": structure,
        }
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return to_yaml(content), save_tensors(contiguous)


def _weights(stage: Stage, signals: Mapping[str, Stage]) -> dict[str, tuple[Array, Array]]:
    """Trained and mapped weights by part, of the transistors that make them."""
    if not isinstance(stage, Mirror):
        return {}
    return {
        stage.part(term, positive): (term.trained, term.units / signals[term.source].diode_units)
        for term in stage.terms
        for positive in (True, False)
    }


def _constant_currents(stage: Stage, technology: Technology) -> dict[str, Array]:
    """Currents (A) of references and of what repeats them, by part."""
    if isinstance(stage, Mirror):
        bias = np.abs(stage.bias)
        parts = [name for name in stage.devices(technology) if name.startswith("bias")]
        return dict.fromkeys(parts, bias)
    if isinstance(stage, Latch):
        programmed = {"threshold": stage.i_threshold, "width": stage.i_width, "gain": stage.i_gain}
        return {f"reference_{name}": current for name, current in programmed.items()}
    if isinstance(stage, WindowComparator) and not stage.threshold_signal:
        return {"diode": stage.i_threshold}
    return {}


def load_design(folder: Path) -> Design:
    """The design saved in a folder. Raises ConfigError naming the file and what is wrong with it."""
    path = folder / "design.yaml"
    content = read_yaml(path)
    for key in ("facts", "stages"):
        if key not in content:
            raise ConfigError(f"{path}: {key}: missing")
    facts = validate(Facts, content["facts"], path)
    load_technology(facts.technology)  # an unknown one is refused here, not in the middle of a run
    tensors_path = folder / "design.safetensors"
    try:
        arrays = load_tensors(tensors_path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{tensors_path}: cannot be read: {error.strerror}") from error
    except (SafetensorError, ValueError) as error:
        raise ConfigError(f"{tensors_path}: not a safetensors file: {error}") from error
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ConfigError(f"{tensors_path}: {name}: holds NaN or infinity")
    if not isinstance(content["stages"], list):
        raise ConfigError(f"{path}: stages: must be a list, got {type(content['stages']).__name__}")
    stages = tuple(
        _load_stage(entry, arrays, f"{path}: stages.{n}") for n, entry in enumerate(content["stages"])
    )
    prefix = "software."
    software = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
    design = Design(facts, stages, software)
    if facts.boundary == "core":
        hidden = design.signals[facts.inputs[0]].size
        for name, out, n in (
            ("projection", hidden, facts.input_size),
            ("readout", facts.num_classes, hidden),
        ):
            _array(arrays, f"{prefix}{name}.weight", (out, n), "f", path)
            _array(arrays, f"{prefix}{name}.bias", (out,), "f", path)
    return design


class _SignalEntry(Strict):
    """A stage in design.yaml; its arrays are in design.safetensors."""

    kind: str
    name: Name
    polarity: Polarity
    diode_units: Annotated[int, Field(ge=1)]


class _MirrorEntry(_SignalEntry):
    terms: list[Name]
    bias_units: Annotated[int, Field(ge=1)]
    read: bool


class _LatchEntry(_SignalEntry):
    candidate: Name
    capacitance: Annotated[float, Field(ge=0)]
    holds: Literal["bit", "sign"] = "bit"
    read: bool


class _ComparatorEntry(_SignalEntry):
    positive: Name
    negative: Name
    threshold_signal: Name | None
    clock: Name


class _LatchBankEntry(_SignalEntry):
    comparator: Name
    holds: Literal["count", "sign", "bit"]
    levels: int
    clock: Name
    read: bool


class _IntegratorEntry(_SignalEntry):
    comparator: Name
    amplitude_signal: Name | None
    clock: Name
    state_current: Annotated[float, Field(gt=0)]


_KINDS: dict[str, tuple[type[Stage], type[_SignalEntry]]] = {
    Input.kind: (Input, _SignalEntry),
    Mirror.kind: (Mirror, _MirrorEntry),
    Latch.kind: (Latch, _LatchEntry),
    WindowComparator.kind: (WindowComparator, _ComparatorEntry),
    LatchBank.kind: (LatchBank, _LatchBankEntry),
    Integrator.kind: (Integrator, _IntegratorEntry),
}
_WHOLE = ("copied", "initial_state")
_NOT_NEGATIVE = ("i_threshold", "i_width", "i_gain", "i_alpha", "i_packet", "rails")


def _dump_stage(stage: Stage, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """A stage as YAML values; its arrays go to `arrays` under `{stage}.{field}`."""
    entry: dict[str, Any] = {"kind": stage.kind}
    for name in (each.name for each in fields(stage)):
        value = getattr(stage, name)
        if name == "terms":
            entry["terms"] = [term.source for term in value]
            for term in value:
                arrays[f"{stage.name}.{term.source}.units"] = term.units
                arrays[f"{stage.name}.{term.source}.trained"] = term.trained
        elif isinstance(value, np.ndarray):
            arrays[f"{stage.name}.{name}"] = value
        else:
            entry[name] = value
    return entry


def _load_stage(content: Any, arrays: Mapping[str, NDArray[Any]], where: str) -> Stage:
    kind = content.get("kind") if isinstance(content, dict) else None
    if kind not in _KINDS:
        raise ConfigError(f"{where}: kind: must be one of {', '.join(_KINDS)}, got {kind!r}")
    cls, model = _KINDS[kind]
    entry = validate(model, content, where).model_dump(exclude={"kind"})
    name = entry["name"]
    size = len(_array(arrays, f"{name}.copied", (None,), "i", where))
    if "terms" in entry:
        entry["terms"] = tuple(
            Term(
                source,
                _array(arrays, f"{name}.{source}.units", (size, None), "i", where),
                _array(arrays, f"{name}.{source}.trained", (size, None), "f", where),
            )
            for source in entry["terms"]
        )
        if any(term.units.shape != term.trained.shape for term in entry["terms"]):
            raise ConfigError(f"{where}: {name}: units and trained weights must have one shape")
    for field_name in (each.name for each in fields(cls)):
        if field_name not in entry:
            whole = "i" if field_name in _WHOLE else "f"
            array = _array(arrays, f"{name}.{field_name}", (size,), whole, where)
            bits = field_name == "copied" or (cls is Latch and field_name == "initial_state")
            if bits and not np.isin(array, (0, 1)).all():
                raise ConfigError(f"{where}: {name}.{field_name}: must be 0 or 1")
            if field_name in _NOT_NEGATIVE and (array < 0).any():
                raise ConfigError(f"{where}: {name}.{field_name}: must be >= 0")
            entry[field_name] = array
    try:
        return cls(**entry)
    except MappingError as error:
        raise ConfigError(f"{where}: {error}") from error


def _array(
    arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int | None, ...], kind: str, where: str | Path
) -> NDArray[Any]:
    """An array of the design's, of this shape (None: any length) and kind of number."""
    array = arrays.get(name)
    if array is None:
        raise ConfigError(f"{where}: {name}: missing from design.safetensors")
    fits = len(array.shape) == len(shape) and all(
        n in (None, m) for n, m in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype.kind != kind:
        wanted = ["any" if n is None else n for n in shape]
        number = "integers" if kind == "i" else "real numbers"
        raise ConfigError(
            f"{where}: {name}: must be {number} of shape {wanted}, got {array.dtype} {list(array.shape)}"
        )
    return array


class Pooled:
    """Frame logits pooled as they come: [..., B, C] a frame; ties go to the lowest class."""

    def __init__(self, pool: Pool, lengths: Decisions) -> None:
        self._pool, self._lengths = pool, lengths
        self._frames = np.ones(len(lengths)) if pool == "last" else lengths
        self._scores: Array | float = 0.0

    def add(self, t: int, logits: Array) -> None:
        """Take frame t in, for those inputs whose length it is within."""
        counts = self._lengths == t + 1 if self._pool == "last" else t < self._lengths
        if self._pool == "vote":
            logits = np.eye(logits.shape[-1])[np.argmax(logits, axis=-1)]
        self._scores = self._scores + np.where(counts[:, None], logits, 0.0)

    @property
    def decision(self) -> Decisions:
        """The winning class, [..., B]."""
        return np.argmax(self._scores, axis=-1)

    def margins(self, labels: Decisions) -> Array:
        """Score of the right class less the best other, a frame, [..., B]: >= 0 where the decision is right.

        Below 0 where it is wrong, by the smallest number where a tie was lost.
        """
        scores = np.asarray(self._scores)
        right = np.arange(scores.shape[-1]) == labels[:, None]
        own = np.where(right, scores, 0.0).sum(axis=-1)
        lead = (own - np.where(right, -np.inf, scores).max(axis=-1)) / self._frames
        won = self.decision == labels
        return np.where(won, np.maximum(lead, 0.0), np.minimum(lead, -np.finfo(np.float64).tiny))
