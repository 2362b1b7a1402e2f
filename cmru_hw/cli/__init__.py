"""The `cmru-hw` command. Exit codes: 0 done, 1 the work failed, 2 wrong usage or input, 130 interrupted."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from typer.exceptions import TyperException

from cmru_hw import __version__
from cmru_hw.cli import codesign, design, robustness, simulation, technology, training
from cmru_hw.errors import CmruHwError, ConfigError, MappingError, SimulatorNotFound

COMMANDS: dict[str, Callable[..., None]] = {
    "codesign": codesign.codesign,
    "train": training.train,
    "aware": training.aware,
    "optimize": codesign.optimize,
    "map": design.map_,
    "simulate": simulation.simulate,
    "compare": simulation.compare,
    "power": simulation.power,
    "export": design.export,
    "robustness": robustness.robustness,
    "characterize": technology.characterize,
    "study": training.study,
}
WRONG_INPUT = (ConfigError, MappingError, SimulatorNotFound)
INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From a trained BMRU/CMRU network to transistors that ngspice has run.",
)
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(technology.technologies, name="technology")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cmru-hw {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: one line on standard error for whatever went wrong, and the exit code."""
    logging.basicConfig(format="cmru-hw: %(levelname)s: %(message)s", level=logging.WARNING)
    signal.signal(signal.SIGTERM, _stop)
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer turns Ctrl-C into this
            code = _complain("interrupted; the same command goes on from finished work", INTERRUPTED)
    except TyperException as error:
        code = _complain(error.format_message(), 2)
    except CmruHwError as error:
        code = _complain(str(error), 2 if isinstance(error, WRONG_INPUT) else 1)
    except (KeyboardInterrupt, typer.Abort):
        code = _complain("interrupted", INTERRUPTED)
    except OSError as error:
        code = _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    sys.exit(code if isinstance(code, int) else 0)


def _stop(*_: object) -> None:
    """What Ctrl-C does, also where it is ignored, as a shell has it for what runs in the background."""
    if callable(signal.getsignal(signal.SIGINT)):
        signal.raise_signal(signal.SIGINT)
    else:
        raise KeyboardInterrupt


def _complain(message: str, code: int) -> int:
    typer.echo(f"cmru-hw: error: {' '.join(message.split())}", err=True)
    return code
