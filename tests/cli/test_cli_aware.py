"""`cmru-hw aware`: plain and aware training side by side, kept and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_files import Command

from cmru_hw.analysis.robustness import Lot, chip_accuracies
from cmru_hw.aware import equal_yield
from cmru_hw.config import to_yaml
from cmru_hw.design import load_design
from cmru_hw.nn.network import load_network
from cmru_hw.stimulus import make_stimulus
from cmru_hw.training import TaskConfig, evaluate, load_task

CONFIG: dict[str, Any] = {
    "task": {"name": "copy_first_input", "length": 6, "classes": 3, "train_size": 90, "test_size": 60},
    "network": {"unit": "fq_bmru", "model_size": 6, "hidden_size": 6, "num_layers": 1, "pool": "last"},
    "training": {
        "steps": 24, "batch_size": 16, "learning_rate": 1.0e-2, "epsilon_hold": 0, "epsilon_anneal": 0,
        "hardware_noise": {"scale": 2.0, "anneal": 5, "chips": 4},
        "quantization": {"units": 16, "steps": 8, "learning_rate": 1.0e-3},
    },
    "mapping": {"unit_current": 5.0e-10},
    "robustness": {"yield_target": 0.6, "seed": 3},
}  # fmt: skip
OPTIONS = ("--seeds", 2, "--chips", 30, "--sigma-scale", 3, "--sigma-scale", 1)


def written(folder: Path, **training: Any) -> Path:
    content = {**CONFIG, "training": {**CONFIG["training"], **training}}
    (folder / "aware.yaml").write_text(to_yaml(content))
    return folder / "aware.yaml"


def test_both_are_trained_mapped_and_measured_on_the_same_chips(tmp_path: Path, command: Command) -> None:
    config, out = written(tmp_path), tmp_path / "out"
    done = command("aware", config, "-o", out, *OPTIONS, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found == json.loads((out / "aware.json").read_text())
    assert found["sigma_scales"] == [1.0, 3.0]
    assert (out / "aware.svg").read_text().startswith("<?xml")
    trained = {}
    for recipe in ("plain", "aware"):
        assert [run["seed"] for run in found[recipe]["runs"]] == [0, 1]
        for run in found[recipe]["runs"]:
            folder = out / recipe / f"seed{run['seed']}"
            design = load_design(folder / "design")
            assert run["transistors"] == design.transistors
            trained[recipe, run["seed"]] = (folder / "network" / "weights.safetensors").read_bytes()
            task = CONFIG["task"]
            split = load_task(TaskConfig.model_validate(task), run["seed"]).test
            stimulus = make_stimulus(split.x, 3, design.facts.frame_period, split.lengths)
            network = load_network(folder / "network")
            assert run["accuracy"] == evaluate(network, split).accuracy
            chips = chip_accuracies(Lot(design, stimulus, split.y, 3, 3.0), range(30))
            assert run["yield"][1] == float((chips >= 0.6).mean())
            assert run["mean_accuracy"][1] == pytest.approx(float(chips.mean()))
        over = np.array([run["yield"] for run in found[recipe]["runs"]])
        assert found[recipe]["yield"] == pytest.approx(over.mean(axis=0).tolist())
    assert len(set(trained.values())) == 4


def test_finished_work_is_kept(tmp_path: Path, command: Command) -> None:
    config, out = written(tmp_path), tmp_path / "out"
    first = command("aware", config, "-o", out, *OPTIONS, "--json")
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*seed*.safetensors")}
    assert len(stamps) == 4
    stamps |= {path: path.stat().st_mtime_ns for path in out.rglob("chips_*.safetensors")}
    assert len(stamps) == 4 + 8
    again = command("aware", config, "-o", out, *OPTIONS, "--json")
    assert again.out == first.out
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    more = command("aware", config, "-o", out, "--seeds", 2, "--chips", 40, "--sigma-scale", 1, "--json")
    assert more.code == 0
    runs = json.loads(more.out)["plain"]["runs"]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert len(runs[0]["yield"]) == 1


def test_as_a_table(tmp_path: Path, command: Command) -> None:
    done = command(
        "aware", written(tmp_path, steps=12), "-o", tmp_path / "out", "--seeds", 1, "--chips", 5,
        "--sigma-scale", 2,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "0.25" in done.out
    assert "aware.svg" in done.out.replace("\n", "")


def test_what_is_refused(tmp_path: Path, command: Command) -> None:
    config, out = written(tmp_path, hardware_noise=None), tmp_path / "out"
    done = command("aware", config, "-o", out)
    assert (done.code, out.exists()) == (2, False)
    assert "training.hardware_noise: missing" in done.err
    config = written(tmp_path)
    content = config.read_text().replace("mapping:", "mapping:\n  latch: clocked")
    config.write_text(content)
    done = command("aware", config, "-o", out)
    assert (done.code, out.exists()) == (2, False)
    assert "mapping.latch: training.hardware_noise has no model of clocked" in done.err
    config = written(tmp_path)
    assert command("aware", config, "-o", out, "--seeds", 1, "--chips", 2, "--sigma-scale", 1).code == 0
    done = command("aware", written(tmp_path, learning_rate=1.0e-3), "-o", out, "--seeds", 1)
    assert done.code == 2
    assert "holds results of another configuration" in done.err
    (chips,) = (out / "plain").rglob("chips_*.safetensors")
    chips.write_bytes(b"no")
    done = command("aware", written(tmp_path), "-o", out, "--seeds", 1, "--chips", 2, "--sigma-scale", 1)
    assert done.code == 2
    assert "00000001.safetensors: not a finished result" in done.err


def test_equal_yield() -> None:
    """Plain training at sigma 1 yields 0.7; aware training at 3 still does: a ninth of the area."""
    found = equal_yield([1.0, 2.0, 3.0, 4.0], [0.7, 0.5, 0.99, 0.0], [0.98, 0.9, 0.7, 0.6])
    assert [(one["plain"], one["aware"]) for one in found] == [(1.0, 3.0), (2.0, 4.0), (4.0, 4.0)]
    assert [one["area"] for one in found] == pytest.approx([1 / 9, 1 / 4, 1.0])
