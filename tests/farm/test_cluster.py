"""Jobs on Dask workers on the loopback: the same results, also when one of two is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster
from farm.farm_jobs import Context, scaled, slowly
from farm.test_farm import JOBS, contents
from hardware.hardware_networks import random_input, random_network
from matplotlib.figure import Figure

from cmru_hw import farm as farm_module
from cmru_hw.characterize import characterize, latch
from cmru_hw.errors import ConfigError, SimulationError, TrainingError
from cmru_hw.farm import Farm, Store, run_jobs
from cmru_hw.mapping import map_network
from cmru_hw.runs import read_plans, train_runs
from cmru_hw.spice.simulate import simulate
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import load_technology
from cmru_hw.variation import draw


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as made:
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


def test_ngspice_runs_give_the_same_on_a_cluster(cluster: LocalCluster, tmp_path: Path) -> None:
    design, _ = map_network(random_network(2), load_technology("generic180"))
    stimulus = make_stimulus(random_input(2, batch=2, frames=3), 3, 1e-2)
    chips = draw(design, range(2), seed=1)
    here, there = (
        simulate(design, stimulus, chips, farm, keep=tmp_path / name)
        for name, farm in (("here", Farm(2)), ("there", Farm(scheduler=cluster.scheduler_address)))
    )
    assert np.array_equal(here.logits, there.logits)
    assert np.array_equal(here.supply_power, there.supply_power)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_a_sweep_gives_the_same_on_a_cluster(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = latch.points(load_technology("generic180"))[-3:]
    monkeypatch.setattr(latch, "points", lambda technology: few)
    monkeypatch.setattr(latch, "content", lambda technology, rows: {"rows": rows})
    monkeypatch.setattr(latch, "draw", lambda technology, content: Figure())
    for name, farm in (("here", Farm(2)), ("there", Farm(scheduler=cluster.scheduler_address))):
        assert characterize(load_technology("generic180"), tmp_path / name, ["latch"], farm) == {"latch": 3}
    here, there = ((tmp_path / name / "latch.json").read_text() for name in ("here", "there"))
    assert here == there
    assert len(json.loads(here)["rows"]) == 3


CONFIG = """
task: {name: copy_first_input, length: 5, classes: 3, train_size: 60, test_size: 40}
network: {unit: cmru, model_size: 4, hidden_size: 4, num_layers: 1}
training: {steps: 6, batch_size: 16, evaluate_every: 2}
"""


def test_networks_trained_on_a_cluster_are_those_trained_here(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(CONFIG)
    plans, away = read_plans([tmp_path / "net.yaml"]), Farm(scheduler=cluster.scheduler_address)
    here = train_runs(plans, tmp_path / "here", range(2), Farm(1))
    assert train_runs(plans, tmp_path / "there", range(2), away) == here
    for seed in range(2):
        one, other = (contents(tmp_path / name / "net" / f"seed{seed}") for name in ("here", "there"))
        assert list(one) == list(other)
        for file in ("history.csv", "network.yaml", "weights.safetensors"):
            assert one[file] == other[file]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "there" / "net").rglob("*.*")}
    train_runs(plans, tmp_path / "there", range(2), away)
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_a_run_that_was_stopped_goes_on_on_a_cluster(cluster: LocalCluster, tmp_path: Path) -> None:
    """The checkpoint goes to the worker: a run of another configuration is refused there."""
    (tmp_path / "net.yaml").write_text(CONFIG)
    train_runs(read_plans([tmp_path / "net.yaml"]), tmp_path / "out", range(1), Farm(1))
    (tmp_path / "out" / "net" / "seed0" / "metrics.json").unlink()
    (tmp_path / "net.yaml").write_text(CONFIG.replace("steps: 6", "steps: 8"))
    plans = read_plans([tmp_path / "net.yaml"])
    with pytest.raises(TrainingError, match="checkpoint"):
        train_runs(plans, tmp_path / "out", range(1), Farm(scheduler=cluster.scheduler_address))
