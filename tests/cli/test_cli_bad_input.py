"""Whatever is wrong with the input: one line on standard error, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cli_files import Command, Done, imported_network
from safetensors.numpy import load_file, save_file

from cmru_hw.nn.network import Network, save_network


def refused(done: Done, *named: str) -> None:
    """One line that names what is wrong; exit code 2."""
    assert done.code == 2, done
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("cmru-hw: error: ")
    assert "Traceback" not in done.err + done.out
    assert done.out == ""
    for name in named:
        assert name in lines[0]


def change_yaml(path: Path, **changes: Any) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def change_tensor(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    arrays = load_file(folder / "weights.safetensors")
    arrays[name] = np.ascontiguousarray(change(arrays[name].copy()))
    save_file(arrays, folder / "weights.safetensors")


def at(index: Any, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[index] = value
        return array

    return change


# --- map -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"colour": "red"}, "colour"), ({"model_size": "4"}, "model_size"),
        ({"model_size": 4.5}, "model_size"), ({"skip": "yes"}, "skip"),
        ({"unit": "lstm"}, "unit"), ({"num_layers": 0}, "num_layers"),
        ({"pool": None}, "pool"), ({"norm": "layer"}, "norm"), ({"unit": "lru"}, "weights.safetensors"),
        ({"hidden_size": 10**9}, "hidden_size"), ({"epsilon": float("nan")}, "epsilon"),
    ],
)  # fmt: skip
def test_map_refuses_a_wrong_network_yaml(
    weights: Path, tmp_path: Path, command: Command, changes: dict[str, Any], named: str
) -> None:
    change_yaml(weights / "network.yaml", **changes)
    refused(command("map", weights, "-o", tmp_path / "design"), named)
    assert not (tmp_path / "design").exists()


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("projection.weight", at((1, 2), float("nan")), "projection.weight[1, 2]"),
        ("projection.weight", lambda a: a[:, :-1], "projection.weight"),
        ("layers.0.unit.width", at(2, -0.1), "layers.0.unit.width[2]"),
        ("layers.1.unit.gain", at(0, -1.0), "layers.1.unit.gain[0]"),
        ("layers.0.unit.initial_state", at(0, 0.5), "layers.0.unit.initial_state[0]"),
        ("layers.0.output.weight", at((3, 1), 90.0), "layers.0.output.weight[3, 1]"),
        ("readout.weight", at((0, 0), -90.0), "readout.weight[0, 0]"),
        ("readout.bias", lambda a: a.astype(np.int32), "readout.bias"),
    ],
)
def test_map_refuses_wrong_weights_by_name_and_index(
    weights: Path, tmp_path: Path, command: Command, name: str, change: Any, named: str
) -> None:
    change_tensor(weights, name, change)
    refused(command("map", weights, "-o", tmp_path / "design"), named)
    assert not (tmp_path / "design").exists()


def test_map_refuses_a_layer_norm(tmp_path: Path, command: Command) -> None:
    config = imported_network().config.model_copy(update={"norm": "layer"})
    save_network(Network(config), tmp_path / "weights")
    refused(command("map", tmp_path / "weights", "-o", tmp_path / "design"), "norm")
    assert not (tmp_path / "design").exists()


def test_map_strict_refuses_what_it_would_otherwise_clip(
    weights: Path, tmp_path: Path, command: Command
) -> None:
    change_tensor(weights, "layers.0.unit.width", at(1, 1e-4))
    refused(command("map", weights, "-o", tmp_path / "strict", "--strict"), "layers.0.unit.width[1]")
    assert not (tmp_path / "strict").exists()
    done = command("map", weights, "-o", tmp_path / "design", "--json")
    assert done.code == 0
    assert [clip["tensor"] for clip in json.loads(done.out)["clipped"]] == ["layers.0.unit.width"]


def test_map_refuses_missing_and_damaged_files(weights: Path, tmp_path: Path, command: Command) -> None:
    refused(command("map", tmp_path / "nowhere", "-o", tmp_path / "design"), "network.yaml")
    whole = (weights / "weights.safetensors").read_bytes()
    for content in (b"", whole[:50], whole[:-3]):
        (weights / "weights.safetensors").write_bytes(content)
        refused(command("map", weights, "-o", tmp_path / "design"), "weights.safetensors")
    (weights / "weights.safetensors").unlink()
    refused(command("map", weights, "-o", tmp_path / "design"), "weights.safetensors")
    (weights / "network.yaml").write_text("a: [")
    refused(command("map", weights, "-o", tmp_path / "design"), "network.yaml", "YAML")
    assert not (tmp_path / "design").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("-t", "sky999"), ("-t", "../generic180"), ("--units", "0"), ("--units", "many"),
        ("--units", "100000"), ("--unit-current", "0"), ("--unit-current", "nan"),
        ("--unit-current", "-1e-9"), ("--frame-period", "0"), ("--frame-period", "inf"),
        ("--boundary", "half"), ("--colour", "red"),
    ],
)  # fmt: skip
def test_map_refuses_wrong_options(
    weights: Path, tmp_path: Path, command: Command, options: tuple[str, ...]
) -> None:
    refused(command("map", weights, "-o", tmp_path / "design", *options))
    assert not (tmp_path / "design").exists()


# --- simulate and the others -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((2, 8, 12)), np.zeros((8, 13)), np.zeros((0, 8, 13)), np.full((1, 2, 13), np.nan),
        np.zeros((1, 2, 13), dtype=complex), np.full((1, 1, 13), "a"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("engine", ["behavioral", "ngspice"])
def test_simulate_refuses_wrong_inputs(
    design: Path, tmp_path: Path, command: Command, x: np.ndarray, engine: str
) -> None:
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "out.npz"
    done = command("simulate", design, "--input", tmp_path / "x.npy", "--engine", engine, "-o", out)
    refused(done, "x.npy", "x:")
    assert not out.exists()


@pytest.mark.parametrize("times", [[0.0, -0.1], [-0.1, 0.0], [0.0, 0.0], [0.0]])
def test_simulate_refuses_wrong_times(
    design: Path, tmp_path: Path, command: Command, times: list[float]
) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 2, 13)), times=times)
    done = command("simulate", design, "--input", tmp_path / "x.npz", "-o", tmp_path / "out.npz")
    refused(done, "x.npz", "times")
    assert not (tmp_path / "out.npz").exists()


def test_simulate_refuses_missing_files_and_wrong_options(
    design: Path, x: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "out.npz"
    for arguments, named in (
        (("simulate", design, "--input", tmp_path / "no.npy", "-o", out), "no.npy"),
        (("simulate", tmp_path / "nowhere", "--input", x, "-o", out), "design.yaml"),
        (("simulate", design, "--input", x, "-o", out, "--engine", "hspice"), "hspice"),
        (("simulate", design, "--input", x, "-o", out, "--chips", "-1"), "--chips"),
        (("simulate", design, "--input", x, "-o", out, "--seed", "-1"), "--seed"),
        (("simulate", design, "--input", x, "-o", out, "--workers", "0"), "--workers"),
        (("simulate", design, "--input", x, "-o", out, "--noise", "--engine", "ngspice"), "--noise"),
        (("simulate", design, "-o", out), "--input"),
        (("simulate", design, "--input", x), "-o"),
        (("power", design, "--engine", "both"), "both"),
        (("launder", design), "launder"),
    ):
        refused(command(*arguments), named)
    assert not out.exists()


def test_robustness_refuses_wrong_tasks_and_labels(
    design: Path, x: Path, tmp_path: Path, command: Command
) -> None:
    labels = tmp_path / "labels.npy"
    np.save(labels, np.zeros(3, dtype=int))
    given = ("--input", x, "--labels", labels)
    refused(command("robustness", design), "--task")
    refused(command("robustness", design, "--input", x), "--labels")
    refused(command("robustness", design, *given), "labels.npy", "2 integers")
    refused(command("robustness", design, "--task", "tea_leaves"), "tea_leaves")
    refused(command("robustness", design, "--task", "japanese_vowels"), "shape")
    np.save(labels, np.zeros(2))
    refused(command("robustness", design, *given), "labels.npy")
    np.save(labels, np.zeros(2, dtype=int))
    refused(command("robustness", design, *given, "--yield-target", "1.5"), "yield_target")
    refused(command("robustness", design, *given, "--chips", "0"), "--chips")
    refused(command("robustness", design, *given, "--sigma-scale", "-1"), "--sigma-scale")
    refused(command("robustness", design, *given, "--sigma-scale", "nan"), "scale")
    np.savez(tmp_path / "labels.npz", a=np.zeros(2, dtype=int))
    refused(command("robustness", design, "--input", x, "--labels", tmp_path / "labels.npz"), "labels.npz")


def test_a_design_that_was_cut_short_is_refused(
    design: Path, x: Path, tmp_path: Path, command: Command
) -> None:
    path = design / "design.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    refused(command("simulate", design, "--input", x, "-o", tmp_path / "out.npz"), "design.safetensors")
    refused(command("power", design), "design.safetensors")


# --- codesign and train ----------------------------------------------------------------------------------

CONFIG: dict[str, Any] = {
    "task": {"name": "copy_first_input", "length": 4, "classes": 2, "train_size": 8, "test_size": 8},
    "network": {"unit": "fq_bmru", "model_size": 4, "hidden_size": 4, "num_layers": 1},
    "training": {"steps": 2, "batch_size": 4},
    "simulation": {"inputs": 1},
    "robustness": {"chips": 2},
}


@pytest.mark.parametrize(
    ("section", "changes", "named"),
    [
        (None, {"colour": "red"}, "colour"), (None, {"technology": "sky999"}, "sky999"),
        (None, {"task": "tea_leaves"}, "task"), (None, {"network": {}}, "network"),
        (None, {"training": None}, "training"), (None, {"trained": "nowhere"}, "nowhere"),
        ("task", {"length": "4"}, "length"), ("task", {"size": 4}, "size"),
        ("network", {"unit": "gru"}, "unit"), ("network", {"input_size": 5}, "input_size"),
        ("network", {"num_classes": 5}, "num_classes"), ("training", {"steps": 0}, "steps"),
        ("training", {"learning_rate": float("nan")}, "learning_rate"),
        ("training", {"quantization": {"units": 8, "steps": 1}}, "units"),
        ("simulation", {"inputs": 9}, "inputs"), ("simulation", {"workers": 0}, "workers"),
        ("robustness", {"chips": 0}, "chips"), ("robustness", {"sigma_scale": -1.0}, "sigma_scale"),
        ("robustness", {"yield_target": 2.0}, "yield_target"),
    ],
)  # fmt: skip
def test_codesign_refuses_a_wrong_configuration(
    tmp_path: Path, command: Command, section: str | None, changes: dict[str, Any], named: str
) -> None:
    content = dict(CONFIG)
    if section is None:
        content |= changes
    else:
        content[section] = content[section] | changes
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    refused(command("codesign", tmp_path / "config.yaml", "-o", tmp_path / "out"), named)
    assert not (tmp_path / "out").exists()


def test_codesign_and_train_refuse_a_missing_configuration(tmp_path: Path, command: Command) -> None:
    for name in ("codesign", "train"):
        refused(command(name, tmp_path / "no.yaml", "-o", tmp_path / "out"), "no.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    refused(command("codesign", tmp_path / "list.yaml", "-o", tmp_path / "out"), "list.yaml")


# --- ngspice ---------------------------------------------------------------------------------------------


def test_a_missing_ngspice_is_said_with_how_to_install_it(
    design: Path, x: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMRU_HW_NGSPICE", "/nonexistent")
    out = tmp_path / "out.npz"
    done = command("simulate", design, "--input", x, "--engine", "ngspice", "-o", out)
    refused(done, "/nonexistent", "apt-get install ngspice")
    assert not out.exists()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    refused(command("codesign", tmp_path / "config.yaml", "-o", tmp_path / "out"), "apt-get install ngspice")
    assert not (tmp_path / "out").exists(), "found out before the training"
    assert command("simulate", design, "--input", x, "-o", out).code == 0, "behavioral needs no ngspice"


@pytest.mark.parametrize(
    ("text", "named"), [("** ngspice-27 : Circuit", "27"), ("hello", "no ngspice version")]
)
def test_an_ngspice_too_old_or_none_at_all_is_refused(
    design: Path,
    x: Path,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    named: str,
) -> None:
    script = tmp_path / "ngspice"
    script.write_text(f"#!/bin/sh\necho '{text}'\n")
    script.chmod(0o755)
    monkeypatch.setenv("CMRU_HW_NGSPICE", str(script))
    done = command("simulate", design, "--input", x, "--engine", "ngspice", "-o", tmp_path / "out.npz")
    refused(done, named, "apt-get install ngspice")


def test_an_ngspice_that_gives_nothing_fails_with_exit_code_one(
    design: Path, x: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "ngspice"
    script.write_text("#!/bin/sh\necho '** ngspice-39 : Circuit level simulation program'\n")
    script.chmod(0o755)
    monkeypatch.setenv("CMRU_HW_NGSPICE", str(script))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = command("simulate", design, "--input", x, "--engine", "ngspice", "-o", tmp_path / "out.npz")
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert "deck.cir" in done.err
    assert not (tmp_path / "out.npz").exists()


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`, from /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("how", "background"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)]
)
def test_an_interrupt_stops_every_simulator(
    design: Path, tmp_path: Path, how: signal.Signals, background: bool
) -> None:
    """A shell that is not interactive has its background processes ignore Ctrl-C, not SIGTERM."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(0, 1, (6, 200, 13)))
    program = Path(sys.executable).with_name("cmru-hw")
    arguments = [
        "simulate",
        design,
        "--input",
        "x.npy",
        "--engine",
        "ngspice",
        "--workers",
        "2",
        "-o",
        "out.npz",
    ]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if background else signal.default_int_handler)
    process = subprocess.Popen(
        [str(program), *map(str, arguments)], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)}, text=True,
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    try:
        deadline = time.monotonic() + 40
        while not (simulators := children(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert simulators, "no ngspice was started"
        time.sleep(0.3)
        simulators = children(process.pid) or simulators
        process.send_signal(how)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert err.splitlines() == [err.strip()]
    assert err.startswith("cmru-hw: error: interrupted")
    assert out == ""
    assert not [pid for pid in simulators if alive(pid)]
    left = sorted(path.name for path in tmp_path.iterdir() if path.name not in ("design", "weights"))
    assert left == ["x.npy"], "temporary folders and half a result"


def test_a_result_that_cannot_be_written_is_one_line(design: Path, x: Path, command: Command) -> None:
    done = command("simulate", design, "--input", x, "-o", "/proc/nowhere/out.npz")
    assert done.code in (1, 2)
    assert len(done.err.splitlines()) == 1


def test_an_earlier_result_survives_a_failed_run(
    design: Path, x: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.npz"
    assert command("simulate", design, "--input", x, "-o", out).code == 0
    before = out.read_bytes()
    shutil.copy(x, tmp_path / "bad.npy")
    np.save(tmp_path / "bad.npy", np.zeros((1, 1, 5)))
    refused(command("simulate", design, "--input", tmp_path / "bad.npy", "-o", out))
    assert out.read_bytes() == before


def test_a_key_given_twice_is_refused(tmp_path: Path, command: Command) -> None:
    save_network(imported_network(), tmp_path / "net")
    path = tmp_path / "net" / "network.yaml"
    path.write_text(path.read_text() + "num_layers: 3\n")
    refused(command("map", tmp_path / "net", "-o", tmp_path / "out"), "network.yaml", "num_layers", "twice")
    assert not (tmp_path / "out").exists()


def test_outputs_that_cannot_be_written_are_refused_before_any_work(tmp_path: Path, command: Command) -> None:
    save_network(imported_network(), tmp_path / "net")
    (tmp_path / "file").write_text("")
    refused(command("map", tmp_path / "net", "-o", tmp_path / "file"), "file")
    assert command("map", tmp_path / "net", "-o", tmp_path / "design").code == 0
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 13)))
    done = command("simulate", tmp_path / "design", "--input", tmp_path / "x.npy", "-o", tmp_path)
    refused(done, str(tmp_path), "folder")


def test_frames_shorter_than_the_ramp_are_refused(tmp_path: Path, command: Command) -> None:
    save_network(imported_network(), tmp_path / "net")
    assert command("map", tmp_path / "net", "-o", tmp_path / "design").code == 0
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 3, 13)), times=np.array([0.0, 5e-4, 1e-3]))
    out = tmp_path / "r.npz"
    done = command("simulate", tmp_path / "design", "--input", tmp_path / "x.npz", "-o", out)
    refused(done, "x.npz", "times", "ramp")
    assert not out.exists()
