"""From a task to a report in one command; what it leaves, and that a second call goes on from it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cli_files import Command
from safetensors.numpy import load_file

from cmru_hw import codesign as codesign_module
from cmru_hw.spice.ngspice import find_ngspice

CONFIG: dict[str, Any] = {
    "task": {"name": "copy_first_input", "length": 5, "classes": 3, "train_size": 64, "test_size": 20},
    "network": {"unit": "fq_bmru", "model_size": 4, "hidden_size": 4, "num_layers": 2},
    "training": {"steps": 6, "batch_size": 16, "epsilon_hold": 1, "epsilon_anneal": 2, "seed": 4},
    "simulation": {"inputs": 2, "workers": 2},
    "robustness": {"chips": 6, "seed": 2, "yield_target": 0.3},
}
METRICS = {  # what metrics.json holds
    "task": None, "unit": None, "technology": None, "parameters": None, "transistors": None, "area_m2": None,
    "area_breakdown": None, "corners": {"conditions", "worst", "refused"},
    "accuracy": {"software", "behavioral", "spice"},
    "agreement": {"inputs", "decisions", "states", "decision_fraction", "state_fraction"},
    "power_w": {"behavioral", "spice", "breakdown"}, "energy_per_inference_j": None,
    "robustness": {
        "chips", "sigma_scale", "mean_accuracy", "std_accuracy", "p05_accuracy", "yield", "yield_target",
        "yield_ci95",
    },
}  # fmt: skip


def write_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG | changes))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `config.yaml` and its finished `out`."""
    folder = tmp_path_factory.mktemp("codesign")
    codesign_module.codesign(codesign_module.read_plan(write_config(folder)), folder / "out")
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def test_metrics_hold_what_the_design_promises(finished: Path) -> None:
    metrics = json.loads((finished / "out" / "metrics.json").read_text())
    assert set(METRICS) <= set(metrics)
    for key, inner in METRICS.items():
        if inner is not None:
            assert inner <= set(metrics[key])
    assert (metrics["task"], metrics["unit"]) == ("copy_first_input", "fq_bmru")
    assert metrics["agreement"]["inputs"] == 2
    assert metrics["robustness"]["chips"] == 6
    assert metrics["accuracy"]["spice"] in (0.0, 0.5, 1.0)
    low, high = metrics["robustness"]["yield_ci95"]
    assert 0 <= low <= metrics["robustness"]["yield"] <= high <= 1
    assert metrics["power_w"]["behavioral"] == pytest.approx(metrics["power_w"]["spice"], rel=0.15)


def test_metrics_agree_with_what_lies_beside_them(finished: Path) -> None:
    out = finished / "out"
    metrics = json.loads((out / "metrics.json").read_text())
    (chips,) = (load_file(path)["accuracy"] for path in (out / "chips").glob("*.safetensors"))
    assert metrics["robustness"]["mean_accuracy"] == pytest.approx(chips.mean())
    assert metrics["robustness"]["yield"] == np.mean(chips >= 0.3)
    design = yaml.safe_load((out / "design" / "design.yaml").read_text())
    assert metrics["transistors"] == design["transistors"]
    for engine in ("behavioral", "spice"):
        parts = metrics["power_w"]["breakdown"][engine]
        assert metrics["power_w"][engine] == pytest.approx(sum(parts.values()))
    energy = metrics["power_w"]["spice"] * 5 * 1e-2  # five frames of 10 ms
    assert metrics["energy_per_inference_j"] == pytest.approx(energy)


def test_parts_add_up_and_every_corner_is_there(finished: Path) -> None:
    metrics = json.loads((finished / "out" / "metrics.json").read_text())
    for key, whole in (("transistors", metrics["transistors"]), ("area_m2", metrics["area_m2"])):
        assert sum(part[key] for part in metrics["area_breakdown"].values()) == pytest.approx(whole)
    assert metrics["area_breakdown"]["layer1/latch"]["transistors"] > 0
    found = metrics["corners"]["conditions"]
    conditions = {(row["corner"], row["supply"], row["celsius"]): row["nominal_accuracy"] for row in found}
    assert {corner for corner, _, _ in conditions} == {"tt", "ff", "ss", "fs", "sf"}
    assert len(conditions) == 45
    assert conditions["tt", 0.8, 27.0] == metrics["accuracy"]["behavioral"]


def test_what_figures_show_lies_beside_them(finished: Path) -> None:
    figures = finished / "out" / "figures"
    shown = json.loads((figures / "data.json").read_text())
    assert {path.stem for path in figures.glob("*.svg")} == set(shown)
    assert len(shown["accuracy_over_chips"]["accuracies"]) == 6
    waves = shown["waveforms"]
    assert np.shape(waves["spice_a"]) == (len(waves["time_s"]), len(waves["names"]))
    assert np.sum(shown["confusion"]["matrix"]) == 20


def test_everything_promised_is_written_and_nothing_half(finished: Path) -> None:
    out = finished / "out"
    for name in (
        "report.html", "design/design.yaml", "design/design.safetensors", "netlist/network.cir",
        "network/network.yaml", "network/weights.safetensors", "agreement.json",
    ):  # fmt: skip
        assert (out / name).stat().st_size > 0, name
    assert "<html" in (out / "report.html").read_text()
    assert not [path for path in out.rglob(".*") if path.name != ".spiceinit"]


def test_the_netlist_runs_alone_in_its_folder(copied: Path) -> None:
    folder = copied / "out" / "netlist"
    program, _ = find_ngspice()
    with (folder / "testbench_0000.cir.log").open("w") as log:
        subprocess.run([program, "-b", "testbench_0000.cir"], cwd=folder, stdout=log, timeout=60, check=True)
    assert subprocess.run([sys.executable, "check.py"], cwd=folder, timeout=60, check=False).returncode == 0
    assert "/work" not in (folder / "network.cir").read_text()


def test_a_second_call_goes_on_and_ends_with_the_same_bytes(copied: Path, command: Command) -> None:
    out = copied / "out"
    before, page = ((out / name).read_bytes() for name in ("metrics.json", "report.html"))
    runs = sorted((out / "spice").glob("input_*"))
    assert len(runs) == 2
    times = {path: path.stat().st_mtime_ns for path in [*runs, *(out / "chips").iterdir()]}
    for name in ("metrics.json", "report.html"):
        (out / name).unlink()
    done = command("codesign", copied / "config.yaml", "-o", out, "--json")
    assert done.code == 0, done.err
    assert (out / "metrics.json").read_bytes() == before
    assert json.loads(done.out) == json.loads(before)
    assert (out / "report.html").read_bytes() == page
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_missing_run_is_run_again_with_the_same_result(copied: Path, command: Command) -> None:
    out = copied / "out"
    before = (out / "metrics.json").read_bytes()
    first, second = sorted((out / "spice").glob("input_*"))
    kept = second.stat().st_mtime_ns
    first.unlink()
    assert command("codesign", copied / "config.yaml", "-o", out).code == 0
    assert first.exists()
    assert second.stat().st_mtime_ns == kept
    assert (out / "metrics.json").read_bytes() == before


def test_a_damaged_run_is_said_not_used(copied: Path, command: Command) -> None:
    first = min((copied / "out" / "spice").glob("input_*"))
    first.write_bytes(first.read_bytes()[:-20])
    done = command("codesign", copied / "config.yaml", "-o", copied / "out")
    assert done.code == 2
    assert first.name in done.err


@pytest.mark.parametrize(
    "changes",
    [
        {"robustness": CONFIG["robustness"] | {"chips": 7}}, {"mapping": {"units": 32}},
        {"simulation": {"inputs": 1}}, {"training": CONFIG["training"] | {"steps": 8}},
    ],
)  # fmt: skip
def test_another_configuration_is_refused_in_the_same_folder(
    copied: Path, command: Command, changes: dict[str, Any]
) -> None:
    before = (copied / "out" / "metrics.json").read_bytes()
    weights = (copied / "out" / "network" / "weights.safetensors").read_bytes()
    done = command("codesign", write_config(copied, **changes), "-o", copied / "out")
    assert done.code == 2, done
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("cmru-hw: error: ")
    assert (copied / "out" / "metrics.json").read_bytes() == before
    assert (copied / "out" / "network" / "weights.safetensors").read_bytes() == weights


def test_trained_weights_are_taken_as_they_are(finished: Path, tmp_path: Path, command: Command) -> None:
    shutil.copytree(finished / "out" / "network", tmp_path / "given")
    changes = {"trained": "given", "simulation": {"inputs": 1}}
    done = command("codesign", write_config(tmp_path, **changes), "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    first = json.loads((finished / "out" / "metrics.json").read_text())
    assert json.loads(done.out)["accuracy"]["software"] == first["accuracy"]["software"]
    assert json.loads(done.out)["robustness"] == first["robustness"]


def test_train_alone_writes_a_network_that_map_takes(tmp_path: Path, command: Command) -> None:
    assert command("train", write_config(tmp_path), "-o", tmp_path / "run", "--json").code == 0
    assert (tmp_path / "run" / "metrics.json").exists()
    assert command("map", tmp_path / "run", "-o", tmp_path / "design").code == 0
