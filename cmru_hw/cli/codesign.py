"""Commands that go the whole way, from a co-design file to designs that ngspice has run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cmru_hw.cli.options import Json, Out, Scheduler, Workers, make_farm
from cmru_hw.cli.output import check_folder, nanowatts, print_json, print_rows


def codesign(
    config: Annotated[Path, typer.Argument(help="Co-design file (YAML).")], output: Out, as_json: Json = False
) -> None:
    """Train or load, map, simulate both ways, compare, draw chips, write a report. Resumes.

    Example: cmru-hw codesign models/speaker_vowels_fq_bmru/config.yaml -o out/demo
    """
    from cmru_hw.codesign import codesign as run
    from cmru_hw.codesign import read_plan

    check_folder(output)
    metrics = run(read_plan(config), output)
    if as_json:
        print_json(metrics)
        return
    accuracy, agreement, robust = metrics["accuracy"], metrics["agreement"], metrics["robustness"]
    same = metrics["accuracy_on_spice_inputs"]
    low, high = robust["yield_ci95"]
    rows = [
        ("accuracy, trained network", f"{accuracy['software']:.4f}"),
        ("accuracy, behavioural model", f"{accuracy['behavioral']:.4f}"),
        (
            f"accuracy, ngspice ({agreement['inputs']} inputs)",
            f"{accuracy['spice']:.4f} (trained network on these: {same['software']:.4f})",
        ),
        ("decisions, behavioural = ngspice", f"{agreement['decisions']} of {agreement['inputs']}"),
        ("state samples, behavioural = ngspice", f"{100 * agreement['state_fraction']:.2f} %"),
        (
            "decisions, trained = behavioural",
            f"{100 * agreement['trained_behavioral']['decision_fraction']:.2f} %",
        ),
        ("power, behavioural / ngspice", nanowatts(metrics["power_w"])),
        ("energy per inference", f"{metrics['energy_per_inference_j'] * 1e9:.2f} nJ"),
        ("unit transistors", str(metrics["transistors"])),
        ("active area", f"{metrics['area_m2'] * 1e12:.0f} um^2"),
        (
            f"yield at {robust['yield_target']:.0%} accuracy",
            f"{robust['yield']:.3f} (95 % CI {low:.3f}..{high:.3f}), {robust['chips']} chips",
        ),
    ]
    print_rows(f"{metrics['task']}: {metrics['unit']} on {metrics['technology']}", rows)
    typer.echo(f"report: {output / 'report.html'}")


def optimize(
    config: Annotated[Path, typer.Argument(help="Co-design file (YAML) with a section `optimize`.")],
    output: Out,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Sizes, current and weights together: the front of yield, power and area. Resumes.

    Example: cmru-hw optimize models/speaker_vowels_fq_bmru/optimize.yaml -o out/optimize
    """
    from cmru_hw.codesign import read_plan
    from cmru_hw.optimize import optimize as run

    check_folder(output)
    found = run(read_plan(config), output, make_farm(workers, scheduler))
    if as_json:
        print_json(found)
        return
    table = Table(
        "design", "yield", "95 % CI", "accuracy", "nW", "um^2", "nW um^2",
        title=f"chips of {found['accuracy_target']:.0%} accuracy, {found['chips']} each",
    )  # fmt: skip
    for point in (*found["optimised"], *found["uniform"]):
        low, high = point["yield_ci95"]
        watts, area = 1e9 * point["power_w"], 1e12 * point["area_m2"]
        table.add_row(
            point["folder"], f"{point['yield']:.3f}", f"{low:.3f}..{high:.3f}", f"{point['accuracy']:.4f}",
            f"{watts:.1f}", f"{area:.0f}", f"{watts * area:.3g}",
        )  # fmt: skip
    Console().print(table)
    for one in found["equal_yield"]:
        typer.echo(
            f"{one['point']}: {-100 * one['saved']:+.0f} % of power x area against {one['uniform']} "
            f"(yields {one['yield']:.3f} and {one['uniform_yield']:.3f})"
        )
    spice = found["spice"]
    typer.echo(
        f"ngspice, {spice['point']}: {spice['decisions']} of {spice['inputs']} decisions as the behavioural "
        f"model, {nanowatts(spice['power_w'])}"
    )
    typer.echo(f"figure: {output / 'optimize.svg'}")
