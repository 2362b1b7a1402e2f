"""ngspice's binary raw file: read, checked to be the whole, finite result, and given names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cmru_hw.errors import SimulationError
from cmru_hw.spice.job import Job, OperatingPoint, Transient

Floats = NDArray[np.float64]


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

    def average(self, name: str, of: Callable[[Any], Any] = np.positive) -> float:
        """The time average of `of` a vector's values."""
        base = self.abscissa
        return float(np.trapezoid(of(self[name]), base) / (base[-1] - base[0]))


def _lookup(name: str, columns: Iterable[str]) -> str | None:
    """The column for `name`; ngspice calls a saved `@device[current]` `i(@device[current])`."""
    lower = name.lower()
    for candidate in (lower, f"i({lower})", f"v({lower})") if lower.startswith("@") else (lower,):
        if candidate in columns:
            return candidate
    return None


class Incomplete(Exception):
    """The raw file is not a whole result; the text says why, `retry` whether another rung could mend it."""

    def __init__(self, reason: str, retry: bool = True) -> None:
        super().__init__(reason)
        self.retry = retry


class Missed(Incomplete):
    """The run stepped over a corner of a source; with other steps it need not."""


def _parse_raw(content: bytes) -> list[tuple[list[str], Floats]]:
    """The plots in a binary raw file: names (abscissa first) and values [points, names]."""
    plots = []
    at = 0
    while at < len(content):
        mark = content.find(b"Binary:\n", at)
        if mark < 0:
            raise Incomplete("the raw file ends inside a header")
        header = content[at:mark].decode("latin-1")
        count = {
            key: re.search(rf"^No\. {key}:\s*(\d+)", header, re.MULTILINE) for key in ("Variables", "Points")
        }
        names = re.findall(r"^\t\d+\t(\S+)\t", header, re.MULTILINE)
        columns, points = (int(found[1]) if found else 0 for found in count.values())
        if not columns or columns != len(names):
            raise Incomplete("the raw file's header is damaged")
        if not re.search(r"^Flags:\s*real", header, re.MULTILINE):
            raise Incomplete("the raw file is not real-valued")
        start = mark + len(b"Binary:\n")
        at = start + 8 * columns * points
        if points == 0:
            raise Incomplete("the raw file holds no points")
        if at > len(content):
            raise Incomplete(f"the raw file is cut short: {len(content) - start} of {at - start} bytes")
        values = np.frombuffer(content, "<f8", columns * points, start).reshape(points, columns)
        plots.append(([name.lower() for name in names], values.astype(np.float64)))
    if not plots:
        raise Incomplete("the raw file is empty")
    return plots


def read_raw(path: Path, job: Job) -> tuple[Floats, dict[str, Floats]]:
    """Abscissa and columns of `job`'s raw file; `Incomplete` unless it is the whole, finite result."""
    try:
        content = path.read_bytes()
    except OSError:
        raise Incomplete("no raw file was written") from None
    plots = _parse_raw(content)
    names, values = plots[0]
    if isinstance(job.analysis, OperatingPoint):
        abscissa, columns = np.zeros(1), dict(zip(names, values.T.copy(), strict=True))
    else:
        abscissa, columns = values[:, 0].copy(), dict(zip(names[1:], values[:, 1:].T.copy(), strict=True))
    for more, totals in plots[1:]:
        columns.update(zip(more, totals.T.copy(), strict=True))
    if not job.analysis.reached(float(abscissa[-1])):
        raise Incomplete(f"the analysis stopped at {abscissa[-1]:g}, before its end")
    for name, column in {"abscissa": abscissa, **columns}.items():
        if not np.isfinite(column).all():
            raise Incomplete(f"{name} is not finite at point {int(np.argmin(np.isfinite(column)))}")
    for name in job.save:
        if name.lower() != "all" and _lookup(name, columns) is None:
            what = f"no such vector {name!r}: the circuit has no such node or branch"
            raise Incomplete(what, retry=False)
    if isinstance(job.analysis, Transient) and (corner := job.analysis.missed(abscissa)) is not None:
        raise Missed(f"no time point at {corner:.9g} s, where a source turns")
    return abscissa, columns
