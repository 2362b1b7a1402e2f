"""How each simulator writes cards, and the run of a testbench."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import wrap
from typing import ClassVar

from cmru_hw.errors import ConfigError
from cmru_hw.export.cards import Card, Cell, Comment, Element, Model
from cmru_hw.spice.job import Tolerances

WIDTH = 110


@dataclass(frozen=True)
class Run:
    """What a testbench asks for, in SI units. `measured`: name to (ammeter, s)."""

    stop: float
    max_step: float
    tolerances: Tolerances
    celsius: float
    initial: Mapping[str, float]
    measured: Mapping[str, tuple[str, float]]
    probes: Sequence[str]  # nets


class Dialect(ABC):
    """A netlist language. `ran`: whether what it says was simulated when this package was made."""

    name: ClassVar[str]
    suffix: ClassVar[str]
    command: ClassVar[str]
    ran: ClassVar[bool] = False
    units: ClassVar[str] = "units"  # parameter of nfet and pfet for transistors in parallel

    @abstractmethod
    def card(self, card: Card) -> list[str]:
        """Its lines."""

    @abstractmethod
    def include(self, file: str) -> str:
        """The line that takes a file in."""

    @abstractmethod
    def header(self, title: str) -> list[str]:
        """First lines of a file."""

    @abstractmethod
    def run(self, run: Run) -> list[str]:
        """Options, starting voltages, the transient and what is measured."""

    def write(
        self, title: str, cards: Iterable[Card], before: Iterable[str] = (), after: Iterable[str] = ()
    ) -> str:
        """A file."""
        lines = [*self.header(title), *before]
        for card in cards:
            lines += self.card(self._prepared(card))
        return "\n".join([*lines, *after]) + "\n"

    def _prepared(self, card: Card) -> Card:
        """With its own name of the number in parallel, and thresholds shifted by a source at the gate."""
        if isinstance(card, Element) and card.model in ("nfet", "pfet"):
            renamed = {self.units if key == "M" else key: value for key, value in card.parameters.items()}
            return replace(card, parameters=renamed)
        if not isinstance(card, Cell):
            return card
        body = tuple(part for member in card.body for part in self._member(member))
        parameters = card.parameters
        if card.name in ("nfet", "pfet"):
            parameters = {self.units if key == "M" else key: value for key, value in parameters.items()}
        return replace(card, parameters=parameters, body=body)

    def _member(self, member: Comment | Element) -> list[Comment | Element]:
        prepared = self._prepared(member)
        assert isinstance(prepared, Comment | Element)
        if not isinstance(prepared, Element) or prepared.kind != "M":
            return [prepared]
        own = {key: re.sub(r"\bM\b", self.units, value) for key, value in prepared.parameters.items()}
        shift = own.pop("delvto", None)
        if shift is None:
            return [replace(prepared, parameters=own)]
        drain, gate, *rest = prepared.nodes
        inner = replace(prepared, nodes=(drain, f"{gate}_shifted", *rest), parameters=own)
        return [Element(f"V{gate}_shift", (gate, f"{gate}_shifted"), value=shift), inner]


class Spice(Dialect):
    """What ngspice, Xyce and LTspice have in common."""

    suffix = "cir"
    level: ClassVar[str] = "8"

    def header(self, title: str) -> list[str]:
        """A title."""
        return [f"* {title}"]

    def include(self, file: str) -> str:
        """The line that takes a file in."""
        return f".include {file}"

    def card(self, card: Card) -> list[str]:
        """Its lines."""
        if isinstance(card, Comment):
            return [f"* {card.text}"]
        if isinstance(card, Model):
            parameters = {**card.parameters, "level": self.level}
            return _folded(f".model {card.name} {card.type} {_pairs(parameters)}", "+ ")
        if isinstance(card, Cell):
            head = f".subckt {card.name} {' '.join(card.ports)} {self._own(card.parameters)}".rstrip()
            body = [line for member in card.body for line in self.card(member)]
            return ["", *_folded(head, "+ "), *body, f".ends {card.name}"]
        value = f"PWL({'  '.join(' '.join(point) for point in card.points)})" if card.points else card.value
        given = self._own(card.parameters) if card.kind == "X" else _pairs(card.parameters)
        words = [card.name, *card.nodes, card.model, value, given]
        return _folded(" ".join(word for word in words if word), "+ ")

    def _own(self, parameters: Mapping[str, str]) -> str:
        return _pairs(parameters)

    def options(self, run: Run) -> list[str]:
        """Tolerances and temperature."""
        settings = {**run.tolerances.settings(), "temp": run.celsius}
        return [f".options {_pairs({key: str(value) for key, value in settings.items()})}"]

    def run(self, run: Run) -> list[str]:
        """Options, starting voltages, the transient and what is measured."""
        return [
            *self.options(run),
            *(f".ic v({net})={volts!r}" for net, volts in run.initial.items()),
            *self.saved(run),
            *(f".meas tran {name} find i({meter}) at={at!r}" for name, (meter, at) in run.measured.items()),
            f".tran {run.max_step!r} {run.stop!r} 0 {run.max_step!r}",
            ".end",
        ]

    def saved(self, run: Run) -> list[str]:
        """What is kept."""
        return [f".save {vector}" for vector in _vectors(run)]


class Ngspice(Spice):
    """As the package itself runs it."""

    name, command, ran, units = "ngspice", "ngspice -b TESTBENCH > TESTBENCH.log", True, "M"

    def _member(self, member: Comment | Element) -> list[Comment | Element]:
        return [member]


class Xyce(Spice):
    """BSIM3 is its level 9; subcircuit parameters come after PARAMS:, in the field's oldest form."""

    name, command, level = "xyce", "Xyce TESTBENCH", "9"

    def _own(self, parameters: Mapping[str, str]) -> str:
        return f"PARAMS: {_pairs(parameters)}" if parameters else ""

    def options(self, run: Run) -> list[str]:
        """Tolerances and temperature, by package."""
        t = run.tolerances
        return [
            f".options device temp={run.celsius!r} gmin={t.gmin!r}",
            f".options timeint method=gear reltol={t.reltol!r} abstol={t.vntol!r}",
        ]

    def saved(self, run: Run) -> list[str]:
        """What is printed."""
        return _folded(".print tran " + " ".join(_vectors(run)), "+ ")


class Ltspice(Spice):
    """BSIM3 is its level 8."""

    name, command = "ltspice", "ltspice -b TESTBENCH"

    def options(self, run: Run) -> list[str]:
        """Tolerances and temperature."""
        settings = {key: str(value) for key, value in run.tolerances.settings().items()}
        return [f".options {_pairs(settings)}", f".temp {run.celsius!r}"]


class Spectre(Dialect):
    """Its own language, not its reader of SPICE."""

    name, suffix, command = "spectre", "scs", "spectre TESTBENCH"

    def header(self, title: str) -> list[str]:
        """A title and the language."""
        return [f"// {title}", "simulator lang=spectre"]

    def include(self, file: str) -> str:
        """The line that takes a file in."""
        return f'include "{file}"'

    def card(self, card: Card) -> list[str]:
        """Its lines."""
        if isinstance(card, Comment):
            return [f"// {card.text}"]
        if isinstance(card, Model):
            own = {key: value for key, value in card.parameters.items() if key not in ("level", "version")}
            return _folded(f"model {card.name} bsim3v3 type={card.type[0]} version=3.3 {_pairs(own)}", "+ ")
        if isinstance(card, Cell):
            head = _folded(f"subckt {card.name} ({' '.join(card.ports)})", "+ ")
            if card.parameters:
                head += _folded(f"parameters {_pairs(card.parameters)}", "+ ")
            body = [line for member in card.body for line in self.card(member)]
            return ["", *head, *body, f"ends {card.name}"]
        given = {key if card.kind == "X" else key.lower(): value for key, value in card.parameters.items()}
        model = {"V": "vsource", "I": "isource", "C": "capacitor"}.get(card.kind, card.model)
        if card.points:
            wave = " ".join(" ".join(point) for point in card.points)
            text = f"type=pwl wave=[{wave}]"
        elif card.value:
            text = f"c={card.value}" if card.kind == "C" else f"type=dc dc={card.value}"
        else:
            text = _pairs(given)
        line = f"{card.name} ({' '.join(card.nodes)}) {model} {text}"
        return _folded(re.sub(r"\{([^}]*)\}", r"(\1)", line).rstrip(), "+ ")

    def run(self, run: Run) -> list[str]:
        """Options, starting voltages, the transient, saved at the moments that are measured too."""
        t = run.tolerances
        at = " ".join(dict.fromkeys(repr(moment) for _, moment in run.measured.values()))
        meters = [f"{meter}:p" for meter in dict.fromkeys(meter for meter, _ in run.measured.values())]
        starts = _pairs({net: repr(volts) for net, volts in run.initial.items()})
        return [
            f"simulatorOptions options temp={run.celsius!r} reltol={t.reltol!r} vabstol={t.vntol!r} "
            f"iabstol={t.abstol!r} gmin={t.gmin!r}",
            *(_folded(f"ic {starts}", "+ ") if starts else []),
            *_folded(f"save {' '.join([*meters, *run.probes])}", "+ "),
            *_folded(
                f"tran tran stop={run.stop!r} maxstep={run.max_step!r} method=gear2 strobetimes=[{at}]", "+ "
            ),
        ]


DIALECTS: dict[str, type[Dialect]] = {each.name: each for each in (Ngspice, Spectre, Xyce, Ltspice)}


def dialect(name: str) -> Dialect:
    """A dialect by name. Raises ConfigError for one there is not."""
    if name not in DIALECTS:
        raise ConfigError(f"dialect: must be one of {', '.join(DIALECTS)}, got {name!r}")
    return DIALECTS[name]()


def _vectors(run: Run) -> list[str]:
    meters = dict.fromkeys(meter for meter, _ in run.measured.values())
    return [*(f"i({meter})" for meter in meters), *(f"v({net})" for net in run.probes)]


def _pairs(parameters: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in parameters.items())


def _folded(line: str, mark: str) -> list[str]:
    pieces = wrap(line, WIDTH, break_long_words=False, break_on_hyphens=False)
    return [pieces[0], *(mark + piece for piece in pieces[1:])]
