"""`cmru-hw optimize`: the front is trained, measured, verified and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_files import Command

from cmru_hw.analysis.robustness import Lot, chip_accuracies
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.config import to_yaml
from cmru_hw.design import load_design
from cmru_hw.optimize import cheapest, equal_yield, front
from cmru_hw.stimulus import make_stimulus
from cmru_hw.training import TaskConfig, load_task

CONFIG: dict[str, Any] = {
    "task": {"name": "copy_first_input", "length": 4, "classes": 3, "train_size": 60, "test_size": 30},
    "network": {"unit": "fq_bmru", "model_size": 4, "hidden_size": 4, "num_layers": 1, "pool": "last"},
    "training": {"steps": 8, "batch_size": 16, "epsilon_hold": 0, "epsilon_anneal": 0},
    "mapping": {"unit_current": 5.0e-10},
    "simulation": {"inputs": 2},
    "robustness": {"chips": 20, "yield_target": 0.3, "seed": 3},
    "optimize": {
        "costs": [[0.0, 0.0], [4.0, 4.0]], "steps": 12, "finish_steps": 4, "size_learning_rate": 0.1,
        "batch_size": 16, "chips": 4, "least_yield": 0.0,
        "uniform": {
            "units": [4, 16], "unit_area": [0.5], "unit_current": [5.0e-10], "costs": [[0.0, 0.0]]
        },
    },
}  # fmt: skip


def written(folder: Path, **changes: Any) -> Path:
    (folder / "optimize.yaml").write_text(to_yaml({**CONFIG, **changes}))
    return folder / "optimize.yaml"


def test_the_front_is_measured_verified_and_kept(tmp_path: Path, command: Command) -> None:
    config, out = written(tmp_path), tmp_path / "out"
    done = command("optimize", config, "-o", out, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found == json.loads((out / "optimize.json").read_text())
    assert (out / "optimize.svg").read_text().startswith("<?xml")
    assert [point["costs"] for point in found["optimised"]] == [[0.0, 0.0], [4.0, 4.0]]
    assert len(found["uniform"]) == 2
    assert found["optimised"][1]["area_m2"] < 0.7 * found["optimised"][0]["area_m2"]
    split = load_task(TaskConfig.model_validate(CONFIG["task"]), 0).test
    for point in (*found["optimised"], *found["uniform"]):
        design = load_design(out / point["folder"])
        assert design.area == pytest.approx(point["area_m2"])
        assert design.facts.unit_area == point["mapping"]["unit_area"]
        stimulus = make_stimulus(split.x, 3, design.facts.frame_period, split.lengths)
        chips = chip_accuracies(Lot(design, stimulus, split.y, 3), range(20))
        assert point["yield"] == float((chips >= 0.3).mean())
        power = BehavioralModel(design).run(stimulus).supply_power.mean()
        assert point["power_w"] == pytest.approx(float(power))
    one = found["uniform"][0]["mapping"]
    assert {one["latch_units"], one["bias_units"], *one["rows"].values()} == {4}
    spice = found["spice"]
    assert spice["inputs"] == 2
    assert spice["power_w"]["spice"] == pytest.approx(spice["power_w"]["behavioral"], rel=0.05)
    kept = [path for path in out.rglob("*.safetensors") if path.parent.name in ("trained", "chips", "spice")]
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    assert len(stamps) == 4 + 4 + 2
    again = command("optimize", config, "-o", out)
    assert again.code == 0, again.err
    assert "optimised/1" in again.out
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    (out / "trained" / "optimised_0.safetensors").write_bytes(b"no")
    assert "optimised_0.safetensors: not a finished result" in command("optimize", config, "-o", out).err


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"optimize": None}, "optimize: missing from the configuration"),
        (
            {"optimize": {**CONFIG["optimize"], "units": [8.0, 4.0]}},
            "units must be the smallest and the larg",
        ),
        (
            {"network": {**CONFIG["network"], "unit": "bmru"}},
            "network.unit: power is modelled for fq_bmru alone, not for bmru",
        ),
        ({"mapping": {"latch": "clocked"}}, "mapping.latch: training.hardware_noise has no model of clocked"),
    ],
)
def test_what_cannot_be_optimised_is_refused(
    tmp_path: Path, command: Command, changes: dict[str, Any], complaint: str
) -> None:
    done = command("optimize", written(tmp_path, **changes), "-o", tmp_path / "out")
    assert (done.code, (tmp_path / "out").exists()) == (2, False)
    assert complaint in done.err


def test_fronts_and_equal_yields() -> None:
    def point(name: str, share: float, watts: float, area: float) -> dict[str, Any]:
        return {"folder": name, "yield": share, "power_w": watts, "area_m2": area}

    points = [point("a", 1.0, 4.0, 4.0), point("b", 0.9, 2.0, 3.0), point("c", 0.9, 2.0, 4.0)]
    uniform = [point("u", 0.95, 4.0, 3.0), point("v", 1.0, 8.0, 4.0)]
    assert [one["folder"] for one in front(points)] == ["a", "b"]
    assert cheapest(points, 0.95) is points[0]
    assert cheapest(points[1:], 0.95) is None
    found = equal_yield(points, uniform)
    assert [(one["point"], one["uniform"]) for one in found] == [("a", "v"), ("b", "u"), ("c", "u")]
    np.testing.assert_allclose([one["saved"] for one in found], [0.5, 0.5, 1 / 3])
