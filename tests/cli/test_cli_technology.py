"""`cmru-hw technology`, and technologies in a folder of the user's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from cli_files import Command, imported_network

from cmru_hw.config import packaged
from cmru_hw.nn.network import save_network


@pytest.fixture
def uninstalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for models with nothing in it."""
    monkeypatch.setenv("CMRU_HW_TECHNOLOGIES", str(tmp_path / "none"))
    return tmp_path / "none"


def test_it_lists_the_cards_and_what_they_lack(uninstalled: Path, command: Command) -> None:
    done = command("technology", "--json")
    assert done.code == 0, done.err
    found = {one["technology"]: one for one in json.loads(done.out)["technologies"]}
    assert found["generic180"]["installed"]
    assert found["sky130"]["corners"] == ["tt", "ff", "ss", "fs", "sf"]
    assert not found["sky130"]["installed"]
    assert found["sky130"]["models"] == str(uninstalled / "sky130")
    assert "`cmru-hw technology install sky130` gets it" in found["sky130"]["missing"]
    assert command("technology", "list").out.count("sky130") >= 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["install", "sky130", "--from", "nowhere"], "error: nowhere: has no models_fet.spice"),
        (["install", "generic180"], "error: generic180: its models come with the card"),
        (["install", "sky131"], "no card called 'sky131'; known: generic180, sky130"),
    ],
)
def test_what_cannot_be_installed_is_wrong_input(
    arguments: list[str], complaint: str, uninstalled: Path, command: Command
) -> None:
    done = command("technology", *arguments)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert complaint in done.err
    assert not uninstalled.exists()


def test_a_design_without_its_models_is_refused_by_ngspice_alone(
    uninstalled: Path, tmp_path: Path, command: Command
) -> None:
    save_network(imported_network(size=3), tmp_path / "net")
    assert command("map", tmp_path / "net", "-t", "sky130", "-o", tmp_path / "design").code == 0
    np.save(tmp_path / "x.npy", np.zeros((1, 2, 3)))
    simulate = ("simulate", tmp_path / "design", "--input", tmp_path / "x.npy", "-o", tmp_path / "r.npz")
    assert command(*simulate).code == 0
    done = command(*simulate, "--engine", "ngspice")
    assert done.code == 2
    assert "`cmru-hw technology install sky130` gets it" in done.err


def test_a_card_in_a_folder_of_one_s_own(tmp_path: Path, command: Command) -> None:
    folder = shutil.copytree(packaged("circuits", "technologies", "generic180"), tmp_path / "mine")
    card = yaml.safe_load((folder / "card.yaml").read_text())
    (folder / "card.yaml").write_text(yaml.safe_dump(card | {"name": "mine", "supply": 0.7}))
    save_network(imported_network(size=3), tmp_path / "net")
    done = command("map", tmp_path / "net", "-t", folder, "-o", tmp_path / "design")
    assert done.code == 0, done.err
    facts = yaml.safe_load((tmp_path / "design" / "design.yaml").read_text())["facts"]
    assert (facts["technology"], facts["supply"]) == (str(folder), 0.7)
    (folder / "card.yaml").write_text(yaml.safe_dump(card | {"name": "No name"}))
    done = command("map", tmp_path / "net", "-t", folder, "-o", tmp_path / "other")
    assert done.code == 2
    assert "card.yaml: name: String should match pattern" in done.err
