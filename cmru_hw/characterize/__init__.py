"""Measure every primitive of a technology in ngspice, with provenance; what calibrations are made of.

    characterize(load_technology("generic180"), Path("out/generic180"))

A sweep is a module with `points(technology)`, each a run with what it was measured at and how it is read,
`content(technology, rows)`, what goes into its JSON file, and `draw(technology, content)`, its figure.
Finished points are kept, and a repeated command goes on from them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmru_hw import __version__
from cmru_hw.characterize import comparator, integrator, latch, latch_bank, mirror, transistor
from cmru_hw.characterize.point import Point, Row
from cmru_hw.config import write_atomically
from cmru_hw.errors import ConfigError, SimulationError
from cmru_hw.farm import Arrays, Farm, Finished, Store, digest, run_jobs
from cmru_hw.report.plots import svg
from cmru_hw.spice.ngspice import find_ngspice, imap, run
from cmru_hw.spice.rawfile import RawData
from cmru_hw.technology import Technology

_MODULES: dict[str, Any] = {
    "transistor": transistor,
    "mirror": mirror,
    "latch": latch,
    "comparator": comparator,
    "latch_bank": latch_bank,
    "integrator": integrator,
}
SWEEPS = tuple(_MODULES)


def points(technology: Technology, sweeps: Sequence[str]) -> dict[str, list[Point]]:
    """The points of sweeps. Raises ConfigError for an unknown one."""
    for name in sweeps:
        if name not in SWEEPS:
            raise ConfigError(f"sweep: none called {name!r}; there are {', '.join(SWEEPS)}")
    return {name: _sweep(name).points(technology) for name in sweeps}


def characterize(
    technology: Technology,
    folder: Path,
    sweeps: Sequence[str] = SWEEPS,
    farm: Farm | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Run sweeps and write `{sweep}.json` and `{sweep}.svg`; returns how many points each has.

    `progress` is called with the number of points that are finished, of all sweeps. Raises ConfigError for an
    unknown sweep or a folder with points of other models, SimulationError naming the point that failed;
    finished points stay in `{sweep}.points/`.
    """
    done: dict[str, int] = {}
    mark = provenance(technology)
    for name, own in points(technology, sweeps).items():
        kept = folder / f"{name}.points"
        rows = _measured(name, own, Store(kept, mark), farm, _after(progress, sum(done.values())))
        content = _sweep(name).content(technology, rows) | {"provenance": mark}
        write_atomically(folder / f"{name}.svg", svg(_sweep(name).draw(technology, content)))
        write_atomically(folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
        shutil.rmtree(kept)
        done[name] = len(rows)
    return done


def _after(progress: Callable[[int], None] | None, before: int) -> Callable[[int], None]:
    return lambda done: progress(before + done) if progress else None


def _sweep(name: str) -> Any:
    return _MODULES[name]


def provenance(technology: Technology) -> dict[str, Any]:
    """What a measurement depends on besides its point."""
    return {
        "technology": technology.name,
        "model_hash": technology.model_hash,
        "ngspice": find_ngspice()[1],
        "cmru_hw": __version__,
    }


def _measured(
    name: str, points: Sequence[Point], store: Store, farm: Farm | None, progress: Callable[[int], None]
) -> list[Row]:
    """The rows of all points in order: those kept, and the others run now."""
    jobs = {f"point_{digest(_text(point.key))}": point for point in points}
    try:
        found = run_jobs(_alone, None, jobs, farm, store, progress, here=_here)
    except SimulationError as error:
        there = sum(store.get(key) is not None for key in jobs)
        raise SimulationError(
            f"{name}: {error}; {there} of {len(points)} points are kept in {store.folder}, "
            "the same command goes on from them"
        ) from error
    return [json.loads(arrays["row"].tobytes()) for arrays in found.values()]


def _alone(_: None, point: Point) -> Arrays:
    return _row(point, run(point.job))


def _here(_: None, points: Mapping[str, Point], workers: int) -> Finished:
    listed = list(points.items())
    for index, data in imap((point.job for point in points.values()), workers):
        key, point = listed[index]
        yield key, _row(point, data)


def _row(point: Point, data: RawData) -> Arrays:
    """As JSON."""
    return {"row": _text(json.dumps(point.condition | point.read(data)))}


def _text(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), dtype=np.uint8)
