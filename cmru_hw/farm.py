"""Many jobs: on processes of this machine, or on the workers of a Dask cluster; finished ones are kept.

    farm = Farm(workers=2)
    results = run_jobs(accuracies, context, {"chips_0": range(0, 50), "chips_50": range(50, 100)}, farm)

A job is a call `function(context, job)`. The function is one of a module, context and jobs can be pickled,
and what a job gives depends on these alone, so results are the same wherever and in whatever order they ran.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from threadpoolctl import threadpool_limits

from cmru_hw import __version__
from cmru_hw.config import cores, program_hash, write_atomically
from cmru_hw.errors import ConfigError, WorkError
from cmru_hw.memory import keep_freed_memory

Arrays = Mapping[str, NDArray[Any]]
C = TypeVar("C")
J = TypeVar("J")
Function = Callable[[C, J], Arrays]
Finished = Generator[tuple[str, Arrays], None, None]
Here = Callable[[C, Mapping[str, J], int], Finished]

IDENTITY = "identity.json"
LOSSES = 3  # times that workers may die without a job having been finished in between
REACH = 10.0  # s to wait for a scheduler


@dataclass(frozen=True)
class Farm:
    """Where jobs run: `workers` processes (default: one a core), or the workers of a Dask `scheduler`."""

    workers: int | None = None
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers must be 1 or more, got {self.workers}")
        if self.workers is not None and self.scheduler is not None:
            raise ConfigError("workers: a scheduler has workers of its own; give one or the other")

    @property
    def processes(self) -> int:
        """Of this machine."""
        return self.workers or cores()


class Keeper(Protocol):
    """What keeps results by key."""

    def get(self, key: str) -> Arrays | None:
        """The result of a job; None if it is to be run."""

    def put(self, key: str, result: Arrays) -> None:
        """Keep a result."""


class Store:
    """A folder with the results of jobs, one file each, of one `identity` (plain values)."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Raises ConfigError, naming what differs, if the folder holds the results of something else."""
        self.folder = folder
        self._mark = {**json.loads(json.dumps(dict(identity))), "program": program_hash()}
        path = folder / IDENTITY
        if path.exists():
            try:
                before = dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as error:
                raise ConfigError(
                    f"{path}: not the identity of a store: {error}; delete the folder"
                ) from error
            for key in sorted(before.keys() | self._mark.keys()):
                if before.get(key) != self._mark.get(key):
                    was, now = (f"{one.get(key)!r:.60}" for one in (before, self._mark))
                    raise ConfigError(
                        f"{folder}: holds results of {key} = {was}, now {now}; "
                        "choose another folder or delete it"
                    )
        elif any(not path.name.startswith(".") for path in folder.glob("*")):
            raise ConfigError(f"{folder}: holds other files than results; choose another folder")

    def get(self, key: str) -> Arrays | None:
        """The result of a job; None if there is none. Raises ConfigError if its file is not whole."""
        path = self._path(key)
        try:
            return load(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path}: not a finished result: {error}; delete it to run it again") from error

    def put(self, key: str, result: Arrays) -> None:
        """Keep a result. Raises WorkError if the disk does not take it."""
        try:
            if not (self.folder / IDENTITY).exists():
                write_atomically(
                    self.folder / IDENTITY, json.dumps(self._mark, indent=1, sort_keys=True) + "\n"
                )
            write_atomically(self._path(key), save({name: np.asarray(a) for name, a in result.items()}))
        except OSError as error:
            raise WorkError(
                f"{self._path(key)}: cannot be written: {error.strerror}; finished results are kept, "
                "the same command goes on from them"
            ) from error

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def run_jobs(
    function: Function[C, J],
    context: C,
    jobs: Mapping[str, J],
    farm: Farm | None = None,
    store: Keeper | None = None,
    progress: Callable[[int], None] | None = None,
    here: Here[C, J] | None = None,
) -> dict[str, Arrays]:
    """Results by key, in the order of `jobs`; those in the store are not run again.

    `here(context, jobs, workers)` runs jobs on this machine where they start processes of their own.

    `progress` is told how many jobs are done. A worker that dies has its jobs done again. Raises what the
    first job that fails raises (finished ones are in the store), ConfigError for a key that is no plain name
    or a scheduler that cannot be used, WorkError if workers keep dying.
    """
    for key in jobs:
        if not re.fullmatch(r"\w[\w.+-]*", key):
            raise ConfigError(f"job: {key!r} is not a plain name")
    found = {key: kept for key in jobs if store and (kept := store.get(key)) is not None}
    missing = {key: job for key, job in jobs.items() if key not in found}
    if progress:
        progress(len(found))
    with closing(_run(function, context, missing, farm or Farm(), here)) as finished:
        for key, result in finished:
            found[key] = result
            if store:
                store.put(key, result)
            if progress:
                progress(len(found))
    return {key: found[key] for key in jobs}


@dataclass(frozen=True)
class Estimate:
    """What jobs will take: `seconds` in all and `bytes_a_worker`, from one that was run."""

    jobs: int
    kept: int
    seconds_a_job: float
    workers: int
    bytes_a_worker: int

    @property
    def seconds(self) -> float:
        """With every worker busy."""
        return (self.jobs - self.kept) * self.seconds_a_job / self.workers


def estimate(
    function: Function[C, J], context: C, jobs: Mapping[str, J], farm: Farm, store: Store | None = None
) -> Estimate:
    """Run the first job twice here (the second is timed, so that nothing is compiled in it), and reckon."""
    kept = sum(store.get(key) is not None for key in jobs) if store else 0
    first = next(iter(jobs.values()))
    _alone(function, context, first)
    began = time.perf_counter()
    _alone(function, context, first)
    seconds = time.perf_counter() - began
    if farm.scheduler is None:
        workers = farm.processes
    else:
        with closing(_client(farm.scheduler)) as client:
            workers = sum(client.nthreads().values())
    return Estimate(len(jobs), kept, seconds, workers, peak_bytes())


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _alone(function: Function[C, J], context: C, job: J) -> Arrays:
    """A job on one thread of BLAS, whose sums then do not depend on how many there are, and of numba.

    Compiled loops on more threads than torch's make OpenMP build its team anew at every call.
    """
    keep_freed_memory()
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        with threadpool_limits(1):
            return function(context, job)
    finally:
        numba.set_num_threads(threads)


def _run(
    function: Function[C, J], context: C, jobs: Mapping[str, J], farm: Farm, here: Here[C, J] | None
) -> Finished:
    if farm.scheduler is not None:
        yield from _on_cluster(function, context, jobs, farm.scheduler)
    elif here is not None:
        yield from here(context, jobs, farm.processes)
    elif farm.processes == 1 or len(jobs) <= 1:
        for key, job in jobs.items():
            yield key, _alone(function, context, job)
    else:
        yield from _on_processes(function, context, jobs, min(farm.processes, len(jobs)))


# --- processes ----------------------------------------------------------------------------------------------

IDLE = 30  # s after which processes that wait for jobs end


def _on_processes(function: Function[C, J], context: C, jobs: Mapping[str, J], processes: int) -> Finished:
    from loky import as_completed, get_reusable_executor
    from loky.process_executor import TerminatedWorkerError

    left, losses = dict(jobs), 0
    with tempfile.TemporaryDirectory(prefix="cmru-hw-") as folder, warnings.catch_warnings():
        # One that was idle may end just as there are jobs again, and one that grew is restarted between jobs;
        # another takes its place.
        for what in ("stopped", "was restarted"):
            warnings.filterwarnings("ignore", f"A worker {what} while some jobs were given", UserWarning)
        shared = Path(folder, "context")
        shared.write_bytes(pickle.dumps(context))
        while left:
            pool = get_reusable_executor(processes, timeout=IDLE)
            try:
                futures = {pool.submit(_in_process, function, shared, job): key for key, job in left.items()}
                for future in as_completed(futures):
                    yield futures[future], future.result()
                    del left[futures[future]]
                    losses = 0
            except TerminatedWorkerError as error:
                losses += 1
                if losses == LOSSES:
                    raise WorkError(
                        f"workers died {losses} times without finishing a job, for want of memory perhaps: "
                        f"{len(left)} of {len(jobs)} jobs are left; try fewer workers"
                    ) from error
            except Exception:  # Others may have finished with the one that failed.
                for future, key in futures.items():
                    if key in left and future.done() and not future.cancelled() and not future.exception():
                        yield key, future.result()
                raise
            finally:
                if left:
                    pool.shutdown(kill_workers=True)


def _in_process(function: Function[C, J], shared: Path, job: J) -> Arrays:
    return _alone(function, _context(shared), job)


@lru_cache(maxsize=1)
def _context(shared: Path) -> Any:
    return pickle.loads(shared.read_bytes())  # noqa: S301, written by the process that handed out the job


# --- Dask ---------------------------------------------------------------------------------------------------


def _client(address: str) -> Any:
    """A client of a scheduler whose workers run this program. Raises ConfigError if there is none."""
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError("scheduler: Dask is not installed: pip install 'cmru-hw[cluster]'") from error
    try:
        client = Client(address, timeout=REACH, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"scheduler {address}: cannot be reached: {error}") from error
    try:
        client.wait_for_workers(1, timeout=REACH)
        programs = client.run(_program)
    except (OSError, ImportError, AttributeError) as error:
        client.close()
        raise ConfigError(f"scheduler {address}: its workers cannot be used: {error}") from error
    for worker, program in programs.items():
        if program != _program():
            client.close()
            raise ConfigError(
                f"scheduler {address}: worker {worker} has cmru-hw {program}, here it is {_program()}; "
                "install the same version on both"
            )
    return client


def _program() -> str:
    return f"{__version__} ({program_hash()})"


def _on_cluster(function: Function[C, J], context: C, jobs: Mapping[str, J], address: str) -> Finished:
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    with closing(_client(address)) as client:
        # Submitted, not scattered: a worker that dies with it does not take the only copy along.
        shared = client.submit(_itself, context, pure=False)
        futures = {
            client.submit(_alone, function, shared, job, pure=False, retries=0): key
            for key, job in jobs.items()
        }
        try:
            for future, result in as_completed(futures, loop=client.loop, with_results=True):
                yield futures[future], result
                future.release()
        except KilledWorker as error:
            raise WorkError(f"scheduler {address}: {error}") from error
        finally:
            client.cancel(list(futures), force=True)


def _itself(context: C) -> C:
    return context


def chunks(numbers: range, size: int, name: str) -> dict[str, range]:
    """Ranges of at most `size` numbers as jobs, by `{name}_{first}_{last}`."""
    parts = [numbers[first : first + size] for first in range(0, len(numbers), size)]
    return {f"{name}_{part[0]:08d}_{part[-1]:08d}": part for part in parts}


def digest(*arrays: NDArray[Any]) -> str:
    """Short hash of arrays and their shapes, for an identity."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]
