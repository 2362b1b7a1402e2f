"""The command that asks how a design bears mismatch, corners, noise, time and faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from cmru_hw.cli.inputs import load_labelled
from cmru_hw.cli.options import DesignDir, Json, Noise, Scheduler, Supply, Temperature, Workers, make_farm
from cmru_hw.cli.output import check_folder, print_json, print_rows
from cmru_hw.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cmru_hw.analysis.robustness.analysis import Analysis
    from cmru_hw.analysis.robustness.lot import Lot
    from cmru_hw.analysis.robustness.study import Study
    from cmru_hw.farm import Farm, Store


def robustness(
    design: DesignDir,
    task: Annotated[Optional[str], typer.Option(help="Task whose test set is decided.")] = None,  # noqa: UP045
    input: Annotated[Optional[Path], typer.Option("--input", help="Instead of --task.")] = None,  # noqa: UP045
    labels: Annotated[Optional[Path], typer.Option(help="Classes [B] of --input, .npy.")] = None,  # noqa: UP045
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", help="Folder for JSON, figures, page and finished jobs."),
    ] = None,
    analysis: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="One of them, or all; repeat for more. Default: mismatch."),
    ] = None,
    chips: Annotated[int, typer.Option(min=1)] = 1000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    sigma_scale: Annotated[float, typer.Option(min=0.0, help="Factor on the Pelgrom sigma.")] = 1.0,
    yield_target: Annotated[float, typer.Option(help="Accuracy a good chip must reach.")] = 0.9,
    verify: Annotated[int, typer.Option(min=0, help="Most telling chips to run again in ngspice.")] = 0,
    verify_inputs: Annotated[int, typer.Option(min=1, help="Inputs that each of them decides.")] = 2,
    noise: Noise = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how long it will take.")] = False,
    temperature: Temperature = None,
    supply: Supply = None,
    as_json: Json = False,
) -> None:
    """Chips with mismatch, at corners, with noise, over time, with faults; goes on where it was stopped.

    Example: cmru-hw robustness out/design --task japanese_vowels --analysis all -o out/robustness
    """
    from dataclasses import fields

    from cmru_hw.analysis.robustness.analysis import run_analyses
    from cmru_hw.analysis.robustness.lot import Lot
    from cmru_hw.analysis.robustness.study import Study
    from cmru_hw.analysis.robustness.yields import Robustness
    from cmru_hw.config import write_atomically
    from cmru_hw.console import progress_bar
    from cmru_hw.farm import Store
    from cmru_hw.report.robustness import parts, write_robustness

    if output is not None:
        check_folder(output)
    if verify and output is None:
        raise ConfigError("--verify: needs -o, the folder that its runs are kept in")
    built, stimulus, truth = load_labelled(design, task, input, labels, seed, temperature, supply)
    study = Study(Lot(built, stimulus, truth, seed, sigma_scale, noise), chips, yield_target, design)
    chosen, farm = study.chosen(analysis or ["mismatch"]), make_farm(workers, scheduler)
    if verify and "mismatch" not in {one.name for one in chosen}:
        raise ConfigError("--verify: chooses among the chips of --analysis mismatch; add it")
    store = Store(output / "store", study.lot.identity) if output else None
    if dry_run:
        _print_estimates(study.lot, chosen, farm, store, as_json)
        return
    count = len({key for one in chosen for key in one.tasks()})
    with progress_bar("jobs", count) as told:
        found = run_analyses(study.lot, chosen, farm, store, told)
    if verify and output is not None:
        found["verify"] = _verified(study, found, verify, verify_inputs, output, farm)
    report = study.report(found)
    if output is not None:
        write_atomically(output / "robustness.json", json.dumps(report, indent=1) + "\n")
        write_robustness(output, report)
    if as_json:
        if analysis or verify:
            print_json(report)
        else:
            names = [field.name.rstrip("_") for field in fields(Robustness)]
            print_json({name: found["mismatch"][name] for name in names})
        return
    for part in parts(report):
        for line in part["lines"]:
            typer.echo(line)
        for content in part["tables"]:
            table = Table(*content["columns"], title=part["title"])
            for row in content["rows"]:
                table.add_row(*row)
            Console().print(table)
    if output is not None:
        typer.echo(f"report: {output / 'report.html'}")


def _print_estimates(
    lot: Lot, analyses: Sequence[Analysis], farm: Farm, store: Store | None, as_json: bool
) -> None:
    """Jobs, time and memory of each analysis; one job of each is run for it."""
    from cmru_hw.analysis.robustness.lot import run_task
    from cmru_hw.farm import estimate

    found = {one.name: estimate(run_task, lot, one.tasks(), farm, store) for one in analyses}
    if as_json:
        rows = {
            name: {"jobs": one.jobs, "kept": one.kept, "seconds": one.seconds, "workers": one.workers,
                   "bytes_a_worker": one.bytes_a_worker}
            for name, one in found.items()
        }  # fmt: skip
        print_json(rows)
        return
    print_rows(
        "estimate",
        [
            (
                name,
                f"{one.jobs} jobs, {one.kept} kept, {one.seconds:.0f} s on {one.workers} workers of "
                f"{one.bytes_a_worker / 1e6:.0f} MB",
            )
            for name, one in found.items()
        ],
    )


def _verified(
    study: Study, found: dict[str, dict[str, Any]], count: int, inputs: int, output: Path, farm: Farm
) -> dict[str, Any]:
    """The most telling chips, and where there are corners the worst, in ngspice."""
    import numpy as np

    from cmru_hw.analysis.robustness.verify import chip, corner, telling, verify
    from cmru_hw.console import progress_bar

    accuracies = np.array(found["mismatch"]["accuracies"])
    suspects = [chip(study.lot, number) for number in telling(accuracies, study.yield_target, count)]
    worst = found.get("corners", {}).get("worst")
    if worst:
        suspects.append(corner(study.lot, worst))
    inputs = min(inputs, len(study.lot.stimulus))
    with progress_bar("ngspice", len(suspects) * inputs) as report:
        return verify(study.lot, suspects, inputs, output / "verify", farm, report)
