"""Jobs on Dask workers on the loopback: the same results, also when one of two is killed in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import LocalCluster
from farm.farm_jobs import Context, scaled, slowly
from farm.test_farm import JOBS, contents

from cmru_hw import farm as farm_module
from cmru_hw.errors import ConfigError, SimulationError
from cmru_hw.farm import Farm, Store, run_jobs


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with (
        warnings.catch_warnings(),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as made,
    ):
        yield made


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


def test_a_cluster_gives_what_one_process_gives(cluster: LocalCluster, marks: Path, tmp_path: Path) -> None:
    stores = [Store(tmp_path / name, {}) for name in ("here", "there")]
    for farm, store in zip((Farm(1), Farm(scheduler=cluster.scheduler_address)), stores, strict=True):
        found = run_jobs(scaled, Context(2.0, marks), JOBS, farm, store)
        assert list(found) == list(JOBS)
    assert contents(stores[0].folder) == contents(stores[1].folder)


def test_a_worker_killed_in_the_middle_changes_nothing(
    cluster: LocalCluster, marks: Path, tmp_path: Path
) -> None:
    jobs = {f"job_{k}": k for k in range(20)}
    calm, shaken = (Store(tmp_path / name, {}) for name in ("calm", "shaken"))
    run_jobs(scaled, Context(2.0, marks), jobs, Farm(1), calm)
    victim = next(iter(cluster.workers.values())).pid

    def kill() -> None:
        while len(list(shaken.folder.glob("job_*"))) < 4:
            time.sleep(0.02)
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    run_jobs(slowly, Context(2.0, marks), jobs, Farm(scheduler=cluster.scheduler_address), shaken)
    killer.join()
    with pytest.raises(ProcessLookupError):
        os.kill(victim, 0)
    assert contents(calm.folder) == contents(shaken.folder)


def test_a_job_that_fails_on_a_cluster_says_so(cluster: LocalCluster, marks: Path) -> None:
    with pytest.raises(SimulationError, match="job 6 does not converge"):
        run_jobs(scaled, Context(2.0, marks, failing=(6,)), JOBS, Farm(scheduler=cluster.scheduler_address))


def test_workers_of_another_version_are_refused(
    cluster: LocalCluster, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farm_module, "__version__", "9.9")
    with pytest.raises(ConfigError, match=r"worker tcp://.* has cmru-hw .*, here it is 9.9 .*same version"):
        run_jobs(scaled, Context(2.0, marks), JOBS, Farm(scheduler=cluster.scheduler_address))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "127.0.0.1", "carrier-pigeon://x:1"])
def test_a_scheduler_that_cannot_be_reached_is_refused(
    marks: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farm_module, "REACH", 1.0)
    with pytest.raises(ConfigError, match=f"scheduler {address}: cannot be reached"):
        run_jobs(scaled, Context(2.0, marks), JOBS, Farm(scheduler=address))
