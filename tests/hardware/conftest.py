"""A technology without second-order effects, and the one-thread rule."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from one_thread import one_thread as one_thread

from cmru_hw import technology as technology_module
from cmru_hw.config import packaged
from cmru_hw.technology import Technology, load_technology


@pytest.fixture
def generic() -> Technology:
    return load_technology("generic180")


@pytest.fixture
def technologies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of cards for this test alone, with a copy of generic180 in it."""
    folder = tmp_path / "technologies"
    shutil.copytree(packaged("circuits", "technologies", "generic180"), folder / "generic180")

    def elsewhere(*parts: str) -> Path:
        if parts[:2] == ("circuits", "technologies"):
            return folder.joinpath(*parts[2:])
        return packaged(*parts)

    monkeypatch.setattr(technology_module, "packaged", elsewhere)
    return folder


@pytest.fixture
def ideal(technologies: Path) -> Technology:
    """generic180 whose transistors are perfect current sources, latches pass on their I_gain, and packets
    are whole.

    The thresholds are still the measured ones, so what mapping pre-distorts must come back undistorted.
    """
    folder = technologies / "ideal180"
    shutil.copytree(technologies / "generic180", folder)
    card = yaml.safe_load((folder / "card.yaml").read_text())
    card |= {"name": "ideal180", "output_curve": {"volts": [0.1, 1.0], "n": [1.0, 1.0], "p": [1.0, 1.0]}}
    card["slope_factor"] = {"n": 1.0, "p": 1.0}  # steep, so that a diode leaks little and can carry much:
    card["gate_voltage_at_1na"] = {"n": 0.68, "p": 0.68}  # 4e-21 A at V_GS = 0, 100 nA at the supply
    card["cells"]["integrator"]["droop"] = [[27.0, 1e-12]]
    for copying in card["cells"]["integrator"]["copying"]:
        exact = {"up": 1.0, "down": 1.0, "error": [0.0, 0.0, 0.0], "start": 0.0, "low": -1.0, "high": 1.0}
        copying |= exact
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    measured = folder / "calibration" / "latch.json"
    latch = json.loads(measured.read_text())
    for table in latch["tables"]:
        table["output"] = [1.0] * len(latch["gain"])
    measured.write_text(json.dumps(latch))
    return load_technology("ideal180")
