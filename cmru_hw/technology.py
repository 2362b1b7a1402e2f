"""A technology card: what a process offers, with units and sources, read from `circuits/technologies`.

>>> from cmru_hw.technology import load_technology
>>> load_technology("generic180").supply
0.8
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, model_validator

from cmru_hw.config import Strict, load, packaged, validate
from cmru_hw.errors import ConfigError, MappingError

BOLTZMANN_OVER_CHARGE = 1.380649e-23 / 1.602176634e-19  # V/K, exact SI values
ZERO_CELSIUS = 273.15  # K

Positive = Annotated[float, Field(gt=0)]
Polarity = Literal["n", "p"]
_POLARITIES: tuple[Polarity, Polarity] = ("n", "p")
M = TypeVar("M", bound=Strict)


class Geometry(Strict):
    """Drawn size of one transistor."""

    w_um: Positive
    l_um: Positive

    def times(self, area: float) -> Geometry:
        """With an area W L `area` times as large, at the same W / L."""
        return Geometry(w_um=self.w_um * area**0.5, l_um=self.l_um * area**0.5)


class PerPolarity(Strict):
    """A parameter of the nMOS and of the pMOS transistor."""

    n: Positive
    p: Positive

    def of(self, polarity: Polarity) -> float:
        return self.n if polarity == "n" else self.p


class Corner(Strict):
    """A corner of the process: what all thresholds of a polarity are off by (V, positive = slower)."""

    n: float
    p: float

    def of(self, polarity: Polarity) -> float:
        return self.n if polarity == "n" else self.p


TYPICAL = "tt"
"""The corner that cards are written for."""


class OutputCurve(Strict):
    """Drain current of the unit transistor over V_DS at one gate voltage, relative to that at one V_DS."""

    volts: list[Annotated[float, Field(ge=0)]]  # V, rising
    n: list[Annotated[float, Field(ge=0)]]
    p: list[Annotated[float, Field(ge=0)]]

    @model_validator(mode="after")
    def _curves(self) -> Self:
        if len(self.volts) < 2 or not all(a < b for a, b in pairwise(self.volts)):
            raise ValueError("volts must hold at least two values and rise")
        if not len(self.volts) == len(self.n) == len(self.p):
            raise ValueError("volts, n and p must have one length")
        return self


class Technology(Strict):
    """The card. SI units, except W and L (um), A_VT (mV um), A_beta (% um) and temperature (Celsius)."""

    name: str
    description: str
    models: str  # the model library beside the card; defines nfet and pfet: `d g s b`, W L (m), M, dvt (V)
    calibration: str  # folder beside the card with what `characterize` measured
    supply: Positive  # V
    temperature_celsius: float
    unit: Geometry  # every mirror is made of whole numbers of this transistor
    switch: Geometry  # the two switches of the latch
    latch_units: Annotated[int, Field(ge=1)]  # unit transistors in parallel for each latch current
    slope_factor: PerPolarity  # n in I = I0 exp(V_GS / (n U_T))
    gate_voltage_at_1na: PerPolarity  # V_GS of one unit transistor in saturation at 1 nA, V
    output_curve: OutputCurve
    leakage: PerPolarity  # A of a unit transistor at V_GS = 0
    noise_factor: PerPolarity  # white noise of a unit transistor in weak inversion, over 2 q I
    diode_capacitance: PerPolarity  # F that a unit transistor brings to a node as its diode
    gate_capacitance: PerPolarity  # F by its gate
    drain_capacitance: PerPolarity  # F by its drain
    a_vt_mv_um: PerPolarity  # Pelgrom coefficient of the threshold voltage
    a_beta_percent_um: PerPolarity  # and of the current factor
    corners: dict[str, Corner]  # of the process, besides the typical one
    corner: str = TYPICAL  # at which gate voltages and leakage are
    largest_ratio: Positive  # of a weight: output to input current
    largest_unit_current: Positive  # A in one unit transistor of a bias, still in weak inversion
    latch_capacitance: list[Annotated[float, Field(ge=0)]]  # F on v0, by layer; the last serves later ones
    smallest_hysteresis: Positive  # A; a narrower latch is built as a comparator
    smallest_threshold: Positive  # A; a latch with a lower beta_lo never resets
    rest_margin: Positive  # A; candidates resting closer than this to a threshold are reported
    cells: dict[str, dict[str, Any]]  # by primitive, which checks its own
    sources: list[str]
    _unit_area: float = PrivateAttr(1.0)

    @property
    def unit_area(self) -> float:
        """Area W L of `unit` and of `switch`, 1 on the card."""
        return self._unit_area

    @property
    def thermal_voltage(self) -> float:
        """U_T = k T / q in V."""
        return BOLTZMANN_OVER_CHARGE * (self.temperature_celsius + ZERO_CELSIUS)

    def gate_voltage(self, polarity: Polarity, current: NDArray[np.float64]) -> NDArray[np.float64]:
        """V_GS (V) of a unit transistor that carries `current` (A) in weak inversion; never below 0."""
        slope = self.slope_factor.of(polarity) * self.thermal_voltage
        above = slope * np.log(np.maximum(current, 1e-15) / 1e-9)
        return np.maximum(self.gate_voltage_at_1na.of(polarity) + above, 0.0)

    def saturation(self, polarity: Polarity, volts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Drain current at V_DS (V), relative to that at the V_DS where the card's curve is 1."""
        curve = self.output_curve
        return np.interp(volts, curve.volts, curve.n if polarity == "n" else curve.p)

    def cell(self, primitive: str, model: type[M]) -> M:
        """What the card says about a primitive. Raises MappingError if nothing, ConfigError if nonsense."""
        if primitive not in self.cells:
            known = ", ".join(self.cells) or "none"
            raise MappingError(f"{self.name}: has no {primitive.replace('_', ' ')}; its cells: {known}")
        return validate(model, self.cells[primitive], f"{self.name}: cells.{primitive}")

    @property
    def corner_shift(self) -> Corner:
        """What thresholds are off by (V) at the card's corner. Raises ConfigError for an unknown corner."""
        return self._shift_at(self.corner)

    def _shift_at(self, corner: str) -> Corner:
        known = {TYPICAL: Corner(n=0.0, p=0.0), **self.corners}
        if corner not in known:
            raise ConfigError(f"{self.name}: corner: none called {corner!r}; there are {', '.join(known)}")
        return known[corner]

    def at(
        self,
        celsius: float | None = None,
        supply: float | None = None,
        corner: str | None = None,
        *,
        unit_area: float | None = None,
        latch_units: int | None = None,
    ) -> Technology:
        """The card at another temperature (degrees Celsius), supply (V), process corner or size of its
        transistors, or with another number of them for each current of a latch; None: as it is.

        `unit_area` is a factor on the area of `unit` and `switch`, at constant W / L. What a transistor does
        at a temperature and a size is interpolated from `transistor.json`. A corner moves all thresholds of a
        polarity, so gate voltages move by as much and leakage by exp(-dV / (n U_T)); output curves, over
        V_DS, stay. Raises ConfigError beyond what was characterised, for an unknown corner, a supply <= 0,
        and for a calibration of other models.
        """
        changes: dict[str, Any] = {}
        if supply is not None:
            if not supply > 0:
                raise ConfigError(f"supply: must be > 0 V, got {supply:g}")
            changes["supply"] = supply
        if latch_units is not None:
            changes["latch_units"] = latch_units
        celsius = self.temperature_celsius if celsius is None else celsius
        unit_area = self.unit_area if unit_area is None else unit_area
        if (celsius, unit_area) != (self.temperature_celsius, self.unit_area):
            measured = _transistors(
                self.folder / self.calibration / "transistor.json", self.name, self.model_hash
            )
            changes |= measured.at(celsius, unit_area) | {"corner": TYPICAL}
        found = self.sized(unit_area).model_copy(update=changes)
        corner = self.corner if corner is None else corner
        return found if found.corner == corner else found._cornered(corner)

    def sized(self, unit_area: float) -> Technology:
        """The card with transistors of another size, and nothing else changed; for what measures them."""
        more = unit_area / self.unit_area
        changes = {"unit": self.unit.times(more), "switch": self.switch.times(more)} if more != 1 else {}
        found = self.model_copy(update=changes)
        found._unit_area = unit_area
        return found

    def _cornered(self, corner: str) -> Technology:
        there, here = self._shift_at(corner), self.corner_shift
        moved = {p: there.of(p) - here.of(p) for p in _POLARITIES}
        slope = {p: self.slope_factor.of(p) * self.thermal_voltage for p in _POLARITIES}
        gate = {p: self.gate_voltage_at_1na.of(p) + moved[p] for p in _POLARITIES}
        leakage = {p: self.leakage.of(p) * float(np.exp(-moved[p] / slope[p])) for p in _POLARITIES}
        changes = {"gate_voltage_at_1na": PerPolarity(**gate), "leakage": PerPolarity(**leakage)}
        return self.model_copy(update={**changes, "corner": corner})

    def with_capacitances(self, factor: float) -> Technology:
        """The card with `factor` times the capacitance at every node, which bounds its noise."""
        changes: dict[str, Any] = {
            name: PerPolarity(**{p: factor * getattr(self, name).of(p) for p in _POLARITIES})
            for name in ("diode_capacitance", "gate_capacitance", "drain_capacitance")
        }
        changes["cells"] = {
            name: cell | {key: factor * cell[key] for key in ("node_capacitance",) if key in cell}
            for name, cell in self.cells.items()
        }
        return self.model_copy(update=changes)

    @property
    def folder(self) -> Path:
        """Where the card, its models and its calibration are."""
        return packaged("circuits", "technologies", self.name)

    @cached_property
    def model_text(self) -> str:
        """The model library as text."""
        return (self.folder / self.models).read_text(encoding="utf-8")

    @property
    def model_hash(self) -> str:
        """SHA-256 of the model library; a calibration measured on other models is refused."""
        return hashlib.sha256(self.model_text.encode()).hexdigest()


_LOGARITHMIC = ("leakage", "diode_capacitance", "gate_capacitance", "drain_capacitance")
_MEASURED = ("volts_at_1na", "volts_a_neper", "noise_factor", "curve", *_LOGARITHMIC)


@dataclass(frozen=True, eq=False)
class _Transistors:
    """Unit transistors over temperature at one size, and over size at one temperature, as measured.

    `heat` and `size` are by polarity and quantity, [temperatures, ...] and [sizes, ...]; of `_LOGARITHMIC`
    ones they are logarithms. The size of 1 was measured at the temperature that both have in common.
    """

    path: Path
    celsius: NDArray[np.float64]
    unit_area: NDArray[np.float64]
    volts: list[float]
    heat: dict[str, dict[str, NDArray[np.float64]]]
    size: dict[str, dict[str, NDArray[np.float64]]]

    def at(self, celsius: float, unit_area: float) -> dict[str, Any]:
        """Fields of a card at a temperature and a size; what both change is added."""
        for what, unit, grid, value in (
            ("temperature", " C", self.celsius, celsius),
            ("unit_area", "", self.unit_area, unit_area),
        ):
            if not grid[0] - 1e-9 <= value <= grid[-1] + 1e-9:
                raise ConfigError(
                    f"{self.path}: {what}: transistors were characterised from {grid[0]:g} to "
                    f"{grid[-1]:g}{unit}, not at {value:g}{unit}"
                )

        def between(polarity: str, key: str) -> NDArray[np.float64]:
            size = self.size[polarity][key]
            hot = interpolated(self.celsius, self.heat[polarity][key], celsius)
            sized = interpolated(np.log(self.unit_area), size, np.log(unit_area))
            found = hot + sized - interpolated(np.log(self.unit_area), size, 0.0)
            return np.exp(found) if key in _LOGARITHMIC else found

        thermal = BOLTZMANN_OVER_CHARGE * (celsius + ZERO_CELSIUS)
        each = {key: {polarity: between(polarity, key) for polarity in ("n", "p")} for key in _MEASURED}
        numbers = {
            key: PerPolarity(**{polarity: float(value) for polarity, value in each[key].items()})
            for key in ("noise_factor", *_LOGARITHMIC)
        }
        return {
            "temperature_celsius": celsius,
            "gate_voltage_at_1na": PerPolarity(**{p: float(v) for p, v in each["volts_at_1na"].items()}),
            "slope_factor": PerPolarity(**{p: float(v) / thermal for p, v in each["volts_a_neper"].items()}),
            "output_curve": OutputCurve(
                volts=self.volts, **{polarity: curve.tolist() for polarity, curve in each["curve"].items()}
            ),
            **numbers,
        }


def interpolated(grid: NDArray[np.float64], values: NDArray[np.float64], at: float) -> NDArray[np.float64]:
    """`values` [n, ...] on a rising `grid` [n], by straight lines."""
    k = int(np.clip(np.searchsorted(grid, at) - 1, 0, len(grid) - 2))
    share = (at - grid[k]) / (grid[k + 1] - grid[k])
    return np.asarray(values[k] + share * (values[k + 1] - values[k]))


@lru_cache(maxsize=8)
def _transistors(path: Path, name: str, model_hash: str) -> _Transistors:
    def parts(content: dict[str, Any]) -> dict[str, dict[str, NDArray[np.float64]]]:
        found = {
            polarity: {key: np.array(content[polarity][key], dtype=float) for key in _MEASURED}
            for polarity in ("n", "p")
        }
        for part in found.values():
            part |= {key: np.log(part[key]) for key in _LOGARITHMIC}
        return found

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sizes = content["sizes"]
        found = _Transistors(
            path, np.array(content["celsius"], dtype=float), np.array(sizes["unit_area"], dtype=float),
            content["volts"], parts(content), parts(sizes),
        )  # fmt: skip
        measured_on = content["provenance"]["model_hash"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a calibration of transistors: {error}") from error
    if measured_on != model_hash:
        raise ConfigError(
            f"{path}: was measured on other models than {name}'s "
            f"(hash {measured_on[:12]}, models {model_hash[:12]}); characterize them again"
        )
    return found


def known_technologies() -> list[str]:
    """Names of the cards that come with the package."""
    return sorted(path.parent.name for path in packaged("circuits", "technologies").glob("*/card.yaml"))


def load_technology(name: str) -> Technology:
    """The card called `name`. Raises ConfigError naming the known ones."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name not in known_technologies():
        raise ConfigError(f"technology: no card called {name!r}; known: {', '.join(known_technologies())}")
    return load(Technology, packaged("circuits", "technologies", name, "card.yaml"))
