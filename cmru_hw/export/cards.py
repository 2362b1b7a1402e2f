"""A netlist as cards. It is read off the one that ngspice runs, so that every dialect is the same circuit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cmru_hw.errors import ConfigError
from cmru_hw.primitives.signal import block_of

WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_POINT = re.compile(r"(-?[\d.]+(?:e[+-]?\d+)?)[sAV]?")


@dataclass(frozen=True)
class Comment:
    """A line of text."""

    text: str


@dataclass(frozen=True)
class Element:
    """X, M, V, I or C. `value` is a source's or a capacitor's, or a waveform's points (s, A or V)."""

    name: str
    nodes: tuple[str, ...]
    model: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    value: str = ""
    points: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> str:
        """Its letter."""
        return self.name[0].upper()


@dataclass(frozen=True)
class Model:
    """A device model."""

    name: str
    type: str
    parameters: dict[str, str]

    @property
    def is_bsim3(self) -> bool:
        """As ngspice numbers models."""
        return self.parameters.get("level") in ("8", "49")


@dataclass(frozen=True)
class Cell:
    """A subcircuit."""

    name: str
    ports: tuple[str, ...]
    parameters: dict[str, str]
    body: tuple[Comment | Element, ...]


Card = Comment | Element | Model | Cell


def read(text: str, where: str) -> list[Card]:
    """Cards of a netlist. Raises ConfigError with the line for one that has no equal in other dialects."""
    found: list[Card] = []
    opened: tuple[str, tuple[str, ...], dict[str, str]] | None = None
    body: list[Comment | Element] = []
    for line in _joined(text):
        words, lower = line.split(), line.lower()
        card: Card
        if line.startswith("*"):
            card = Comment(line[1:].strip())
        elif lower.startswith(".subckt "):
            opened, body = (words[1], *_split(words[2:])), []
            continue
        elif lower.startswith(".ends") and opened:
            card, opened = Cell(*opened, tuple(body)), None
        elif lower.startswith(".model "):
            card = Model(words[1], words[2].lower(), _split(words[3:])[1])
        elif line[0] in "XxMmVvIiCc":
            card = _element(words, line)
        else:
            raise ConfigError(f"{where}: cannot be written in another dialect: {line[:80]}")
        if opened and isinstance(card, Comment | Element):
            body.append(card)
        else:
            found.append(card)
    return found


def _joined(text: str) -> Iterator[str]:
    """Lines that say something, with their continuations."""
    kept: list[str] = []
    for line in text.splitlines():
        if line.startswith("+") and kept:
            kept[-1] += " " + line[1:]
        elif line.strip() and not line.lower().startswith((".title", ".include")):
            kept.append(line.strip())
    return iter(kept)


def _split(words: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    plain = tuple(word for word in words if "=" not in word)
    return plain, dict((key, value) for key, _, value in (w.partition("=") for w in words if "=" in w))


def _element(words: list[str], line: str) -> Element:
    plain, parameters = _split(words[1:])
    if line[0] in "XxMm":
        return Element(words[0], plain[:-1], plain[-1], parameters)
    nodes, rest = plain[:2], " ".join(plain[2:])
    if rest.upper().startswith("PWL("):
        numbers = _POINT.findall(rest[4:])
        return Element(words[0], nodes, points=tuple(zip(numbers[::2], numbers[1::2], strict=True)))
    return Element(words[0], nodes, value=rest)


def hierarchy(cards: Sequence[Card], outside: set[str]) -> tuple[list[Cell], Element, list[Element]]:
    """Cells of a flat circuit's stages, its blocks and a cell `network`; its instance; what drives it.

    Nets in `outside`, and those of the drives, keep their names at the top.
    """
    cells = [card for card in cards if isinstance(card, Cell)]
    stages = [card for card in cards if isinstance(card, Element) and card.kind == "X"]
    drives = [card for card in cards if isinstance(card, Element) and card.kind != "X"]
    outside = outside | {net for drive in drives for net in drive.nodes}
    grouped: dict[str, list[Element]] = {}
    for stage in stages:
        grouped.setdefault(block_of(stage.model), []).append(stage)
    instances = []
    for block, members in grouped.items():
        beyond = outside | {net for each in stages if each not in members for net in each.nodes}
        cell, instance = _cell(f"block_{block}", f"X{block}", members, beyond)
        cells.append(cell)
        instances.append(instance)
    network, instance = _cell("network", "Xnetwork", instances, outside)
    return [*cells, network], instance, drives


def _cell(name: str, instance: str, members: Sequence[Element], beyond: set[str]) -> tuple[Cell, Element]:
    nets = dict.fromkeys(net for member in members for net in member.nodes)
    ports = tuple(net for net in nets if net in beyond and net != "0")
    return Cell(name, ports, {}, tuple(members)), Element(instance, ports, name)
