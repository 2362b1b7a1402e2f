"""What a person sees in the terminal while work goes on; nothing when standard error is not a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress_bar(label: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """A bar on standard error, on a terminal only; report(done, status="") says how far work has come."""
    console = Console(stderr=True)
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    status_column = TextColumn("{task.fields[status]}")
    with Progress(*columns, status_column, console=console, disable=not console.is_terminal) as bar:
        item = bar.add_task(label, total=total, completed=done, status="")
        yield lambda done, status="": bar.update(item, completed=done, status=status)
