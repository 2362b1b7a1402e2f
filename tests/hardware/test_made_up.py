"""A technology of a few lines, in a folder of its own: characterised, mapped, simulated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hardware_networks import random_input, random_network

from cmru_hw.behavioral import BehavioralModel
from cmru_hw.characterize import characterize, latch
from cmru_hw.design import load_design
from cmru_hw.errors import ConfigError, MappingError
from cmru_hw.farm import Farm
from cmru_hw.mapping import map_network
from cmru_hw.primitives.latch import calibration
from cmru_hw.spice.latch_bench import measure_hysteresis
from cmru_hw.spice.simulate import simulate
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import load_technology

NANO = 1e-9


@pytest.fixture
def made_up(tmp_path: Path) -> Path:
    """The card and its models in a folder of this test."""
    return shutil.copytree(Path(__file__).with_name("made_up"), tmp_path / "anywhere")


@pytest.mark.slow
def test_a_new_technology_goes_from_its_card_to_a_network_in_ngspice(
    made_up: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Three thresholds and widths of the latch are enough here; between them within 1 %."""
    card = load_technology(str(made_up))
    monkeypatch.setattr(latch, "THRESHOLDS", np.array([0.1, 0.6, 4.0]) * NANO)
    monkeypatch.setattr(latch, "RATIOS", np.array([0.0, 0.5, 1.05]))
    characterize(card, made_up / card.calibration, ["transistor", "mirror", "latch"], Farm(1))

    measured = json.loads((made_up / card.calibration / "transistor.json").read_text())
    for polarity in ("n", "p"):
        told = card.gate_voltage_at_1na.of(polarity)  # type: ignore[arg-type]
        assert measured[polarity]["volts_at_1na"][0] == pytest.approx(told, abs=1e-3)
    found = measure_hysteresis(card, 0.3 * NANO, 0.15 * NANO, 0.3 * NANO)
    up, down = calibration(card).forward(np.array([0.3 * NANO]), np.array([0.15 * NANO]))
    np.testing.assert_allclose([found.up, found.down], [up, down], rtol=0.01)

    design = map_network(random_network(0), card)[0]
    design.save(tmp_path / "design")
    again = load_design(tmp_path / "design")
    assert again.technology.folder == made_up
    stimulus = make_stimulus(random_input(0, batch=1, frames=4), 3, 1e-2)
    spice, model = simulate(again, stimulus), BehavioralModel(again).run(stimulus)
    np.testing.assert_array_equal(model.states[0], spice.states[0])
    np.testing.assert_allclose(model.supply_power, spice.supply_power, rtol=0.02)


def test_what_was_not_measured_is_refused_by_name(made_up: Path) -> None:
    card = load_technology(str(made_up))
    with pytest.raises(ConfigError, match=r"anywhere/calibration/latch.json: not a latch calibration"):
        calibration(card)
    with pytest.raises(ConfigError, match=r"corner: none called 'ff'; there are tt"):
        card.at(corner="ff")
    with pytest.raises(MappingError, match="made_up: has no window comparator; its cells: none"):
        map_network(random_network(0, unit="bmru"), card)


def test_a_folder_of_the_user_s_is_known_by_name(made_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMRU_HW_TECHNOLOGIES", str(made_up.parent))
    made_up.rename(made_up.with_name("made_up"))
    card = load_technology("made_up")
    assert card.reference == "made_up"
    assert card.model_hash == load_technology(str(made_up.with_name("made_up"))).model_hash
