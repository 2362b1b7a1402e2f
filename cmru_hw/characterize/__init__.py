"""Measure every primitive of a technology in ngspice, with provenance; what calibrations are made of.

    characterize(load_technology("generic180"), Path("out/generic180"))

A sweep is a module with `points(technology)`, each a run with what it was measured at and how it is read,
`content(technology, rows)`, what goes into its JSON file, and `draw(technology, content)`, its figure.
Finished points are kept, one line each, and a repeated command goes on from them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cmru_hw import __version__
from cmru_hw.characterize import comparator, integrator, latch, latch_bank, mirror, transistor
from cmru_hw.characterize.point import Point, Row
from cmru_hw.config import write_atomically
from cmru_hw.errors import ConfigError, SimulationError
from cmru_hw.report.plots import svg
from cmru_hw.spice.ngspice import find_ngspice, imap
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
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Run sweeps and write `{sweep}.json` and `{sweep}.svg`; returns how many points each has.

    `progress` is called with the number of points that are finished, of all sweeps. Raises ConfigError for an
    unknown sweep or a folder with points of other models, SimulationError naming the point that failed;
    finished points stay in `{sweep}.jsonl`.
    """
    done: dict[str, int] = {}
    mark = provenance(technology)
    for name, own in points(technology, sweeps).items():
        before = sum(done.values())
        rows = _measured(name, own, mark, folder, workers, _after(progress, before))
        content = _sweep(name).content(technology, rows) | {"provenance": mark}
        write_atomically(folder / f"{name}.svg", svg(_sweep(name).draw(technology, content)))
        write_atomically(folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
        (folder / f"{name}.jsonl").unlink()
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
    name: str, points: Sequence[Point], mark: dict[str, Any], folder: Path, workers: int | None,
    progress: Callable[[int], None],
) -> list[Row]:  # fmt: skip
    """The rows of all points in order: those kept, and the others run now."""
    path = folder / f"{name}.jsonl"
    kept = _kept(path, mark)
    missing = [point for point in points if point.key not in kept]
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        if not file.tell():
            file.write(json.dumps(mark) + "\n")
        try:
            for index, data in imap((point.job for point in missing), workers):
                point = missing[index]
                kept[point.key] = point.condition | point.read(data)
                file.write(json.dumps(kept[point.key]) + "\n")
                file.flush()
                progress(len(kept))
        except SimulationError as error:
            there = sum(point.key in kept for point in points)
            raise SimulationError(
                f"{name}: {error}; {there} of {len(points)} points are kept in {path}, "
                "the same command goes on from them"
            ) from error
    return [kept[point.key] for point in points]


def _kept(path: Path, mark: dict[str, Any]) -> dict[str, Row]:
    """Rows of an interrupted sweep by key; a last line that was cut short is dropped."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")
    whole = "\n".join(lines[:-1]) + "\n" if len(lines) > 1 else ""
    try:
        content = [json.loads(line) for line in lines[:-1]]
    except ValueError as error:
        raise ConfigError(f"{path}: not points of a sweep: {error}; delete it") from error
    if content and content[0] != mark:
        raise ConfigError(f"{path}: holds points of other models or another simulator; delete it")
    write_atomically(path, whole)
    return {Point.key_of(row): row for row in content[1:]}
