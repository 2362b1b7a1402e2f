"""The training progress bar, on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def training_progress(wanted: bool, total: int, done: int) -> Iterator[Callable[[int, str], None]]:
    """Yield report(steps done, text); it does nothing unless wanted and standard error is a terminal."""
    console = Console(stderr=True)
    if not (wanted and console.is_terminal):
        yield lambda done, text: None
        return
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[status]}"), console=console) as bar:
        item = bar.add_task("training", total=total, completed=done, status="")
        yield lambda done, text: bar.update(item, completed=done, status=text)
