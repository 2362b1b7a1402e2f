"""Arguments and options that commands share, and the names to choose from."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from cmru_hw.farm import Farm


class Engine(StrEnum):
    """Which model simulates."""

    behavioral = "behavioral"
    ngspice = "ngspice"


class BoundaryName(StrEnum):
    """What is built."""

    full = "full"
    core = "core"


class LatchName(StrEnum):
    """What holds a bit."""

    nine = "9t"
    clocked = "clocked"


class AccumulatorName(StrEnum):
    """What holds a count."""

    latch_bank = "latch_bank"
    integrator = "integrator"


class DeviceName(StrEnum):
    """Where a network is trained."""

    cpu = "cpu"
    cuda = "cuda"
    auto = "auto"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Out = Annotated[Path, typer.Option("-o", "--output", help="Where results go.")]
DesignDir = Annotated[Path, typer.Argument(help="Folder with design.yaml, as `map` writes it.")]
InputFile = Annotated[
    Path, typer.Option("--input", help="x [B, T, I] as .npy, or .npz with x and optionally lengths, times.")
]
Technology = Annotated[str, typer.Argument(help="Name of a technology, or folder of its card, with a slash.")]
Workers = Annotated[Optional[int], typer.Option(min=1, help="Processes; default one a core.")]  # noqa: UP045
Scheduler = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Address of a Dask scheduler whose workers do it, tcp://HOST:PORT."),
]
Checked = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(min=0, help="Inputs of a clocked design to run with two tolerance sets; default all."),
]
Temperature = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(help="Degrees Celsius; default: as mapped."),
]
Supply = Annotated[Optional[float], typer.Option(help="V; default: as mapped.")]  # noqa: UP045
Noise = Annotated[bool, typer.Option("--noise", help="With the transistors' own noise (behavioral only).")]
Partition = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option(
        "--partition/--flat", help="ngspice part by part, or in one deck; default: parts, if clocked or wide."
    ),
]


def make_farm(workers: int | None, scheduler: str | None) -> Farm:
    """What --workers and --scheduler ask for."""
    from cmru_hw.farm import Farm

    return Farm(workers, scheduler)
