"""The one way this package runs ngspice: a `Job` goes in, a checked `RawData` or an error comes out.

    job = Job(
        title="rc",
        netlist="V1 in 0 pulse(0 1 0 1u 1u 1 2)\\nR1 in out 1k\\nC1 out 0 1u",
        analysis=Transient(stop=5e-3, max_step=10e-6),
        save=("v(out)",),
    )
    data = run(job)
    data["v(out)"], data.time

Each run is `ngspice -b -r` on one thread, in a directory and a process group of its own, under a time
limit. Success is judged by the raw file (there, complete, finite, at the analysis' end), never by the exit
code or by text on stderr. The runner writes `.options`, `.ic`, `.save`, the analysis and `.end` itself, so
a netlist that holds any of them, or anything that makes ngspice run commands, is refused.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cmru_hw.errors import ConfigError, SimulationError, SimulatorNotFound

log = logging.getLogger(__name__)

OLDEST = 36
"""The oldest ngspice major version accepted."""

INSTALL = "install it with: apt-get install ngspice"

Floats = NDArray[np.float64]


class NgspiceError(SimulationError):
    """A run that gave no usable result.

    `deck` is the kept deck (its directory also holds ngspice's own output), `line` what the simulator said,
    empty when it said nothing.
    """

    def __init__(self, message: str, deck: Path | None = None, line: str = "") -> None:
        super().__init__(message)
        self.deck = deck
        self.line = line


# --- the simulator ---------------------------------------------------------------------------------------


def find_ngspice() -> tuple[Path, int]:
    """Path and major version of ngspice: `$CMRU_HW_NGSPICE` if set, else `ngspice` on the PATH.

    Raises SimulatorNotFound if there is none, it is not ngspice, or it is older than `OLDEST`.
    """
    asked = os.environ.get("CMRU_HW_NGSPICE")
    found = shutil.which(asked or "ngspice")
    if found is None:
        looked = f"CMRU_HW_NGSPICE={asked} (no such program)" if asked else "`ngspice` on the PATH"
        raise SimulatorNotFound(f"no ngspice: looked for {looked}; {INSTALL}")
    path = Path(found).resolve()
    version = _version(path, path.stat().st_mtime_ns)
    if version is None:
        raise SimulatorNotFound(f"{found}: `{path.name} -v` names no ngspice version; {INSTALL}")
    if version < OLDEST:
        raise SimulatorNotFound(f"{found}: ngspice {version} is too old, {OLDEST} or newer needed; {INSTALL}")
    return path, version


@functools.lru_cache(maxsize=8)
def _version(path: Path, mtime_ns: int) -> int | None:
    try:
        done = subprocess.run([path, "-v"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    match = re.search(r"ngspice-(\d+)", done.stdout + done.stderr)
    return int(match[1]) if match else None


# --- what to run -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tolerances:
    """Numerical options of the simulator; the presets come from `circuits/MEASURED.md`, traps 2 and 3."""

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


FAST = Tolerances(gmin=1e-15, abstol=1e-13, vntol=1e-5, reltol=1e-3, chgtol=1e-15)
"""Enough for the 9T cell; lies, silently, about clocked latches."""

LATCH = Tolerances(gmin=1e-18, abstol=1e-16, vntol=1e-6, reltol=1e-4, chgtol=1e-18, trtol=7.0)
"""For clocked latches and held charge."""


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


@dataclass(frozen=True)
class Transient:
    """`.tran`, all in seconds. `uic` starts from `Job.initial` without an operating point."""

    stop: float
    max_step: float | None = None
    print_step: float | None = None
    uic: bool = False

    def __post_init__(self) -> None:
        _positive("transient", stop=self.stop, max_step=self.max_step, print_step=self.print_step)

    def card(self) -> str:
        """`.tran STEP STOP 0 MAX_STEP`; ngspice's own limit on the step is stop / 50."""
        limit = self.max_step if self.max_step is not None else self.stop / 50
        step = self.print_step if self.print_step is not None else limit
        return f".tran {_number(step)} {_number(self.stop)} 0 {_number(limit)}" + (" uic" if self.uic else "")

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
            if not re.fullmatch(r"[A-Za-z0-9_][\w.+-]*", name) or name in _OWN_FILES:
                raise ConfigError(f"{self.title}: {name!r} is not a plain file name")
        for key, value in self.options.items():
            _word("option", key)
            _word("option value", str(value))
        _refuse_commands(self.netlist, f"{self.title}: netlist", frozenset(self.files), allow_options=False)

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


# --- refusing decks that run code ------------------------------------------------------------------------

_DECK, _RAW, _OUT, _ERR, _INIT = "deck.cir", "out.raw", "stdout.txt", "stderr.txt", ".spiceinit"
_OWN_FILES = {_DECK, _RAW, _OUT, _ERR}

_COMMANDS = re.compile(
    r"^\s*(?:\*\s*ng_script|\*#|\.control|\.endc|\.exec|\.pre_|pre_|shell\b|\.?codemodel\b|\.?osdi\b|\.hdl)"
    r"|\b(?:process_file|input_file|state_file|d_process|filesource)\b|\bfile\s*=",
    re.IGNORECASE,
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
def _refuse_commands(text: str, where: str, files: frozenset[str], *, allow_options: bool) -> None:
    if "\0" in text:
        raise ConfigError(f"{where}: holds a NUL byte")
    for number, line in enumerate(text.splitlines(), start=1):
        here = f"{where}, line {number}"
        if _COMMANDS.search(line):
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


# --- what comes back -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RawData:
    """A complete, finite result. Names are ngspice's, in lower case: `v(out)`, `i(vdd)`, `v(x1.node)`.

    `abscissa` is time (s), the swept value (V, A) or frequency (Hz); for an operating point a single 0.
    `rung` says which step of `LADDER` it took (0: as asked), `wall_s` all attempts together, `warnings` what
    the simulator complained about without failing.
    """

    abscissa: Floats
    columns: Mapping[str, Floats]
    rung: int = 0
    wall_s: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def time(self) -> Floats:
        """The abscissa under the name it has in a transient, s."""
        return self.abscissa

    @property
    def names(self) -> tuple[str, ...]:
        """The vectors there are, without the abscissa."""
        return tuple(self.columns)

    def __contains__(self, name: str) -> bool:
        return _lookup(name, self.columns) is not None

    def __getitem__(self, name: str) -> Floats:
        found = _lookup(name, self.columns)
        if found is None:
            there = ", ".join(self.names[:40]) + (", ..." if len(self.names) > 40 else "")
            raise SimulationError(f"no vector {name!r} in the result; there are: {there}")
        return self.columns[found]

    def sample(self, at: ArrayLike, names: Iterable[str] | None = None) -> dict[str, Floats]:
        """Each of `names` (default: all) linearly interpolated at `at`, which must lie within the run."""
        points = np.asarray(at, dtype=np.float64)
        base = self.abscissa
        order = slice(None, None, -1) if base[-1] < base[0] else slice(None)
        base = base[order]
        slack = 1e-9 * (base[-1] - base[0])
        if points.size and not (points.min() >= base[0] - slack and points.max() <= base[-1] + slack):
            raise SimulationError(f"samples must lie within {base[0]:g} to {base[-1]:g}, the run's range")
        asked = self.names if names is None else tuple(names)
        return {name: np.interp(points, base, self[name][order]) for name in asked}


def _lookup(name: str, columns: Iterable[str]) -> str | None:
    """The column for `name`; ngspice calls a saved `@device[current]` `i(@device[current])`."""
    lower = name.lower()
    for candidate in (lower, f"i({lower})", f"v({lower})") if lower.startswith("@") else (lower,):
        if candidate in columns:
            return candidate
    return None


class _Incomplete(Exception):
    """The raw file is not a whole result; the text says why, `retry` whether another rung could mend it."""

    def __init__(self, reason: str, retry: bool = True) -> None:
        super().__init__(reason)
        self.retry = retry


def _parse_raw(content: bytes) -> list[tuple[list[str], Floats]]:
    """The plots in a binary raw file: names (abscissa first) and values [points, names]."""
    plots = []
    at = 0
    while at < len(content):
        mark = content.find(b"Binary:\n", at)
        if mark < 0:
            raise _Incomplete("the raw file ends inside a header")
        header = content[at:mark].decode("latin-1")
        count = {
            key: re.search(rf"^No\. {key}:\s*(\d+)", header, re.MULTILINE) for key in ("Variables", "Points")
        }
        names = re.findall(r"^\t\d+\t(\S+)\t", header, re.MULTILINE)
        columns, points = (int(found[1]) if found else 0 for found in count.values())
        if not columns or columns != len(names):
            raise _Incomplete("the raw file's header is damaged")
        if not re.search(r"^Flags:\s*real", header, re.MULTILINE):
            raise _Incomplete("the raw file is not real-valued")
        start = mark + len(b"Binary:\n")
        at = start + 8 * columns * points
        if points == 0:
            raise _Incomplete("the raw file holds no points")
        if at > len(content):
            raise _Incomplete(f"the raw file is cut short: {len(content) - start} of {at - start} bytes")
        values = np.frombuffer(content, "<f8", columns * points, start).reshape(points, columns)
        plots.append(([name.lower() for name in names], values.astype(np.float64)))
    if not plots:
        raise _Incomplete("the raw file is empty")
    return plots


def read_raw(path: Path, job: Job) -> tuple[Floats, dict[str, Floats]]:
    """Abscissa and columns of `job`'s raw file; `_Incomplete` unless it is the whole, finite result."""
    try:
        content = path.read_bytes()
    except OSError:
        raise _Incomplete("no raw file was written") from None
    plots = _parse_raw(content)
    names, values = plots[0]
    if isinstance(job.analysis, OperatingPoint):
        abscissa, columns = np.zeros(1), dict(zip(names, values.T.copy(), strict=True))
    else:
        abscissa, columns = values[:, 0].copy(), dict(zip(names[1:], values[:, 1:].T.copy(), strict=True))
    for more, totals in plots[1:]:
        columns.update(zip(more, totals.T.copy(), strict=True))
    if not job.analysis.reached(float(abscissa[-1])):
        raise _Incomplete(f"the analysis stopped at {abscissa[-1]:g}, before its end")
    for name, column in {"abscissa": abscissa, **columns}.items():
        if not np.isfinite(column).all():
            raise _Incomplete(f"{name} is not finite at point {int(np.argmin(np.isfinite(column)))}")
    for name in job.save:
        if name.lower() != "all" and _lookup(name, columns) is None:
            what = f"no such vector {name!r}: the circuit has no such node or branch"
            raise _Incomplete(what, retry=False)
    return abscissa, columns


# --- what the simulator says -----------------------------------------------------------------------------

_CONVERGENCE = re.compile(
    r"timestep too small|singular matrix|no convergence|iteration limit|convergence problem"
    r"|(?:op|solution|stepping) failed",
    re.IGNORECASE,
)
_TELLING = (
    r"timestep too small;.*",
    r"^error on line|^netlist line no",
    r"could not find include|unknown subckt|no such vector|can't find",
    r"timestep too small|iteration limit|no convergence",
    r"singular matrix",
    r"^\W*(?:fatal )?error\b",
    r"\berror\b|\bfatal\b|failed",
)
_HARMLESS = re.compile(
    r"can't find init|compatibility mode|no active circuit|^trying gmin|stepping|^supplies", re.I
)
_IGNORED_START = re.compile(r"(?:IC|NODESET) on non-existent node - (\S+?),", re.IGNORECASE)


def _telling_line(text: str) -> str:
    """The line in ngspice's output that says what went wrong, with the line it refers to; or nothing."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    for pattern in _TELLING:
        for index, line in enumerate(lines):
            if re.search(pattern, line, re.IGNORECASE) and not _HARMLESS.search(line):
                follow = {"error on": 2, "netlist ": 1}.get(line[:8].lower(), 0)
                return " | ".join(lines[index : index + 1 + follow])
    return ""


def _warnings(text: str) -> tuple[str, ...]:
    lines = (" ".join(line.split()) for line in text.splitlines())
    kept = (line for line in lines if re.match(r"warning\b", line, re.I) and not _CONVERGENCE.search(line))
    return tuple(dict.fromkeys(line for line in kept if "gmin increment" not in line))


# --- running ---------------------------------------------------------------------------------------------


class _Cancelled(Exception):
    """This run was stopped because another failed or the caller gave up."""


class _Processes:
    """The live simulators of one call, so that all can be killed at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, command: list[str], folder: Path, limit: float) -> bool:
        """Run to the end; False if it was killed at the time limit (s). Raises _Cancelled once stopped."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SPICE_")}
        environment |= {"OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1", "LC_ALL": "C"}
        with (folder / _OUT).open("wb") as out, (folder / _ERR).open("wb") as err:
            with self._lock:
                if self._stopped:
                    raise _Cancelled
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
                self._live.add(process)
            try:
                process.wait(timeout=limit)
                in_time = True
            except subprocess.TimeoutExpired:
                in_time = False
            finally:
                _kill(process)
                with self._lock:
                    self._live.discard(process)
        if self._stopped:
            raise _Cancelled
        return in_time

    def stop(self) -> None:
        """Kill every live simulator and let no other start."""
        with self._lock:
            self._stopped = True
            for process in self._live:
                _signal_group(process)


def _signal_group(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        _signal_group(process)
        process.wait()


def run(job: Job, *, keep: Path | None = None) -> RawData:
    """Run one job. Raises NgspiceError (a SimulationError) with the deck kept, in `keep` if given.

    A run that fails to converge is tried again on the rungs of `LADDER`. Nothing is kept of a success, nor
    after Ctrl-C, which kills the simulator and propagates.
    """
    return _run(job, find_ngspice()[0], keep, _Processes())


def _run(job: Job, program: Path, keep: Path | None, processes: _Processes) -> RawData:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"\W+", "-", job.title)[:40].strip("-") or "job"
    folder = Path(tempfile.mkdtemp(prefix=f"cmru-hw-{slug}-", dir=keep))
    try:
        result = _climb(job, program, folder, processes)
    except NgspiceError:
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    return result


def _climb(job: Job, program: Path, folder: Path, processes: _Processes) -> RawData:
    _write_files(job, folder)
    deck = folder / _DECK
    began = time.monotonic()
    for rung, step in enumerate(LADDER):
        deck.write_text(job.deck(rung), encoding="utf-8")
        try:
            abscissa, columns = _attempt(job, program, folder, processes)
        except _Incomplete as error:
            said = _said(folder)
            line = _telling_line(said)
            if error.retry and _CONVERGENCE.search(said) and rung + 1 < len(LADDER):
                log.warning("%s: %s; rung %d: %s", job.title, line, rung + 1, LADDER[rung + 1].does)
                continue
            parts = (
                f"ngspice: {line}" if line else "",
                str(error),
                f"last rung: {step.does}" if rung else "",
            )
            text = "; ".join(part for part in parts if part)
            raise NgspiceError(f"{job.title}: {text} (deck: {deck})", deck, line) from None
        warnings = _warnings(_said(folder))
        for line in warnings:
            log.debug("%s: ngspice: %s", job.title, line)
        return RawData(abscissa, columns, rung, time.monotonic() - began, warnings)
    raise AssertionError("the last rung returns or raises")


def _said(folder: Path) -> str:
    return "\n".join((folder / name).read_text("latin-1") for name in (_ERR, _OUT))


def _attempt(
    job: Job, program: Path, folder: Path, processes: _Processes
) -> tuple[Floats, dict[str, Floats]]:
    raw = folder / _RAW
    raw.unlink(missing_ok=True)
    if not processes.run([str(program), "-b", "-r", _RAW, _DECK], folder, job.time_limit):
        raise _Incomplete(f"not done within the time limit of {job.time_limit:g} s", retry=False)
    if missing := _IGNORED_START.findall(_said(folder)):
        nodes = ", ".join(missing)
        raise _Incomplete(f"no such node, so its initial voltage was ignored: {nodes}", retry=False)
    return read_raw(raw, job)


def _write_files(job: Job, folder: Path) -> None:
    (folder / _INIT).write_text("set num_threads=1\nset filetype=binary\n")
    names = frozenset(job.files)
    for name, source in job.files.items():
        try:
            text = source.read_text("latin-1") if isinstance(source, Path) else source
        except OSError as error:
            raise ConfigError(f"{source}: cannot be read: {error.strerror}") from error
        where = str(source) if isinstance(source, Path) else f"{job.title}: {name}"
        _refuse_commands(text, where, names, allow_options=True)
        (folder / name).write_text(text, "latin-1" if isinstance(source, Path) else "utf-8")


def imap(
    jobs: Iterable[Job],
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    *,
    keep: Path | None = None,
) -> Iterator[tuple[int, RawData]]:
    """Run jobs on `workers` processes (default: one a core), yielding (index, result) as they finish.

    The first failure is raised after every result already there was yielded, so a caller that stores what it
    gets loses nothing; the runs still going are killed, as they are on Ctrl-C and when the caller stops
    iterating. `jobs` is read as workers become free. `progress` is called with the number of results so far.
    """
    program, _ = find_ngspice()
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers < 1:
        raise ConfigError(f"workers must be 1 or more, got {workers}")
    processes = _Processes()
    waiting = enumerate(jobs)
    running: dict[Future[RawData], int] = {}
    done_count = 0
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ngspice")
    try:
        while True:
            while len(running) < workers and (entry := next(waiting, None)) is not None:
                running[pool.submit(_run, entry[1], program, keep, processes)] = entry[0]
            if not running:
                return
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            failure: BaseException | None = None
            for future in sorted(finished, key=running.__getitem__):
                index = running.pop(future)
                if (error := future.exception()) is not None:
                    failure = failure or error
                    continue
                done_count += 1
                if progress is not None:
                    progress(done_count)
                yield index, future.result()
            if failure is not None:
                raise failure
    finally:
        processes.stop()
        pool.shutdown(wait=True, cancel_futures=True)


def run_many(
    jobs: Iterable[Job],
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    *,
    keep: Path | None = None,
) -> list[RawData]:
    """All results in the order of `jobs`, or the first failure; see `imap` to keep finished work."""
    results = dict(imap(jobs, workers, progress, keep=keep))
    return [results[index] for index in range(len(results))]
