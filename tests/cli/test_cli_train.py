"""`cmru-hw train`: any unit and task by configuration, one network or several side by side."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cli_files import Command

from cmru_hw.codesign import CodesignConfig
from cmru_hw.config import load, packaged, to_yaml
from cmru_hw.errors import ConfigError
from cmru_hw.nn.block import CELLS
from cmru_hw.nn.network import load_network
from cmru_hw.runs import read_seeds
from cmru_hw.training import TaskConfig, evaluate, load_task
from cmru_hw.training.tasks import SpeechCommands

TASK = {"name": "copy_first_input", "length": 5, "classes": 3, "train_size": 60, "test_size": 40}
CONFIG: dict[str, Any] = {
    "task": TASK | {"validation_fraction": 0.2},
    "network": {"unit": "cmru", "model_size": 4, "hidden_size": 4, "num_layers": 1, "pool": "last"},
    "training": {
        "steps": 6, "batch_size": 16, "learning_rate": 1e-2, "epsilon_hold": 0, "epsilon_anneal": 0,
        "evaluate_every": 2,
    },
}  # fmt: skip

UNVALIDATED = {"validation_fraction": 0.0}


def written(path: Path, **changes: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(to_yaml({key: CONFIG[key] | changes.get(key, {}) for key in CONFIG}))
    return path


@pytest.mark.parametrize("unit", CELLS)
def test_every_unit_by_configuration_alone(unit: str, tmp_path: Path, command: Command) -> None:
    config = written(tmp_path / "config.yaml", network={"unit": unit, "hidden_size": 5, "num_layers": 2})
    done = command("train", config, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    network = load_network(tmp_path / "run")
    assert (network.config.unit, network.config.hidden_size, network.config.num_layers) == (unit, 5, 2)
    (line,) = done.out.splitlines()
    assert line == (
        f"copy_first_input, {unit}, seed 0: {sum(p.numel() for p in network.parameters())} parameters, "
        f"6 steps (weights of {metrics['best_step']}), accuracy train {metrics['train_accuracy']:.4f}, "
        f"validation {metrics['validation_accuracy']:.4f}, test {metrics['test_accuracy']:.4f}, "
        f"{metrics['timing']['seconds']:.1f} s"
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_side_by_side_is_what_each_is_alone(workers: int, tmp_path: Path, command: Command) -> None:
    small = written(tmp_path / "small.yaml")
    large = written(tmp_path / "large.yaml", network={"hidden_size": 7, "unit": "lru"})
    out = tmp_path / "out"
    done = command("train", small, large, "--seeds", "1..2", "--workers", workers, "-o", out, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found == json.loads((out / "runs.json").read_text())
    assert [(run["network"], run["seed"]) for run in found["runs"]] == [
        ("small", 1), ("small", 2), ("large", 1), ("large", 2),
    ]  # fmt: skip
    for run in found["runs"]:
        folder = out / run["network"] / f"seed{run['seed']}"
        task = load_task(TaskConfig.model_validate(CONFIG["task"]), run["seed"])
        assert evaluate(load_network(folder), task.test).accuracy == run["test_accuracy"]
        assert (folder / "history.csv").read_text().count("\n") == 4
    for name, unit in (("small", "cmru"), ("large", "lru")):
        summary = found["summary"][name]
        tests = [run["test_accuracy"] for run in found["runs"] if run["network"] == name]
        assert (summary["unit"], summary["seeds"]) == (unit, 2)
        assert summary["test_accuracy"]["mean"] == pytest.approx(np.mean(tests))
        assert summary["test_accuracy"]["std"] == pytest.approx(abs(tests[0] - tests[1]) / np.sqrt(2))
        assert (summary["test_accuracy"]["min"], summary["test_accuracy"]["max"]) == (min(tests), max(tests))
    alone = written(tmp_path / "alone.yaml", training={"seed": 2})
    assert command("train", alone, "-o", tmp_path / "alone").code == 0
    weights = [folder / "weights.safetensors" for folder in (tmp_path / "alone", out / "small" / "seed2")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_finished_runs_are_kept_and_more_seeds_go_on(tmp_path: Path, command: Command) -> None:
    config, out = written(tmp_path / "net.yaml"), tmp_path / "out"
    first = command("train", config, "--seeds", 2, "--workers", 1, "-o", out, "--json")
    assert first.code == 0, first.err
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.name != "runs.json"}
    again = command("train", config, "--seeds", 2, "--workers", 1, "-o", out, "--json")
    assert again.out == first.out
    more = command("train", config, "--seeds", 3, "--workers", 1, "-o", out)
    assert more.code == 0, more.err
    assert "±" in more.out
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert len(json.loads((out / "runs.json").read_text())["runs"]) == 3


def test_files_of_one_name_are_told_apart_by_their_folder(tmp_path: Path, command: Command) -> None:
    one, other = (written(tmp_path / name / "config.yaml") for name in ("one", "other"))
    done = command("train", one, other, "--workers", 1, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "one_config" / "seed0" / "metrics.json").exists()
    done = command("train", one, one, "-o", tmp_path / "twice")
    assert (done.code, (tmp_path / "twice").exists()) == (2, False)
    assert "two configurations of this name" in done.err


def test_early_stopping_by_configuration(tmp_path: Path, command: Command) -> None:
    config = written(tmp_path / "net.yaml", training={"steps": 400, "early_stopping": {"patience": 2}})
    assert command("train", config, "-o", tmp_path / "run").code == 0
    steps = json.loads((tmp_path / "run" / "metrics.json").read_text())["steps"]
    assert steps < 400
    assert (tmp_path / "run" / "history.csv").read_text().splitlines()[-1].startswith(f"{steps},")
    config = written(tmp_path / "net.yaml", training={"early_stopping": {"patience": 2}}, task=UNVALIDATED)
    done = command("train", config, "-o", tmp_path / "other")
    assert (done.code, (tmp_path / "other").exists()) == (2, False)
    assert "training.early_stopping: needs a validation split" in done.err


def test_what_is_refused(tmp_path: Path, command: Command) -> None:
    config, out = written(tmp_path / "net.yaml"), tmp_path / "out"
    for text in ("0", "x", "3..1", "1,2", "-1"):
        with pytest.raises(ConfigError, match="--seeds: must be a number above 0"):
            read_seeds(text)
    done = command("train", config, "--seeds", "3..1", "-o", out)
    assert (done.code, out.exists()) == (2, False)
    assert "--seeds: must be a number above 0, or FIRST..LAST, got '3..1'" in done.err
    assert list(read_seeds("3")) == [0, 1, 2]
    assert list(read_seeds("3..3")) == [3]


def test_device_of_the_command(tmp_path: Path, command: Command) -> None:
    import torch

    config = written(tmp_path / "net.yaml", training={"device": "cpu"})
    if not torch.cuda.is_available():
        done = command("train", config, "--device", "cuda", "-o", tmp_path / "out")
        assert (done.code, (tmp_path / "out").exists()) == (2, False)
        assert "training.device: cuda, but torch finds no GPU" in done.err
    assert command("train", config, "--device", "auto", "-o", tmp_path / "out").code == 0


def test_bad_sound_files_are_left_out_on_demand(tmp_path: Path, command: Command) -> None:
    root, random = tmp_path / "speech", np.random.default_rng(0)
    for word in ("yes", "no"):
        (root / word).mkdir(parents=True)
        for k in range(6):
            with wave.open(str(root / word / f"{k}.wav"), "wb") as file:
                file.setparams((1, 2, 16000, 0, "NONE", "none"))
                file.writeframes(random.integers(-999, 999, 2000, dtype=np.int16).tobytes())
    (root / "no" / "3.wav").write_bytes(b"")
    (root / "validation_list.txt").write_text("yes/4.wav\nno/4.wav\n")
    (root / "testing_list.txt").write_text("yes/5.wav\nno/5.wav\n")
    config = tmp_path / "config.yaml"
    shipped = yaml.safe_load(packaged("models", "speech_commands", "d004.yaml").read_text())
    shipped["task"] |= {"folder": str(root), "words": [], "cache": str(tmp_path / "features.npz")}
    shipped["training"] |= {"steps": 2}
    config.write_text(to_yaml(shipped | {"simulation": {"inputs": 2}}))
    refused = command("train", config, "-o", tmp_path / "refused")
    assert refused.code == 2
    assert "1 bad of 12 files (no/3.wav: empty)" in refused.err
    done = command("train", config, "-o", tmp_path / "run", "--skip-bad")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test_decisions"] == 2
    copying = written(tmp_path / "copying.yaml")
    other = command("train", copying, "-o", tmp_path / "other", "--skip-bad")
    assert other.code == 2
    assert "skip_bad: unknown key" in other.err


@pytest.mark.parametrize("size", [4, 8, 16, 32, 64, 128, 256, 512])
def test_speech_configurations_are_valid(size: int) -> None:
    config = load(CodesignConfig, packaged("models", "speech_commands", f"d{size:03d}.yaml"))
    assert config.network["hidden_size"] == config.network["model_size"] == size
    assert isinstance(config.task.root, SpeechCommands)
    assert config.task.root.words[:2] == ("yes", "no")
    assert len(config.task.root.words) == 10
