"""The wheel holds all that the program reads, and works from a folder that has nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from cli.test_codesign import CONFIG
from typer.main import get_command

from cmru_hw.cli import app

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def tracked(*folders: str) -> set[str]:
    told = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(told.stdout.splitlines())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the files that git knows, as `pip wheel .` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT]
    subprocess.run(command, check=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """Its content, unpacked."""
    ZipFile(wheel).extractall(wheel.parent / "site")
    return wheel.parent / "site"


def run(installed: Path, folder: Path, *arguments: object) -> str:
    """What the installed command says in an empty folder; the checkout is not on the path."""
    done = subprocess.run(
        [sys.executable, "-c", "from cmru_hw.cli import main; main()", *map(str, arguments)],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(installed)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_of_the_package_its_circuits_and_models_is_in_it(wheel: Path) -> None:
    held = set(ZipFile(wheel).namelist())
    assert tracked("cmru_hw") <= held
    assert {f"cmru_hw/{name}" for name in tracked("circuits", "models")} <= held


def test_it_is_what_runs(installed: Path, tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import cmru_hw; print(cmru_hw.__file__)"], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(told.stdout.strip()).is_relative_to(installed)


@pytest.mark.parametrize("name", get_command(app).commands)  # type: ignore[attr-defined]
def test_every_command_says_what_it_does(installed: Path, tmp_path: Path, name: str) -> None:
    assert f"cmru-hw {name}" in run(installed, tmp_path, name, "--help")


def test_from_a_task_to_a_report_and_a_netlist(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    told = json.loads(run(installed, tmp_path, "codesign", "config.yaml", "-o", "out", "--json"))
    assert told["agreement"]["inputs"] == 2
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    assert "network.scs" in run(
        installed, tmp_path, "export", "out/design", "--dialect", "spectre", "-o", "netlist", "--json"
    )


def test_the_shipped_models_map(installed: Path, tmp_path: Path) -> None:
    folders = [path.parent for path in (installed / "cmru_hw" / "models").glob("*/weights.safetensors")]
    assert len(folders) >= 6
    for folder in folders:
        run(installed, tmp_path, "map", folder, "-o", folder.name)
        assert (tmp_path / folder.name / "design.yaml").exists()
