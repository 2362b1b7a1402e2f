"""What an analysis of a lot is: tasks for a farm, and numbers made from their results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from cmru_hw.analysis.robustness.lot import Lot, Task, run_task
from cmru_hw.farm import Arrays, Farm, Store, run_jobs

Results = Mapping[str, Arrays]


class Analysis(ABC):
    """Tasks by keys that say all that they depend on besides the lot, and a summary of their results."""

    name: ClassVar[str]

    @abstractmethod
    def tasks(self) -> Mapping[str, Task]:
        """Jobs by key; two analyses may share one."""

    @abstractmethod
    def summary(self, results: Results) -> dict[str, Any]:
        """Plain values, from the results of its tasks."""


def run_analyses(
    lot: Lot,
    analyses: Sequence[Analysis],
    farm: Farm | None = None,
    store: Store | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Summaries by name; all tasks are handed out together. `progress` is told how many are done."""
    own = {analysis.name: analysis.tasks() for analysis in analyses}
    tasks = {key: task for some in own.values() for key, task in some.items()}
    results = run_jobs(run_task, lot, tasks, farm, store, progress)
    return {
        analysis.name: analysis.summary({key: results[key] for key in own[analysis.name]})
        for analysis in analyses
    }


def keyed(prefix: str, tasks: Mapping[str, Task]) -> dict[str, Task]:
    """Tasks under keys of an analysis."""
    return {f"{prefix}_{key}": task for key, task in tasks.items()}


def under(prefix: str, results: Results) -> dict[str, Arrays]:
    """Results whose keys begin so."""
    return {key: result for key, result in results.items() if key.startswith(f"{prefix}_")}
