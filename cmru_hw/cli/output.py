"""Where results go, and how they are told: tables, or one JSON object."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from cmru_hw.errors import ConfigError


def check_file(output: Path) -> None:
    """Refuse an output file that cannot be written, before any work."""
    if output.is_dir():
        raise ConfigError(f"{output}: is a folder; -o must name a file")
    check_folder(output.parent)


def check_folder(output: Path) -> None:
    """Refuse an output folder that cannot be made, before any work."""
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ConfigError(f"{existing}: is a file, where a folder is needed")
    if not os.access(existing, os.W_OK):
        raise ConfigError(f"{existing}: no permission to write there")


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    typer.echo(json.dumps(content, indent=1))


def print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    """A table of names and what they are."""
    table = Table(title=title, show_header=False)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def nanowatts(watts: dict[str, Any]) -> str:
    """Power in the behavioural model and in ngspice."""
    return f"{watts['behavioral'] * 1e9:.1f} / {watts['spice'] * 1e9:.1f} nW"
