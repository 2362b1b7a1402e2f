"""The one way this package runs ngspice: a `Job` goes in, a checked `RawData` or an error comes out.

    data = run(Job(title="rc", netlist=..., analysis=Transient(stop=5e-3), save=("v(out)",)))
    data["v(out)"], data.time

Each run is `ngspice -b -r` on one thread, in a directory and a process group of its own, under a time
limit. Success is judged by the raw file (there, complete, finite, at the analysis' end), never by the exit
code or by text on stderr.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Generic, TypeVar

from cmru_hw.config import cores
from cmru_hw.errors import ConfigError, SimulationError, SimulatorNotFound
from cmru_hw.spice.job import DECK, ERR, LADDER, OUT, RAW, Job, refuse_commands
from cmru_hw.spice.rawfile import Floats, Incomplete, Missed, RawData, read_raw

log = logging.getLogger(__name__)
T = TypeVar("T")

OLDEST = 36
"""The oldest ngspice major version accepted."""

INSTALL = "install it with: apt-get install ngspice"


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
        command = [*_ends_with_us(), *command]
        with (folder / OUT).open("wb") as out, (folder / ERR).open("wb") as err:
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
                in_time = _ends_within(process, limit)
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


@functools.cache
def _ends_with_us() -> tuple[str, ...]:
    """What a command begins with to be killed when this process is, where there is `setpriv` (Linux).

    In truth when the thread is that started it, and every thread here waits for what it starts.
    """
    begin = (shutil.which("setpriv") or "", "--pdeathsig", "KILL")
    ties = begin[0] and subprocess.run([*begin, "true"], capture_output=True, check=False).returncode == 0
    return begin if ties else ()


def _ends_within(process: subprocess.Popen[bytes], limit: float) -> bool:
    """Wait for a process to end, at most `limit` (s); whether it did.

    On Linux as soon as it does: `Popen.wait` with a limit looks every 50 ms, which of short runs is a tenth.
    """
    try:
        watched = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=limit)
        return process.returncode is not None
    try:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        return bool(poll.poll(min(1e3 * limit, 2**31 - 1)))
    finally:
        os.close(watched)


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


def _made(make: Callable[[], Job], program: Path, keep: Path | None, processes: _Processes) -> RawData:
    return _run(make(), program, keep, processes)


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
    deck = folder / DECK
    began = time.monotonic()
    for rung, step in enumerate(LADDER):
        deck.write_text(job.deck(rung), encoding="utf-8")
        try:
            abscissa, columns = _attempt(job, program, folder, processes)
        except Incomplete as error:
            said = _said(folder)
            line = _telling_line(said)
            mends = isinstance(error, Missed) or (error.retry and _CONVERGENCE.search(said))
            if mends and rung + 1 < len(LADDER):
                why = line or error
                log.warning("%s: %s; rung %d: %s", job.title, why, rung + 1, LADDER[rung + 1].does)
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
    return "\n".join((folder / name).read_text("latin-1") for name in (ERR, OUT))


def _attempt(
    job: Job, program: Path, folder: Path, processes: _Processes
) -> tuple[Floats, dict[str, Floats]]:
    raw = folder / RAW
    raw.unlink(missing_ok=True)
    if not processes.run([str(program), "-b", "-r", RAW, DECK], folder, job.time_limit):
        raise Incomplete(f"not done within the time limit of {job.time_limit:g} s", retry=False)
    if missing := _IGNORED_START.findall(_said(folder)):
        nodes = ", ".join(missing)
        raise Incomplete(f"no such node, so its initial voltage was ignored: {nodes}", retry=False)
    return read_raw(raw, job)


def _write_files(job: Job, folder: Path) -> None:
    (folder / ".spiceinit").write_text("set num_threads=1\nset filetype=binary\n")
    names = frozenset(job.files)
    for name, source in job.files.items():
        try:
            text = source.read_text("latin-1") if isinstance(source, Path) else source
        except OSError as error:
            raise ConfigError(f"{source}: cannot be read: {error.strerror}") from error
        where = str(source) if isinstance(source, Path) else f"{job.title}: {name}"
        refuse_commands(text, where, names, allow_options=True)
        (folder / name).write_text(text, "latin-1" if isinstance(source, Path) else "utf-8")


Steps = Generator[Sequence[Callable[[], Job]], list[RawData], T]
"""A task of several runs: yields what makes jobs that may run at once, is sent their results, returns what it
made. Jobs are made beside those that run."""


def drive(
    tasks: Iterable[Steps[T]], workers: int | None = None, *, keep: Path | None = None
) -> Iterator[tuple[int, T]]:
    """Take tasks to their ends on `workers` processes (default: one a core), yielding (index, what it made).

    The first failure is raised after every result already there was yielded, so a caller that stores what it
    gets loses nothing; the runs still going are killed, as they are on Ctrl-C and when the caller stops
    iterating. A task begins when a worker is free and no begun one has a job for it.
    """
    program, _ = find_ngspice()
    if workers is None:
        workers = cores()
    if workers < 1:
        raise ConfigError(f"workers must be 1 or more, got {workers}")
    processes = _Processes()
    waiting = enumerate(tasks)
    begun: dict[int, _Begun[T]] = {}
    ready: deque[tuple[int, int, Callable[[], Job]]] = deque()  # task, which of its jobs, what makes it
    running: dict[Future[RawData], tuple[int, int]] = {}
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ngspice")
    try:
        while True:
            while len(running) < workers:
                if ready:
                    index, k, make = ready.popleft()
                    running[pool.submit(_made, make, program, keep, processes)] = index, k
                elif (entry := next(waiting, None)) is not None:
                    index, begun[entry[0]] = entry[0], _Begun(entry[1])
                    yield from _go_on(index, begun, ready)
                else:
                    break
            if not running:
                return
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            failure: BaseException | None = None
            for future in sorted(finished, key=running.__getitem__):
                index, k = running.pop(future)
                if (error := future.exception()) is not None:
                    failure = failure or error
                    continue
                begun[index].results[k] = future.result()
                try:
                    yield from _go_on(index, begun, ready)
                except (SimulationError, ConfigError) as error:
                    failure = failure or error
            if failure is not None:
                raise failure
    finally:
        processes.stop()
        pool.shutdown(wait=True, cancel_futures=True)


class _Begun(Generic[T]):
    """A task under way, with the results of its last jobs."""

    def __init__(self, steps: Steps[T]) -> None:
        self.steps, self.jobs = steps, 0
        self.results: dict[int, RawData] = {}


def _go_on(
    index: int, begun: dict[int, _Begun[T]], ready: deque[tuple[int, int, Callable[[], Job]]]
) -> list[tuple[int, T]]:
    """If all that a task waits for is there, ask it for its next jobs; it, with what it made, if it ended."""
    task = begun[index]
    if len(task.results) < task.jobs:
        return []
    results = [task.results[k] for k in range(task.jobs)]
    try:
        jobs = task.steps.send(results) if results else next(task.steps)
    except StopIteration as end:
        del begun[index]
        return [(index, end.value)]
    task.jobs, task.results = len(jobs), {}
    ready.extend((index, k, make) for k, make in enumerate(jobs))
    return []


def imap(
    jobs: Iterable[Job],
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    *,
    keep: Path | None = None,
) -> Iterator[tuple[int, RawData]]:
    """Run jobs as `drive` does tasks; `progress` is called with the number of results so far."""

    def alone(job: Job) -> Steps[RawData]:
        (data,) = yield [lambda: job]
        return data

    for done, entry in enumerate(drive(map(alone, jobs), workers, keep=keep), start=1):
        if progress is not None:
            progress(done)
        yield entry


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
