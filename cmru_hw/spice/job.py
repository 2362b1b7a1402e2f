"""What ngspice is asked to do, as plain values: a netlist, one analysis, tolerances, and the deck they make.

    job = Job(
        title="rc",
        netlist="V1 in 0 pulse(0 1 0 1u 1u 1 2)\\nR1 in out 1k\\nC1 out 0 1u",
        analysis=Transient(stop=5e-3, max_step=10e-6),
        save=("v(out)",),
    )

A job writes `.options`, `.ic`, `.save`, the analysis and `.end` itself, so a netlist that holds any of
them, or anything that makes ngspice run commands, is refused.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cmru_hw.errors import ConfigError

DECK, RAW, OUT, ERR = "deck.cir", "out.raw", "stdout.txt", "stderr.txt"
"""Files that the runner writes into a run's directory."""


@dataclass(frozen=True)
class Tolerances:
    """Numerical options of the simulator.

    Loose ones flip latches without a warning: at reltol 1e-3 a clocked latch bank counted wrong. A gmin of
    1e-15 S discharges 1 pF by 0.4 mV/s, one of 1e-18 S not measurably.
    """

    gmin: float  # S
    abstol: float  # A
    vntol: float  # V
    reltol: float
    chgtol: float  # C
    trtol: float | None = None
    method: str = "gear"

    def settings(self) -> dict[str, float | str]:
        """The `.options` keys and values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in values.items() if value is not None}


FAST = Tolerances(gmin=1e-15, abstol=1e-15, vntol=1e-5, reltol=1e-3, chgtol=1e-15)
"""Enough for the 9T cell (no wrong state in 1035); lies, silently, about clocked latches. abstol bounds what
steps may miss of the current into a capacitance: with 1e-13 A, as long to run, 3 of 640 states of 32 cells
were others than with reltol 1e-4, now none."""

LATCH = Tolerances(gmin=1e-18, abstol=1e-16, vntol=1e-6, reltol=1e-4, chgtol=1e-18, trtol=7.0)
"""For clocked latches and held charge."""

STRICT = Tolerances(gmin=1e-18, abstol=1e-16, vntol=1e-6, reltol=2e-5, chgtol=1e-19, trtol=3.0)
"""A second opinion on LATCH."""

QUICK = Tolerances(gmin=1e-18, abstol=1e-16, vntol=1e-6, reltol=1e-3, chgtol=1e-17, trtol=7.0)
"""2.5 times faster than LATCH; what it says of clocked latches is a result where LATCH agrees. With trtol at
20 a bank lost a step of 40, silently."""


COPYING = Tolerances(gmin=1e-18, abstol=1e-16, vntol=1e-6, reltol=3e-4, chgtol=1e-17, trtol=7.0)
"""QUICK for integrators, whose errors add up: 8 frames were 0.011 packets off LATCH, with QUICK 0.027."""


def _number(value: float) -> str:
    return repr(float(value))


def _positive(owner: str, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{owner}: {name} must be a positive number, got {value!r}")


class Analysis(Protocol):
    """One analysis card, and how to tell that its output is all there."""

    def card(self) -> str:
        """The line in the deck."""
        ...

    def reached(self, last: float) -> bool:
        """Whether an output whose last abscissa is `last` is the whole of it."""
        ...

    def halved(self) -> Analysis:
        """The same analysis with half the largest step, where that means anything."""
        ...


UNEVEN = 0.9731
"""Of the steps asked for, where there are corners. ngspice starts again from a tenth of a step after each and
doubles: round steps came upon round corners by themselves, a few units in the last place beside, and that
source's others were lost.
"""
CORNER = 6e-5
"""Of the largest step: how near to a corner a time point must be. ngspice takes corners for one that are
closer than 5e-5 of it."""


@dataclass(frozen=True)
class Transient:
    """`.tran`, all in seconds. `uic` starts from `Job.initial` without an operating point.

    `corners` are times at which sources turn. A run that steps over one is no result: ngspice stops at a
    source's next corner only if it stopped at the one before, to three units in the last place. Where two
    sources turn some 1e-13 s apart, or a step ends that close to a corner, it forgets the later ones.
    """

    stop: float
    max_step: float | None = None
    print_step: float | None = None
    uic: bool = False
    corners: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _positive("transient", stop=self.stop, max_step=self.max_step, print_step=self.print_step)

    def card(self) -> str:
        """`.tran STEP STOP 0 MAX_STEP`; ngspice's own limit on the step is stop / 50."""
        limit = self.limit
        step = self._uneven(self.print_step) if self.print_step is not None else limit
        uic = " uic" if self.uic else ""
        return f".tran {_number(step)} {_number(self.stop)} 0 {_number(limit)}{uic}"

    @property
    def limit(self) -> float:
        """The largest step (s) that is taken."""
        return self._uneven(self.max_step if self.max_step is not None else self.stop / 50)

    def _uneven(self, step: float) -> float:
        return step * UNEVEN if self.corners else step

    def missed(self, times: NDArray[np.float64]) -> float | None:
        """The first corner that no time point is at."""
        if not self.corners:
            return None
        corners = np.array(self.corners)
        after = np.searchsorted(times, corners).clip(1, len(times) - 1)
        off = np.minimum(np.abs(times[after] - corners), np.abs(times[after - 1] - corners))
        missed = (off > CORNER * self.limit) & (corners > 0) & (corners < self.stop)
        return float(corners[np.argmax(missed)]) if missed.any() else None

    def reached(self, last: float) -> bool:
        """The last time point is the stop time."""
        return abs(last - self.stop) <= 1e-6 * self.stop

    def halved(self) -> Transient:
        """Half the largest time step."""
        return replace(self, max_step=(self.max_step or self.stop / 50) / 2)


@dataclass(frozen=True)
class DcSweep:
    """`.dc` over one source, in its unit (V or A); `step` has the sign of `stop - start`."""

    source: str
    start: float
    stop: float
    step: float

    def __post_init__(self) -> None:
        _word("sweep source", self.source)
        if not all(map(math.isfinite, (self.start, self.stop, self.step))):
            raise ConfigError(f"sweep of {self.source}: start, stop and step must be finite")
        if self.step == 0 or (self.stop - self.start) * self.step < 0:
            raise ConfigError(
                f"sweep of {self.source}: step must lead from start to stop, got {self.step!r}"
                f" for {self.start!r} to {self.stop!r}"
            )

    def card(self) -> str:
        """`.dc SOURCE START STOP STEP`."""
        return f".dc {self.source} " + " ".join(map(_number, (self.start, self.stop, self.step)))

    def reached(self, last: float) -> bool:
        """The last point is the last whole step."""
        steps = math.floor((self.stop - self.start) / self.step + 1e-6)
        return (last - (self.start + steps * self.step)) / self.step > -1e-3

    def halved(self) -> DcSweep:
        """Itself: the points are the caller's."""
        return self


@dataclass(frozen=True)
class OperatingPoint:
    """`.op`. Not for a latch: it returns the metastable point."""

    def card(self) -> str:
        """`.op`."""
        return ".op"

    def reached(self, last: float) -> bool:
        """One point is all there is."""
        return True

    def halved(self) -> OperatingPoint:
        """Itself."""
        return self


@dataclass(frozen=True)
class Noise:
    """`.noise` at node `output` (V) referred to `source` (one with an AC value), `low` to `high` Hz.

    Gives `onoise_spectrum`, `inoise_spectrum` (V/sqrt(Hz)) and the one-point totals `v(onoise_total)`,
    `v(inoise_total)` (V rms). `Job.save` must be empty or name these.
    """

    output: str
    source: str
    low: float
    high: float
    points_per_decade: int = 10

    def __post_init__(self) -> None:
        _word("noise output", self.output)
        _word("noise source", self.source)
        _positive("noise", low=self.low, high=self.high, points_per_decade=self.points_per_decade)
        if self.high <= self.low:
            raise ConfigError(f"noise: high must exceed low, got {self.low!r} to {self.high!r} Hz")

    def card(self) -> str:
        """`.noise v(OUTPUT) SOURCE dec POINTS LOW HIGH`."""
        span = f"{self.points_per_decade} {_number(self.low)} {_number(self.high)}"
        return f".noise v({self.output}) {self.source} dec {span}"

    def reached(self, last: float) -> bool:
        """The last frequency is the highest that whole steps reach."""
        return last * 10 ** (1.001 / self.points_per_decade) >= self.high

    def halved(self) -> Noise:
        """Itself."""
        return self


@dataclass(frozen=True)
class Job:
    """One run: everything ngspice needs, as values.

    `netlist` holds elements, subcircuits, models and `.include NAME` of entries of `files`; `files` maps a
    plain file name to a Path (copied next to the deck) or to the text itself. `save` names what the raw file
    keeps (empty: everything); a saved name that the circuit lacks is an error. `initial` gives node voltages
    (V) as `.ic`; a node that the circuit lacks is an error. `options` are further `.options`. Degrees C;
    `time_limit` in seconds for each attempt.
    """

    title: str
    netlist: str
    analysis: Analysis
    save: tuple[str, ...] = ()
    tolerances: Tolerances = FAST
    initial: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 27.0
    files: Mapping[str, Path | str] = field(default_factory=dict)
    options: Mapping[str, float | str] = field(default_factory=dict)
    time_limit: float = 600.0

    def __post_init__(self) -> None:
        if not self.title.isprintable():
            raise ConfigError(f"title must be one printable line, got {self.title!r}")
        _positive(self.title, time_limit=self.time_limit)
        if not (math.isfinite(self.temperature) and self.temperature > -273.15):
            raise ConfigError(f"{self.title}: temperature must be above -273.15 C, got {self.temperature!r}")
        for name in self.save:
            _word("saved vector", name)
        for node, volts in self.initial.items():
            _word("initial node", node)
            if not math.isfinite(volts):
                raise ConfigError(f"{self.title}: initial voltage of {node} must be finite, got {volts!r}")
        for name in self.files:
            if not re.fullmatch(r"[A-Za-z0-9_][\w.+-]*", name) or name in (DECK, RAW, OUT, ERR):
                raise ConfigError(f"{self.title}: {name!r} is not a plain file name")
        for key, value in self.options.items():
            _word("option", key)
            _word("option value", str(value))
        refuse_commands(self.netlist, f"{self.title}: netlist", frozenset(self.files), allow_options=False)

    def deck(self, rung: int = 0) -> str:
        """The deck's text as run on a rung of the retry ladder."""
        tolerances, analysis = self.tolerances, self.analysis
        settings: dict[str, float | str] = {"temp": self.temperature, **self.options}
        for step in LADDER[1 : rung + 1]:
            settings.update(step.options)
            tolerances = replace(tolerances, reltol=tolerances.reltol / step.tighten)
            analysis = analysis.halved() if step.halve else analysis
        settings = {**tolerances.settings(), **settings}
        lines = [
            f"* {self.title}",
            self.netlist.rstrip("\n"),
            ".options "
            + " ".join(f"{k}={v if isinstance(v, str) else _number(v)}" for k, v in settings.items()),
            *(f".ic v({node})={_number(volts)}" for node, volts in self.initial.items()),
            *(f".save {name}" for name in self.save),
            analysis.card(),
            ".end",
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Rung:
    """One step of the retry ladder; steps add up. None of them changes the circuit."""

    does: str
    options: Mapping[str, float | str] = field(default_factory=dict)
    halve: bool = False
    tighten: float = 1.0


LADDER = (
    Rung("as asked"),
    Rung(
        "more iterations, second-order Gear",
        {"itl1": 500, "itl2": 200, "itl4": 100, "method": "gear", "maxord": 2},
    ),
    Rung("half the largest time step", halve=True),
    Rung("a tenth of reltol", tighten=10.0),
)
"""What is tried, in order, when a run fails to converge (and only then)."""


_COMMANDS = re.compile(
    r"^\s*(?:\*\s*ng_script|\*#|\.control|\.endc|\.exec|\.pre_|pre_|shell\b|\.?codemodel\b|\.?osdi\b|\.hdl)",
    re.IGNORECASE,
)
_FILES = re.compile(
    r"\b(?:process_file|input_file|state_file|d_process|filesource)\b|\bfile\s*=", re.IGNORECASE
)
_RUNNERS_OWN = re.compile(
    r"^\s*\.(?:tran|dc|op|ac|noise|tf|sens|pz|disto|pss|four\w*|save|probe|print|plot|temp|end)\b",
    re.IGNORECASE,
)
_OPTIONS = re.compile(r"^\s*\.opt", re.IGNORECASE)
_INCLUDE = re.compile(r"^\s*\.(?:inc\w*|lib)(.*)$", re.IGNORECASE)


def _word(what: str, text: str) -> None:
    if not text or re.search(r"[\s;]", text) or not text.isprintable():
        raise ConfigError(f"{what} must be one word, got {text!r}")


@functools.lru_cache(maxsize=32)
def refuse_commands(text: str, where: str, files: frozenset[str], *, allow_options: bool) -> None:
    if "\0" in text:
        raise ConfigError(f"{where}: holds a NUL byte")
    for number, line in enumerate(text.splitlines(), start=1):
        here, lowered = f"{where}, line {number}", line.lower()
        names_files = ("file" in lowered or "d_process" in lowered) and _FILES.search(line)
        if names_files or _COMMANDS.match(line):
            raise ConfigError(f"{here}: runs a command or reads a file, refused: {line.strip()[:80]}")
        if _RUNNERS_OWN.match(line) or (not allow_options and _OPTIONS.match(line)):
            raise ConfigError(f"{here}: the runner writes this card, take it out: {line.strip()[:80]}")
        if match := _INCLUDE.match(line):
            _refuse_include(match, here, files)


def _refuse_include(match: re.Match[str], here: str, files: frozenset[str]) -> None:
    """`.include NAME` and `.lib NAME SECTION` need NAME among `files`; `.lib SECTION` opens a section."""
    words = re.findall(r"\"[^\"]*\"|'[^']*'|[^\s;$]+", match[1])
    is_lib = match[0].lstrip().lower().startswith(".lib")
    if is_lib and len(words) == 1 and re.fullmatch(r"\w+", words[0]):
        return
    if not words or len(words) > 1 + is_lib or words[0].strip("\"'") not in files:
        known = ", ".join(sorted(files)) or "none"
        raise ConfigError(
            f"{here}: includes a file that is not one of the job's ({known}): {match[0].strip()}"
        )
