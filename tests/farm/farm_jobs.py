"""Jobs for the tests of the farm; a module of its own, so that other processes can import it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmru_hw.errors import SimulationError
from cmru_hw.farm import Arrays


@dataclass(frozen=True)
class Context:
    """A factor, and a folder in which jobs leave a mark each time that they run."""

    factor: float
    marks: Path
    deadly: tuple[int, ...] = ()  # jobs that kill their process
    deaths: int = 1  # how many times each of them does
    failing: tuple[int, ...] = ()  # jobs that fail, after those before them have finished


def scaled(context: Context, job: int) -> Arrays:
    """factor * [0 .. job]."""
    mark = context.marks / f"{job}_{time.time_ns()}_{os.getpid()}"
    mark.touch()
    if job in context.deadly and runs(context.marks, job) <= context.deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    if job in context.failing:
        while not all((context.marks / f"done_{other}").exists() for other in range(job)):
            time.sleep(0.01)
        time.sleep(0.2)
        raise SimulationError(f"job {job} does not converge")
    (context.marks / f"done_{job}").touch()
    return {"scaled": context.factor * np.arange(job + 1.0)}


def runs(marks: Path, job: int) -> int:
    """How many times a job was begun."""
    return len(list(marks.glob(f"{job}_*")))


def slowly(context: Context, job: int) -> Arrays:
    """`scaled`, after a moment."""
    time.sleep(0.15)
    return scaled(context, job)
