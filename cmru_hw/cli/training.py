"""Commands that train networks: of files and seeds, with the hardware's errors and without, in studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from cmru_hw.cli.options import DeviceName, Json, Out, Scheduler, Workers, make_farm
from cmru_hw.cli.output import check_folder, print_json
from cmru_hw.errors import ConfigError


def train(
    configs: Annotated[
        list[Path], typer.Argument(metavar="CONFIG...", help="Co-design files: task, network, training.")
    ],
    output: Out,
    seeds: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="N, for 0 to N - 1, or A..B: a network for each; default: that of the file."),
    ] = None,
    device: Annotated[
        Optional[DeviceName],  # noqa: UP045
        typer.Option(help="auto: the GPU where there is one; default: training.device, or the CPU."),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write events for TensorBoard into each run's folder.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="speech_commands: leave out bad files, and tell which.")
    ] = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Train networks, with the errors of hardware if configured. Resumes.

    One into the folder itself; with several files or --seeds, each into FILE/seedS there, side by side.

    Example: cmru-hw train models/speaker_vowels_fq_bmru/config.yaml -o out/run
    """
    from cmru_hw.codesign import train_network
    from cmru_hw.runs import read_plans, read_seeds, train_runs
    from cmru_hw.training import one_line

    check_folder(output)
    options = {"skip_bad": True} if skip_bad else {}
    farm = make_farm(workers, scheduler)
    plans = read_plans(configs, device.value if device else None, **options)
    if seeds is None and len(plans) == 1:
        if scheduler is not None:
            raise ConfigError("--scheduler: one network alone is trained here; add --seeds")
        (plan,) = plans.values()
        _, metrics = train_network(plan, output, not as_json, tensorboard)
        if as_json:
            print_json({key: value for key, value in metrics.items() if key != "timing"})
        else:
            typer.echo(one_line(metrics))
        return
    chosen = None if seeds is None else read_seeds(seeds)
    found = train_runs(plans, output, chosen, farm, tensorboard)
    if as_json:
        print_json(found)
        return
    table = Table("network", "unit", "parameters", "seeds", "validation", "test", "worst", "best")
    for name, one in found["summary"].items():
        table.add_row(
            name, one["unit"], str(one["parameters"]), str(one["seeds"]),
            *(_spread(one[f"{split}_accuracy"]) for split in ("validation", "test")),
            *(f"{one['test_accuracy'][key]:.4f}" for key in ("min", "max")),
        )  # fmt: skip
    Console().print(table)
    typer.echo(f"runs: {output / 'runs.json'}")


def aware(
    config: Annotated[Path, typer.Argument(help="Co-design file (YAML) with training.hardware_noise.")],
    output: Out,
    seeds: Annotated[int, typer.Option(min=1, help="Networks of each kind, from seed 0.")] = 5,
    chips: Annotated[int, typer.Option(min=1, help="Mismatched chips of each network.")] = 1000,
    sigma_scale: Annotated[
        Optional[list[float]],  # noqa: UP045
        typer.Option(min=0.0, help="Factor on the Pelgrom sigma; repeat for more."),
    ] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Train with and without the hardware's errors, and compare yields over mismatched chips. Resumes.

    Example: cmru-hw aware models/speaker_vowels_fq_bmru/aware.yaml -o out/aware
    """
    from cmru_hw.aware import RECIPES, SIGMA_SCALES, compare_training
    from cmru_hw.codesign import read_plan

    check_folder(output)
    farm = make_farm(workers, scheduler)
    found = compare_training(read_plan(config), output, seeds, chips, sigma_scale or SIGMA_SCALES, farm)
    if as_json:
        print_json(found)
        return
    table = Table(
        "sigma", "area", *(f"{what}, {recipe}" for what in ("yield", "accuracy") for recipe in RECIPES),
        title=f"{seeds} seeds, {chips} chips each, yield at {found['yield_target']:.0%}",
    )  # fmt: skip
    for k, scale in enumerate(found["sigma_scales"]):
        cells = [found[recipe][key][k] for key in ("yield", "mean_accuracy") for recipe in RECIPES]
        area = f"{1 / scale**2:.3g}" if scale else "-"
        table.add_row(f"{scale:g}", area, *(f"{cell:.4f}" for cell in cells))
    table.add_row("trained network", "", "", "", *(f"{found[recipe]['accuracy']:.4f}" for recipe in RECIPES))
    Console().print(table)
    typer.echo(f"figure: {output / 'aware.svg'}")


def study(
    name: Annotated[str, typer.Argument(help="stability, benchmarks or retention.")],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", help="Folder; default out/NAME."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smaller form, minutes.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how long it will take, and stop.")] = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Train networks of several units over seeds and settings, and show what holds. Resumes.

    Example: cmru-hw study retention --quick -o out/retention
    """
    from dataclasses import asdict

    from cmru_hw.studies.catalogue import find_study
    from cmru_hw.studies.study import reckon, run_study

    chosen = find_study(name, quick)
    folder = output or Path("out", f"{name}_quick" if quick else name)
    check_folder(folder)
    farm = make_farm(workers, scheduler)
    if dry_run:
        amount = reckon(chosen, folder, progress=not as_json)
        if as_json:
            print_json(asdict(amount))
            return
        shared = "" if scheduler else f", {amount.seconds / farm.processes / 60:.0f} min on {farm.processes}"
        typer.echo(
            f"{name}: {amount.trials} trials, {amount.kept} kept; training takes {amount.seconds:.0f} s of "
            f"one core{shared}, a worker {amount.bytes_a_worker / 1e6:.0f} MB"
        )
        return
    record = run_study(chosen, folder, farm, progress=not as_json)
    if as_json:
        print_json(record)
        return
    head, rows = chosen.rows(record)
    table = Table(*head, title=name)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    typer.echo(f"record and figures: {folder}")


def _spread(statistics: dict[str, float] | None) -> str:
    return f"{statistics['mean']:.4f} ± {statistics['std']:.4f}" if statistics else "-"
