"""A technology card: what a process offers, with units and sources, read from its folder.

>>> from cmru_hw.technology import load_technology
>>> load_technology("generic180").supply
0.8
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
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


class Both(Strict):
    """A number of the nMOS and one of the pMOS transistor."""

    n: float
    p: float

    def of(self, polarity: Polarity) -> float:
        return self.n if polarity == "n" else self.p


class PerPolarity(Both):
    """A parameter of both, above 0."""

    n: Positive
    p: Positive


class Spread(Both):
    """A Pelgrom coefficient of both; 0: does not vary."""

    n: Annotated[float, Field(ge=0)]
    p: Annotated[float, Field(ge=0)]


class Corner(Both):
    """A corner of the process: what all thresholds of a polarity are off by (V, positive = slower).

    Where it has `models` of its own, a library beside the card's, ngspice takes these, and the shifts are
    what was measured on them.
    """

    models: str | None = None


TYPICAL = "tt"
"""The corner that cards are written for."""


class Span(Strict):
    """Sizes that the models are made for, from the least to the largest."""

    w_um: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    l_um: Annotated[list[Positive], Field(min_length=2, max_length=2)]


class Foundry(Strict):
    """Where models come from that are not the package's to give, and the files they are cut out of."""

    package: str  # on the Python package index, NAME==VERSION, whose wheel holds the files
    nfet: str  # subcircuits of the two transistors
    pfet: str
    files: dict[str, str]  # SHA-256 by name
    libraries: dict[str, str]  # what is cut out of them: SHA-256 by name, {corner}.lib


class Conditions(Strict):
    """Where `characterize` measures; the card's own temperature and supply, and an area of 1, are there."""

    celsius: Annotated[list[float], Field(min_length=1)]
    supply: Annotated[list[Positive], Field(min_length=1)]  # V
    unit_area: Annotated[list[Positive], Field(min_length=1)]
    frame_period: Positive  # s, of banks; in a shorter one the currents of small inputs do not settle

    @model_validator(mode="after")
    def _rising(self) -> Self:
        for name in ("celsius", "supply", "unit_area"):
            values = getattr(self, name)
            if not all(a < b for a, b in pairwise(values)):
                raise ValueError(f"{name} must rise")
        return self


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

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    description: str
    models: str  # the model library; defines nfet and pfet: `d g s b`, W L (m), M, dvt (V)
    foundry: Foundry | None = None  # who gives the libraries; None: they are beside the card
    bins: Span | None = None  # sizes that the models are made for; None: any
    calibration: str  # folder beside the card with what `characterize` measured
    supply: Positive  # V
    temperature_celsius: float
    conditions: Conditions
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
    a_vt_mv_um: Spread  # Pelgrom coefficient of the threshold voltage
    a_beta_percent_um: Spread  # and of the current factor
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
    _folder: Path = PrivateAttr()

    @model_validator(mode="after")
    def _measured_where_it_works(self) -> Self:
        own = {"celsius": self.temperature_celsius, "supply": self.supply, "unit_area": 1.0}
        for name, value in own.items():
            if value not in getattr(self.conditions, name):
                raise ValueError(f"conditions.{name} must hold {value:g}, the card's own")
        return self

    @property
    def unit_area(self) -> float:
        """Area W L of `unit` and of `switch`, 1 on the card."""
        return self._unit_area

    @property
    def thermal_voltage(self) -> float:
        """U_T = k T / q in V."""
        return BOLTZMANN_OVER_CHARGE * (self.temperature_celsius + ZERO_CELSIUS)

    def gate_voltage(
        self, polarity: Polarity, current: NDArray[np.floating[Any]]
    ) -> NDArray[np.floating[Any]]:
        """V_GS (V) of a unit transistor that carries `current` (A) in weak inversion; never below 0."""
        slope = self.slope_factor.of(polarity) * self.thermal_voltage
        above = slope * np.log(np.maximum(current, 1e-15) / 1e-9)
        return np.maximum(self.gate_voltage_at_1na.of(polarity) + above, 0.0)

    def saturation(self, polarity: Polarity, volts: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Drain current at V_DS (V), relative to that at the V_DS where the card's curve is 1."""
        curve = self.output_curve
        return np.interp(volts, curve.volts, curve.n if polarity == "n" else curve.p)

    def cell(self, primitive: str, model: type[M]) -> M:
        """What the card says about a primitive. Raises MappingError if nothing, ConfigError if nonsense."""
        if primitive not in self.cells:
            known = ", ".join(self.cells) or "none"
            raise MappingError(f"{self.name}: has no {primitive.replace('_', ' ')}; its cells: {known}")
        found = validate(model, self.cells[primitive], f"{self.name}: cells.{primitive}")
        for _, size in found:
            if isinstance(size, Geometry):
                self._check_bins(size)
        return found

    def _check_bins(self, size: Geometry) -> None:
        if not self.bins:
            return
        for letter, value, (least, largest) in (
            ("W", size.w_um, self.bins.w_um), ("L", size.l_um, self.bins.l_um),
        ):  # fmt: skip
            if not least <= value <= largest:
                raise MappingError(
                    f"{self.name}: a transistor of {size.w_um:.4g}/{size.l_um:.4g} um: there are models for "
                    f"{letter} from {least:g} to {largest:g} um"
                )

    @property
    def corner_shift(self) -> Corner:
        """What a netlist adds to thresholds (V) at the card's corner; nothing if that has models of its own.

        Raises ConfigError for an unknown corner.
        """
        found = self._corner_at(self.corner)
        return Corner(n=0.0, p=0.0) if found.models else found

    def _corner_at(self, corner: str) -> Corner:
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
        for size in (found.unit, found.switch):
            found._check_bins(size)
        return found

    def _cornered(self, corner: str) -> Technology:
        there, here = self._corner_at(corner), self._corner_at(self.corner)
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
        """Where the card and its calibration are, and its models if they are not a foundry's."""
        return self._folder

    @property
    def reference(self) -> str:
        """What `load_technology` finds the card by: its name, or its folder."""
        known = _cards().get(self.name)
        return self.name if known == self.folder else str(self.folder)

    @property
    def model_text(self) -> str:
        """The model library of the card's corner as text.

        Raises ConfigError where it is not installed, or is another one than the card was calibrated on.
        """
        return self._library_at(self.corner)

    @property
    def model_hash(self) -> str:
        """SHA-256 of the models, of all corners; a calibration measured on other models is refused."""
        paths = dict.fromkeys(self._libraries().values())
        if self.foundry:
            found = [self.foundry.libraries[path.name] for path in paths]
        else:
            found = [_sha256(_library(path, self.name, None)) for path in paths]
        return found[0] if len(found) == 1 else _sha256("\n".join(found))

    @property
    def model_folder(self) -> Path:
        """Where the model libraries are, or are to be."""
        return installed(self.name) if self.foundry else self.folder

    def missing(self) -> str | None:
        """Why the model libraries cannot be used; None where they can."""
        try:
            for corner in (TYPICAL, *self.corners):
                self._library_at(corner)
        except ConfigError as error:
            return str(error)
        return None

    def _library_at(self, corner: str) -> str:
        path = self._libraries()[corner]
        return _library(path, self.name, self.foundry.libraries[path.name] if self.foundry else None)

    def _libraries(self) -> dict[str, Path]:
        """Where the model library of each corner is."""
        named = {TYPICAL: self.models, **{name: corner.models for name, corner in self.corners.items()}}
        return {name: self.model_folder / (models or self.models) for name, models in named.items()}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _library(path: Path, name: str, expected: str | None) -> str:
    """The text of a library, read anew if it was written anew; of a foundry's, whose hash is `expected`."""
    return _read_library(path, path.stat().st_mtime_ns if path.is_file() else 0, name, expected)


@lru_cache(maxsize=32)
def _read_library(path: Path, written: int, name: str, expected: str | None) -> str:
    cure = f"; `cmru-hw technology install {name}` gets it" if expected else ""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{name}: no model library at {path}: {error.strerror}{cure}") from error
    if expected and (got := _sha256(text)) != expected:
        raise ConfigError(
            f"{path}: is edited or of another version: its SHA-256 is {got[:12]}, but {name} was "
            f"characterised on {expected[:12]}{cure}"
        )
    return text


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
    """`values` [n, ...] on a rising `grid` [n], by straight lines; the one that there is on a grid of one."""
    if len(grid) == 1:
        return np.asarray(values[0])
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


def technologies_folder() -> Path:
    """Where the user's own cards are and models are installed, a folder a technology.

    `CMRU_HW_TECHNOLOGIES`, or `cmru-hw/technologies` in `XDG_DATA_HOME`, by default `~/.local/share`.
    """
    if own := os.environ.get("CMRU_HW_TECHNOLOGIES"):
        return Path(own)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "cmru-hw" / "technologies"


def installed(name: str) -> Path:
    """Where the foundry's models of a technology are installed."""
    return technologies_folder() / name


def _cards() -> dict[str, Path]:
    """Folders of the cards that are found by name: the user's, and those that come with the package."""
    places = (technologies_folder(), packaged("circuits", "technologies"))
    return {path.parent.name: path.parent for place in places for path in sorted(place.glob("*/card.yaml"))}


def known_technologies() -> list[str]:
    """Names of the cards that come with the package, and of the user's own."""
    return sorted(_cards())


def load_technology(name: str, beside: Path = Path()) -> Technology:
    """The card called `name`, or the one in the folder `name`, from `beside` on, where that has a slash.

    Raises ConfigError naming the known ones.
    """
    if "/" in name:
        folder = (beside / name).resolve()
        if not (folder / "card.yaml").is_file():
            raise ConfigError(f"technology: there is no card.yaml in {folder}")
    elif name in (cards := _cards()):
        folder = cards[name]
    else:
        raise ConfigError(
            f"technology: no card called {name!r}; known: {', '.join(known_technologies())}; a folder with a "
            "card.yaml is given with a slash, as ./NAME"
        )
    found = load(Technology, folder / "card.yaml")
    found._folder = folder
    found.sized(1.0)
    return found
