"""`cmru-hw export`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli_files import Command

from cmru_hw.design import load_design


def test_it_writes_the_folder(design: Path, x: Path, tmp_path: Path, command: Command) -> None:
    done = command("export", design, "--input", x, "--dialect", "xyce", "-o", tmp_path / "made", "--json")
    assert done.code == 0, done.err
    for name in json.loads(done.out)["files"]:
        assert (tmp_path / "made" / name).stat().st_size > 0


def test_without_input_the_circuit_is_at_rest(design: Path, tmp_path: Path, command: Command) -> None:
    assert command("export", design, "-o", tmp_path / "made").code == 0
    (bench,) = json.loads((tmp_path / "made" / "expected.json").read_text())["testbenches"]
    assert bench["frames"] == 10


def test_an_unknown_dialect_is_refused_by_name(design: Path, tmp_path: Path, command: Command) -> None:
    done = command("export", design, "--dialect", "hspice", "-o", tmp_path / "made")
    assert done.code == 2
    assert done.err.splitlines() == [
        "cmru-hw: error: dialect: must be one of ngspice, spectre, xyce, ltspice, got 'hspice'"
    ]
    assert not (tmp_path / "made").exists()


def test_an_unsafe_model_file_is_refused(design: Path, tmp_path: Path, command: Command) -> None:
    done = command("export", design, "--models", "a\n.control", "-o", tmp_path / "made")
    assert done.code == 2
    assert "is not safe in a netlist" in done.err


def test_the_diagram_names_every_stage_and_is_the_same_each_time(
    design: Path, tmp_path: Path, command: Command
) -> None:
    pictures = []
    for name in ("a", "b"):
        assert command("export", design, "-o", tmp_path / name).code == 0
        pictures.append((tmp_path / name / "network.svg").read_text())
    assert pictures[0] == pictures[1]
    stages = [stage.name for stage in load_design(design).stages]
    assert all(f"<!-- {name} -->" in pictures[0] for name in stages)


def test_without_schemdraw_it_says_what_is_left_out(
    design: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmru_hw.report.schematics.find_spec", lambda name: None)
    done = command("export", design, "-o", tmp_path / "made")
    assert done.code == 0
    said = "schematics, as schemdraw is not installed: pip install 'cmru-hw[drawings]'"
    assert done.err.splitlines() == [f"cmru-hw: left out: {said}"]
    assert f"Left out: {said}" in (tmp_path / "made" / "README.md").read_text()
    assert not (tmp_path / "made" / "schematics").exists()


def test_the_cells_in_use_are_drawn_with_their_sizes(design: Path, tmp_path: Path, command: Command) -> None:
    """Every transistor of the latch's file, and the sizes of the card."""
    pytest.importorskip("schemdraw")
    assert command("export", design, "-o", tmp_path / "made").code == 0
    folder = tmp_path / "made" / "schematics"
    assert sorted(path.name for path in folder.iterdir()) == ["latch.svg", "mirror.svg"]
    words = re.findall(r">([^<>\n]+)</", (folder / "latch.svg").read_text())
    assert {f"M{k}" for k in range(1, 10)} <= set(words)
    assert words.count("0.5/5") == 2  # the switches M3 and M6
    assert words.count("2 x 1/5") == 6
    assert words.count("D x 1/5") == 1
