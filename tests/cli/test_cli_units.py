"""Every unit through the commands: the shipped models of each, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_files import Command

from cmru_hw.config import packaged

MODELS = {
    "speaker_vowels_bmru": ("clocked", "bmru"),
    "speaker_vowels_cmru": ("latch_bank", "cmru"),
    "copy_first_cmru": ("latch_bank", "cmru"),
    "speaker_vowels_alpha_cmru": ("integrator", "alpha_cmru"),
}


def inputs(path: Path, size: int, frames: int = 6) -> Path:
    np.save(path, np.random.default_rng(0).normal(0, 1, (1, frames, size)))
    return path


def mapped(model: str, out: Path, command: Command, *options: object) -> Path:
    done = command("map", packaged("models", model), "--unit-current", "5e-10", *options, "-o", out)
    assert done.code == 0, done.err
    return out


@pytest.mark.parametrize("model", MODELS)
def test_every_unit_maps_simulates_and_draws_chips(model: str, tmp_path: Path, command: Command) -> None:
    design = mapped(model, tmp_path / "design", command)
    x = inputs(tmp_path / "x.npy", 4 if "copy" in model else 12)
    out = tmp_path / "out.npz"
    assert command("simulate", design, "--input", x, "-o", out, "--chips", 3).code == 0
    with np.load(out) as found:
        assert found["logits"].shape[:3] == (3, 1, 6)
        assert np.ptp(found["state_0"]) > 0
        assert (found["supply_power"] > 0).all()
        assert (found["power.layer0/comparator"] > 0).all()


@pytest.mark.parametrize(
    ("model", "options", "complaint"),
    [
        ("speaker_vowels_bmru", ["--accumulator", "integrator"], "layers.0.unit is a bmru"),
        ("speaker_vowels_alpha_cmru", ["--accumulator", "latch_bank"], "layers.0.unit is an alpha_cmru"),
        ("speaker_vowels_cmru", ["--latch", "9t"], "mapping.latch: 9t holds one bit"),
        ("speaker_vowels_cmru", ["--levels", "5"], "mapping.levels: 5"),
        ("speaker_vowels_cmru", ["--levels", "0"], "levels: Input should be greater"),
        ("speaker_vowels_cmru", ["--frame-period", "9e-4"], "layers.0.unit: clock"),
        ("speaker_vowels_alpha_cmru", ["--unit-current", "1e-8"], "layers.0.unit: rails of 4"),
    ],
)
def test_what_a_unit_cannot_have_is_refused_in_one_line(
    model: str, options: list[str], complaint: str, tmp_path: Path, command: Command
) -> None:
    done = command("map", packaged("models", model), *options, "-o", tmp_path / "design")
    assert done.code == 2
    assert complaint in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "design").exists()


def test_a_clocked_design_needs_whole_frames(tmp_path: Path, command: Command) -> None:
    design = mapped("copy_first_cmru", tmp_path / "design", command)
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 3, 4)), times=np.array([0.0, 0.01, 0.015]))
    done = command("simulate", design, "--input", tmp_path / "x.npz", "-o", tmp_path / "out.npz")
    assert done.code == 2
    assert "the design's clock needs frames of 0.01 s or more, got 0.005" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_compare_of_every_unit(model: str, tmp_path: Path, command: Command) -> None:
    """One input of four frames, in ngspice with two tolerance sets."""
    design = mapped(model, tmp_path / "design", command)
    x = inputs(tmp_path / "x.npy", 4 if "copy" in model else 12, frames=4)
    out = tmp_path / "agreement.json"
    done = command("compare", design, "--input", x, "-o", out)
    assert done.code == 0, done.err
    found = json.loads(out.read_text())["behavioral_spice"]
    assert found["state_fraction"] >= 0.95
    assert found["decision_fraction"] == 1.0
