"""The studies there are, by name."""

from __future__ import annotations

from cmru_hw.errors import ConfigError
from cmru_hw.studies.benchmarks import Benchmarks
from cmru_hw.studies.retention import Retention
from cmru_hw.studies.stability import Stability
from cmru_hw.studies.study import Study

STUDIES: dict[str, type[Stability] | type[Benchmarks] | type[Retention]] = {
    one.name: one for one in (Stability, Benchmarks, Retention)
}


def find_study(name: str, quick: bool = False) -> Study:
    """A study by name, in full or in its quick form. Raises ConfigError for an unknown one."""
    if name not in STUDIES:
        raise ConfigError(f"study: none called {name!r}; there are {', '.join(STUDIES)}")
    return STUDIES[name].quick() if quick else STUDIES[name]()
