"""How a training run is going: a table and, if wanted, TensorBoard events, written as it goes."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cmru_hw.errors import ConfigError
from cmru_hw.training.checkpoint import Record

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

HISTORY = "history.csv"
EVENTS = "tensorboard"


class Log:
    """`history.csv` of a run folder, and events in its folder `tensorboard` if there is a writer.

    A run that goes on starts both again from the history in its checkpoint, so nothing is in them twice.
    """

    def __init__(self, run: Path, events: SummaryWriter | None) -> None:
        self._table, self._events, self._written = run / HISTORY, events, 0

    def follow(self, history: list[Record]) -> None:
        """Write the rows that are not written yet."""
        for row in history[self._written :]:
            with self._table.open("w" if self._written == 0 else "a", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, list(row), lineterminator="\n")
                if self._written == 0:
                    table.writeheader()
                table.writerow(row)
            if self._events is not None:
                for name, value in row.items():
                    if name != "step" and value is not None:
                        self._events.add_scalar(name, value, row["step"])
                self._events.flush()
            self._written += 1


@contextmanager
def open_log(run: Path, tensorboard: bool) -> Iterator[Log]:
    """The log of a run, closed at the end; a log from before is written anew."""
    run.mkdir(parents=True, exist_ok=True)
    if not tensorboard:
        yield Log(run, None)
        return
    writer = event_writer()
    shutil.rmtree(run / EVENTS, ignore_errors=True)
    with writer(str(run / EVENTS)) as events:
        yield Log(run, events)


def event_writer() -> type[SummaryWriter]:
    """What writes TensorBoard events. Raises ConfigError if the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("tensorboard: not installed: pip install 'cmru-hw[tensorboard]'") from error
    return SummaryWriter
