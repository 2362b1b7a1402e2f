"""What can be watched while a run goes on, and where it runs."""

from __future__ import annotations

import csv
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cmru_hw.errors import ConfigError
from cmru_hw.nn.network import Network, NetworkConfig
from cmru_hw.training import Task, TaskConfig, TrainingConfig, load_task, train

STEPS = {"steps": 20, "batch_size": 16, "learning_rate": 1e-2, "evaluate_every": 4}
ROWS = [4, 8, 12, 16, 20]


@pytest.fixture(scope="module")
def task() -> Task:
    options = {"length": 6, "classes": 3, "train_size": 90, "test_size": 60, "validation_fraction": 0.2}
    return load_task(TaskConfig.model_validate({"name": "copy_first_input", **options}), seed=0)


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({**STEPS, **changes})


class Watched(Network):
    """Notes how many rows history.csv has in every training step; may press Ctrl-C in one."""

    folder: Path
    stop = 0

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if self.training:
            self.seen.append(len(steps(self.folder)) if (self.folder / "history.csv").exists() else 0)
            if len(self.seen) == self.stop:
                os.kill(os.getpid(), signal.SIGINT)
        return super().forward(x, lengths)

    @property
    def seen(self) -> list[int]:
        return self.__dict__.setdefault("_seen", [])


def network(folder: Path | None = None, stop: int = 0) -> Network:
    torch.manual_seed(0)
    sizes = {"input_size": 3, "model_size": 6, "hidden_size": 6, "num_layers": 1, "num_classes": 3}
    options = NetworkConfig.model_validate({"unit": "cmru", **sizes})
    if folder is None:
        return Network(options)
    watched = Watched(options)
    watched.folder, watched.stop = folder, stop
    return watched


def steps(folder: Path) -> list[int]:
    return [int(row["step"]) for row in csv.DictReader((folder / "history.csv").read_text().splitlines())]


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_the_table_grows_while_training_goes_on(task: Task, tmp_path: Path) -> None:
    net = network(tmp_path)
    train(net, task, config(), tmp_path)
    assert isinstance(net, Watched)
    assert net.seen == [step // 4 for step in range(20)]
    assert steps(tmp_path) == ROWS


def test_a_run_that_goes_on_has_every_row_once(task: Task, tmp_path: Path) -> None:
    """Killed with a table that is ahead of the checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        train(network(tmp_path, stop=10), task, config(), tmp_path)
    with (tmp_path / "history.csv").open("a") as file:
        file.write("12,0,0,0,0,0,0\n")
    train(network(), task, config(), tmp_path)
    assert steps(tmp_path) == ROWS


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_the_history_back(task: Task, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(network(tmp_path, stop=10), task, config(), tmp_path, tensorboard=True)
    assert [step for step, _ in events(tmp_path)["loss"]] == [4, 8]
    result = train(network(), task, config(), tmp_path, tensorboard=True)
    read = events(tmp_path)
    assert read.keys() == result.history[0].keys() - {"step"}
    for tag, points in read.items():
        assert [step for step, _ in points] == ROWS
        assert [value for _, value in points] == pytest.approx([row[tag] for row in result.history])
    train(network(), task, config(), tmp_path / "later")
    train(network(), task, config(), tmp_path / "later", tensorboard=True)
    assert events(tmp_path / "later") == read, "a finished run's events come from its history"


def test_tensorboard_that_is_not_installed(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        ConfigError, match=r"tensorboard: not installed: pip install 'cmru-hw\[tensorboard\]'"
    ):
        train(network(), task, config(), tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_events_need_a_folder(task: Task) -> None:
    with pytest.raises(ConfigError, match="tensorboard: events need a folder"):
        train(network(), task, config(), tensorboard=True)


def test_the_device_is_no_part_of_a_run(task: Task, tmp_path: Path) -> None:
    """Where there is a GPU, what was stopped on the CPU goes on there; elsewhere auto is the CPU."""
    with pytest.raises(KeyboardInterrupt):
        train(network(tmp_path, stop=10), task, config(device="cpu"), tmp_path)
    resumed, whole = network(), network()
    train(resumed, task, config(device="auto"), tmp_path)
    train(whole, task, config())
    for name, value in whole.named_parameters():
        found = resumed.get_parameter(name)
        assert found.device.type == "cpu"
        if torch.cuda.is_available():
            torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-4)
        else:
            assert torch.equal(found, value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(task: Task, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.device: cuda, but torch finds no GPU"):
        train(network(), task, config(device="cuda"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
