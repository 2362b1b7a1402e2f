"""Imported weights through `map`, `simulate` with both engines, `compare`, `power` and `robustness`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_files import Command, imported_network

from cmru_hw.nn.network import load_network, save_network

LATCHES = 2 * 4
CLEAR = 0.3
"""Logit margin (model units, 0.3 nA) above which rounding and mirrors must not change a decision."""


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def states_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """Share of equal state samples."""
    return float(np.mean([np.mean(a[f"state_{layer}"] == b[f"state_{layer}"]) for layer in range(2)]))


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


def test_map_writes_a_design_that_carries_its_network(design: Path, weights: Path) -> None:
    assert files(design) == [
        "design.safetensors", "design.yaml", "mapping.json", "network.yaml", "weights.safetensors"
    ]  # fmt: skip
    assert (design / "weights.safetensors").read_bytes() == (weights / "weights.safetensors").read_bytes()


def test_map_again_writes_the_same_bytes(weights: Path, tmp_path: Path, command: Command) -> None:
    shown = [command("map", weights, "-o", tmp_path / name, "--json").out for name in ("a", "b")]
    assert shown[0] == shown[1]
    assert json.loads(shown[0])["transistors"] > 1000
    for name in files(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("boundary", ["full", "core"])
def test_both_engines_on_imported_weights(
    weights: Path, x: Path, tmp_path: Path, command: Command, boundary: str
) -> None:
    import torch

    design = tmp_path / "design"
    assert command("map", weights, "-o", design, "--boundary", boundary).code == 0
    found = {}
    for engine in ("behavioral", "ngspice"):
        out = tmp_path / f"{engine}.npz"
        done = command("simulate", design, "--input", x, "--engine", engine, "-o", out, "--json")
        assert done.code == 0, done.err
        assert done.err == ""
        found[engine] = arrays(out)
        summary = json.loads(done.out)
        assert summary["decision"] == found[engine]["decision"].tolist()
        assert summary["power_w"] == pytest.approx(found[engine]["supply_power"].mean())
    for result in found.values():
        shapes = {"logits": (2, 8, 2), "decision": (2,), "state_0": (2, 8, 4), "state_1": (2, 8, 4)}
        assert {name: result[name].shape for name in shapes} == shapes
        assert result["supply_power"].shape == (2,)
        assert np.isfinite(result["logits"]).all()
        parts = sum(value for name, value in result.items() if name.startswith("power."))
        np.testing.assert_allclose(parts, result["supply_power"])
    assert found["ngspice"]["waveform.time"].shape == (8 * 20 + 1,)
    with torch.no_grad():
        trace = load_network(weights).trace(torch.from_numpy(np.load(x)).float())
    trained = {f"state_{layer}": states.numpy() for layer, states in enumerate(trace["states"])}
    scores = trace["logits"].mean(1).numpy()
    clear = np.abs(scores[:, 0] - scores[:, 1]) > CLEAR
    assert clear.any()
    assert sum(np.ptp(trained[f"state_{layer}"], axis=1).sum() for layer in range(2)) >= 4
    for one, other in ((trained, "behavioral"), (trained, "ngspice"), (found["behavioral"], "ngspice")):
        assert states_equal(one, found[other]) >= 0.95
    for result in found.values():
        assert np.array_equal(result["decision"][clear], scores.argmax(1)[clear])
    np.testing.assert_allclose(
        found["ngspice"]["supply_power"], found["behavioral"]["supply_power"], rtol=0.05
    )
    assert not [name for name in files(tmp_path) if name.startswith(".")]


@pytest.mark.slow
def test_a_second_of_speech_agrees_frame_by_frame(tmp_path: Path, command: Command) -> None:
    """[2, 101, 13], as one second of 13 cepstra each 10 ms."""
    save_network(imported_network(seed=3), tmp_path / "weights")
    np.save(tmp_path / "x.npy", np.random.default_rng(2).normal(0, 1, (2, 101, 13)))
    assert command("map", tmp_path / "weights", "-o", tmp_path / "design").code == 0
    found = {}
    for engine in ("behavioral", "ngspice"):
        out = tmp_path / f"{engine}.npz"
        done = command(
            "simulate", tmp_path / "design", "--input", tmp_path / "x.npy", "--engine", engine, "-o", out
        )
        assert done.code == 0, done.err
        found[engine] = arrays(out)
    assert np.array_equal(found["behavioral"]["decision"], found["ngspice"]["decision"])
    assert states_equal(found["behavioral"], found["ngspice"]) >= 0.97
    np.testing.assert_allclose(
        found["ngspice"]["supply_power"], found["behavioral"]["supply_power"], rtol=0.05
    )


def test_chips_lead_the_arrays_and_are_the_seeds(
    design: Path, x: Path, tmp_path: Path, command: Command
) -> None:
    for name, chips, seed in (("three", 3, 0), ("two", 2, 0), ("other", 2, 1)):
        options = ("--chips", chips, "--seed", seed, "-o", tmp_path / f"{name}.npz")
        assert command("simulate", design, "--input", x, *options).code == 0
    three, two, other = (arrays(tmp_path / f"{name}.npz") for name in ("three", "two", "other"))
    assert three["logits"].shape == (3, 2, 8, 2)
    assert three["decision"].shape == three["supply_power"].shape == (3, 2)
    assert three["state_1"].shape == (3, 2, 8, 4)
    np.testing.assert_allclose(three["logits"][:2], two["logits"], rtol=1e-12)
    assert np.abs(other["logits"] - two["logits"]).max() > 1e-3


def test_lengths_and_times_of_an_npz_are_heeded(design: Path, tmp_path: Path, command: Command) -> None:
    x = np.random.default_rng(1).normal(0, 1, (2, 5, 13))
    np.savez(tmp_path / "x.npz", x=x, lengths=[5, 2], times=[0.0, 0.01, 0.03, 0.04, 0.05])
    done = command("simulate", design, "--input", tmp_path / "x.npz", "-o", tmp_path / "out.npz")
    assert done.code == 0
    found = arrays(tmp_path / "out.npz")
    assert np.isnan(found["logits"][1, 2:]).all()
    assert (found["state_0"][1, 2:] == -1).all()
    assert np.isfinite(found["logits"][0]).all()


def test_compare_writes_the_agreement_of_three_models(
    design: Path, x: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "agreement.json"
    done = command("compare", design, "--input", x, "-o", out, "--json")
    assert done.code == 0, done.err
    found = json.loads(out.read_text())
    assert json.loads(done.out) == found
    assert set(found) == {"trained_behavioral", "behavioral_spice", "trained_spice"}
    for pair in found.values():
        assert pair["samples"] == 2 * 8 * LATCHES
        assert len(pair["disagreements"]) == pair["samples"] - pair["states"] == sum(pair["kinds"].values())
        assert pair["inputs"] == 2
        assert pair["decisions"] == 2 * pair["decision_fraction"] >= 1
        assert pair["state_fraction"] >= 0.95


def test_power_of_both_engines_at_rest(design: Path, command: Command) -> None:
    done = command("power", design, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    for engine in ("behavioral", "ngspice"):
        assert found[engine]["power_w"] == pytest.approx(sum(found[engine]["breakdown"].values()), rel=1e-9)
        assert found[engine]["energy_per_inference_j"] == pytest.approx(0.1 * found[engine]["power_w"])
    assert found["ngspice"]["power_w"] == pytest.approx(found["behavioral"]["power_w"], rel=0.05)
    assert command("power", design).code == 0


def test_robustness_of_given_labels(design: Path, x: Path, tmp_path: Path, command: Command) -> None:
    command("simulate", design, "--input", x, "-o", tmp_path / "nominal.npz")
    np.save(tmp_path / "labels.npy", arrays(tmp_path / "nominal.npz")["decision"])
    arguments = ("--input", x, "--labels", tmp_path / "labels.npy", "--chips", 120, "--json")
    shown = [command("robustness", design, *arguments, "--workers", workers) for workers in (1, 2)]
    assert shown[0] == shown[1]
    found = json.loads(shown[0].out)
    assert found["chips"] == 120
    exact = json.loads(command("robustness", design, *arguments, "--sigma-scale", 0).out)
    assert (exact["mean_accuracy"], exact["std_accuracy"], exact["yield"]) == (1.0, 0.0, 1.0)
    noisy = ("simulate", design, "--input", x, "--noise", "-o", tmp_path / "noisy.npz")
    assert command(*noisy).code == 0
    quiet, shaken = (arrays(tmp_path / f"{name}.npz")["logits"] for name in ("nominal", "noisy"))
    valid = np.isfinite(quiet)
    assert 0 < np.abs(shaken - quiet)[valid].mean() < 0.2 * np.abs(quiet[valid]).mean()


def test_tables_are_printed_for_people(design: Path, x: Path, tmp_path: Path, command: Command) -> None:
    labels = tmp_path / "labels.npy"
    np.save(labels, np.zeros(2, dtype=int))
    for arguments in (
        ("map", design, "-o", tmp_path / "again"),
        ("simulate", design, "--input", x, "-o", tmp_path / "out.npz"),
        ("robustness", design, "--input", x, "--labels", labels, "--chips", 3),
        ("power", design, "--engine", "behavioral"),
    ):
        done = command(*arguments)
        assert done.code == 0, done.err
        assert "│" in done.out or "┃" in done.out


def test_help_and_version(command: Command) -> None:
    from cmru_hw import __version__

    assert command("--version").out.strip() == f"cmru-hw {__version__}"
    for name in ("codesign", "train", "map", "simulate", "compare", "power", "robustness"):
        done = command(name, "-h")
        assert done.code == 0
        assert f"Example: cmru-hw {name}" in " ".join(done.out.split())
