"""The circuit that a network becomes, as lists: rows of currents, the sums between them, the cells.

The same stages, parts and sizes as `map_network` makes on the unit's default memory, so that training meets
what robustness measures. Names are those of the design; nothing here depends on the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cmru_hw.errors import ConfigError, MappingError
from cmru_hw.nn.network_config import NetworkConfig
from cmru_hw.primitives.clock import BankClock
from cmru_hw.primitives.comparator import HALVES, comparator_geometry
from cmru_hw.primitives.integrator import HIGH, LOW, MIDDLE, integrator_geometry, output_units
from cmru_hw.primitives.latch_bank import BANK_UNITS
from cmru_hw.primitives.signal import chosen_units
from cmru_hw.technology import Geometry, Polarity, Technology

HALF_WAVE_UNITS = 2


@dataclass(frozen=True)
class Planned:
    """What is planned to be built: keys of the `mapping` section that sizes follow from, in its units."""

    units: int = 16
    copy_units: int = 8
    bias_units: int = 4
    rows: Mapping[str, int] = field(default_factory=dict)
    unit_current: float = 1e-9
    quiescent_current: float = 3e-11
    frame_period: float = 1e-2


@dataclass(frozen=True)
class Row:
    """A row of `size` diodes of `diode` unit transistors each; `weight` on their gates make a weight of 1."""

    name: str
    polarity: Polarity
    size: int
    diode: int
    weight: int
    free: bool = False  # whether its diodes' number is the mapping's choice, row by row

    @property
    def other(self) -> Polarity:
        return "n" if self.polarity == "p" else "p"


@dataclass(frozen=True)
class Sums:
    """Rows relu(sum of sources): by a matrix `tensor`.weight with a bias, or 1:1 where it is none.

    `signs` [rows][sources]. With `split`, what is positive goes to a row and the rest to none.
    """

    rows: tuple[str, ...]
    sources: tuple[str, ...]
    signs: tuple[tuple[int, ...], ...]
    tensor: str | None = None
    split: bool = False


@dataclass(frozen=True)
class Part:
    """Transistors of the cells of a layer, `{stage}.{part}`; `area_um2` is W L M of one.

    `sized` says whether they follow the area of the unit transistor, `cell` whether they are units of a
    latch's or comparator's currents, whose number may be planned otherwise too.
    """

    name: str
    shape: tuple[int, ...]
    polarity: Polarity
    area_um2: float
    sized: bool
    cell: bool


@dataclass
class Circuit:
    """Rows, sums and cells in signal order."""

    rows: dict[str, Row] = field(default_factory=dict)
    sums: dict[str, Sums] = field(default_factory=dict)  # by the first of their rows
    parts: list[Part] = field(default_factory=list)
    layers: int = 0


def circuit_of(config: NetworkConfig, planned: Planned, technology: Technology) -> Circuit:
    """The circuit of a network on its default memory. Raises ConfigError for one without."""
    if config.unit not in ("fq_bmru", "bmru", "cmru", "alpha_cmru"):
        raise ConfigError(
            f"training.hardware_noise: network.unit {config.unit} has no circuit; "
            "fq_bmru, bmru, cmru and alpha_cmru have one"
        )
    for name, off in (("norm", "none"), ("glu", False), ("dropout", 0.0)):
        if getattr(config, name) != off:
            raise ConfigError(f"training.hardware_noise: network.{name}: must be {off} for hardware")
    for unit, name in (("cmru", "levels"), ("alpha_cmru", "rails")):
        if config.unit == unit and getattr(config, name) is None:
            raise ConfigError(f"training.hardware_noise: network.{name}: missing; a circuit saturates there")
    try:
        return _Builder(config, planned, technology).build()
    except MappingError as error:
        raise ConfigError(f"training.hardware_noise: {error}") from error


class _Builder:
    def __init__(self, config: NetworkConfig, planned: Planned, technology: Technology) -> None:
        self.config, self.planned, self.technology = config, planned, technology
        self.made = Circuit(layers=config.num_layers)

    def build(self) -> Circuit:
        config, units, copy_units = self.config, self.planned.units, self.planned.copy_units
        for name in ("input_pos", "input_neg"):
            self.row(name, "n", config.input_size, units, free=True)
        self.row("projection_pos", "p", config.model_size, copy_units, free=True)
        self.row("projection_neg", "n", config.model_size, units, free=True)
        inputs = ("input_pos", "input_neg")
        self.sums(("projection_pos", "projection_neg"), inputs, ((1, -1), (-1, 1)), "projection")
        stream, subtract = {"projection_pos": 1}, True
        for layer in range(config.num_layers):
            source = self.layer(layer, stream, subtract)
            y = f"layer{layer}_y"
            self.row(y, "p", config.model_size, copy_units, free=True)
            self.sums((y,), (source,), ((1,),), f"layers.{layer}.output")
            stream, subtract = ({**stream, y: 1}, True) if config.skip else ({y: 1}, False)
        self.mirrored("readout_x", "n", units, stream, free=True)
        names = ("readout_pos", "readout_neg")
        for name in names:
            self.row(name, "p", config.num_classes, units, free=True)
        sources = {"readout_x": 1} | ({"projection_neg": -1} if subtract else {})
        self.pair(names, sources, "readout")
        return self.made

    def layer(self, layer: int, stream: dict[str, int], subtract: bool) -> str:
        """Rows and cells of a layer; the name of the row that tells the state."""
        prefix, unit, units = f"layer{layer}", f"layers.{layer}.unit", self.planned.units
        size, latch_units = self.config.hidden_size, self.technology.latch_units
        signs = {**stream, **({"projection_neg": -1} if subtract else {})}
        self.mirrored(f"{prefix}_x", "n", units, signs, free=True)
        x = {f"{prefix}_x": 1}
        if self.config.unit == "fq_bmru":
            candidate, latch = f"{prefix}_candidate", f"{prefix}_latch"
            self.row(candidate, "p", size, latch_units)
            self.sums((candidate,), tuple(x), ((1,),), f"{unit}.candidate")
            for part in ("m1", "m7", "m9"):
                self.part(latch, part, "p", latch_units)
            for part in ("m2", "m5", "m8", "reference_threshold", "reference_width", "reference_gain"):
                self.part(latch, part, "n", latch_units)
            self.part(latch, "m6", "n", self.technology.switch)
            self.row(latch, "p", size, units, free=True)
            return latch
        if subtract:
            below = {row: -sign for row, sign in signs.items()}
            self.mirrored(f"{prefix}_below", "p", units, below, free=True)
            x[f"{prefix}_below"] = -1
        self.window(layer, x)
        return self.integrator(layer, x) if self.config.unit == "alpha_cmru" else self.bank(layer)

    def window(self, layer: int, x: dict[str, int]) -> None:
        """Candidate pair, threshold and comparators."""
        prefix, unit, size = f"layer{layer}", f"layers.{layer}.unit", self.config.hidden_size
        latch_units, comparator = self.technology.latch_units, f"{prefix}_comparator"
        self.matched(f"{prefix}_candidate", f"{unit}.candidate", x)
        if self.config.input_dependent_threshold:
            self.matched(f"{prefix}_threshold", f"{unit}.threshold", x)
            self.rectifier(f"{prefix}_beta", f"{prefix}_threshold", latch_units)
        else:
            self.row(comparator, "p", size, latch_units)
        for part in ("win", "lose", "threshold"):
            self.part(comparator, part, "p", latch_units, (size, len(HALVES)))
        for part in ("pair_out", "pair_rest"):
            pair = comparator_geometry(self.technology).pair
            self.part(comparator, part, "n", pair, (size, len(HALVES)))

    def bank(self, layer: int) -> str:
        name, size, latch_units = f"layer{layer}_bank", self.config.hidden_size, self.technology.latch_units
        single = self.config.levels is None
        latches, step = (1, 2) if single else (2 * (self.config.levels or 0), 1)
        self.part(name, "alpha", "n", step * latch_units, (size, latches))
        self.part(name, "reference_alpha", "n", latch_units)
        self.row(name, "p", size, min(BANK_UNITS, self.planned.units), self.planned.units, free=True)
        return name

    def integrator(self, layer: int, x: dict[str, int]) -> str:
        """Amplitudes and integrators."""
        prefix, unit, planned = f"layer{layer}", f"layers.{layer}.unit", self.planned
        name, geometry = f"{prefix}_integrator", integrator_geometry(self.technology)
        clock = BankClock.for_layer(planned.frame_period, layer, self.config.num_layers, copying=True)
        rails, unit_current = self.config.rails or 0.0, planned.unit_current
        diode = output_units(rails, unit_current, planned.units, clock, self.technology)
        self.matched(f"{prefix}_amplitudes", f"{unit}.amplitude", x)
        wide = geometry.packet_units * planned.units // diode
        self.rectifier(f"{prefix}_amplitude", f"{prefix}_amplitudes", wide)
        for part in ("packet_copy", "packet_push", "rails_under_push"):
            self.part(name, part, "p", geometry.packet_units)
        for part, units in (("memory_middle", MIDDLE), ("rails_high", HIGH), ("rails_low", LOW)):
            self.part(name, part, "p", units)
        self.part(name, "reference", "p", LOW)
        for part in ("packet_over", "rails_over"):
            self.part(name, part, "p", geometry.memory_p)
        for part in (
            "packet_sink", "packet_pull", "packet_under", "rails_over_sink", "rails_over_state",
            "rails_under_state", "rails_under", "memory_state", "memory_output",
        ):  # fmt: skip
            self.part(name, part, "n", geometry.memory_n)
        self.row(name, "p", self.config.hidden_size, diode, planned.units)
        return name

    def rectifier(self, name: str, pair: str, diode: int) -> None:
        """`{name}_above`, `{name}_below` and `name`, of `{pair}_pos` and `{pair}_neg`."""
        rows = {f"{name}_above": 1, f"{name}_below": -1}
        for row, sign in rows.items():
            self.mirrored(row, "n", HALF_WAVE_UNITS, {f"{pair}_pos": sign, f"{pair}_neg": -sign})
        self.mirrored(name, "p", diode, dict.fromkeys(rows, 1))

    def matched(self, name: str, tensor: str, x: dict[str, int]) -> None:
        """The rows `{name}_pos` and `{name}_neg`, whose difference is W x + b."""
        names = f"{name}_pos", f"{name}_neg"
        for one in names:
            self.row(one, "p", self.config.hidden_size, self.technology.latch_units)
        self.pair(names, x, tensor)

    def pair(self, names: tuple[str, str], x: dict[str, int], tensor: str) -> None:
        signs = tuple(tuple(side * sign for sign in x.values()) for side in (1, -1))
        self.sums(names, tuple(x), signs, tensor, split=True)

    def mirrored(
        self, name: str, polarity: Polarity, diode: int, signs: dict[str, int], free: bool = False
    ) -> None:
        """A row of sums of other rows 1:1."""
        self.row(name, polarity, self.made.rows[next(iter(signs))].size, diode, free=free)
        self.sums((name,), tuple(signs), (tuple(signs.values()),))

    def row(
        self, name: str, polarity: Polarity, size: int, diode: int, weight: int | None = None,
        free: bool = False,
    ) -> None:  # fmt: skip
        """A row of diodes of so many units, or where it is `free` of as many as the plan says."""
        if free:
            diode = chosen_units(self.planned.rows, name, diode)
        self.made.rows[name] = Row(name, polarity, size, diode, diode if weight is None else weight, free)

    def sums(
        self, rows: tuple[str, ...], sources: tuple[str, ...], signs: tuple[tuple[int, ...], ...],
        tensor: str | None = None, split: bool = False,
    ) -> None:  # fmt: skip
        self.made.sums[rows[0]] = Sums(rows, sources, signs, tensor, split)

    def part(
        self, stage: str, part: str, polarity: Polarity, size: int | Geometry,
        shape: tuple[int, ...] | None = None,
    ) -> None:  # fmt: skip
        """Transistors of so many units, or of a geometry of their own."""
        sized, cell = isinstance(size, int) or size == self.technology.switch, isinstance(size, int)
        geometry, units = (self.technology.unit, size) if isinstance(size, int) else (size, 1)
        area = geometry.w_um * geometry.l_um * units
        shape = shape or (self.config.hidden_size,)
        self.made.parts.append(Part(f"{stage}.{part}", shape, polarity, area, sized, cell))
