"""The exported folder: runs by itself in ngspice, says the same circuit in every dialect, refuses by name."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hardware_networks import random_input, random_network
from PySpice.Spice.Parser import SpiceParser

from cmru_hw.codesign import read_plan
from cmru_hw.config import packaged
from cmru_hw.design import Design, load_design
from cmru_hw.errors import ConfigError
from cmru_hw.export import export
from cmru_hw.mapping import MappingConfig, map_folder, map_network
from cmru_hw.nn.network import load_network
from cmru_hw.spice.ngspice import find_ngspice
from cmru_hw.stimulus import Stimulus, make_stimulus
from cmru_hw.technology import load_technology

GOLDEN = Path(__file__).parent / "golden"
LANGUAGES = ("ngspice", "spectre", "xyce", "ltspice")
SUFFIX = {"spectre": "scs"}
Folders = dict[str, Path]


def small(unit: str = "fq_bmru", **options: str | int) -> tuple[Design, Stimulus]:
    """One layer of two cells and two inputs of four frames."""
    network = random_network(1, unit=unit, num_layers=1, model_size=2, hidden_size=2, num_classes=3)
    design = map_network(network, load_technology("generic180"), MappingConfig(**options))[0]
    return design, make_stimulus(3 * random_input(2, 2, 4), 3, design.facts.frame_period)


def exported(tmp_path_factory: pytest.TempPathFactory, *arguments: str, **options: str | int) -> Folders:
    made = {name: tmp_path_factory.mktemp(name) for name in LANGUAGES}
    for name, folder in made.items():
        export(*small(*arguments, **options), folder, name)
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return exported(tmp_path_factory)


@pytest.fixture(scope="module", params=["9t", "latch_bank", "integrator"])
def all_folders(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Folders:
    """Of every kind of memory."""
    if request.param == "9t":
        return exported(tmp_path_factory)
    return exported(tmp_path_factory, "cmru", levels=2, accumulator=request.param)


def run_alone(folder: Path, elsewhere: Path) -> str:
    """Copy a folder, run every testbench with `ngspice -b`, and say what check.py prints."""
    shutil.copytree(folder, elsewhere)
    for bench in sorted(elsewhere.glob("testbench_*.cir")):
        with (elsewhere / f"{bench.name}.log").open("w") as log:
            command = [find_ngspice()[0], "-b", bench.name]
            subprocess.run(
                command, cwd=elsewhere, stdout=log, stderr=subprocess.PIPE, check=True, timeout=300
            )
    done = subprocess.run(
        [sys.executable, "check.py"], cwd=elsewhere, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def parts(text: str) -> list[tuple[str, list[str]]]:
    """Elements of a netlist as (name, nets and model), in order; read without the package."""
    joined = re.sub(r"\n\+", " ", text)
    found = []
    for line in joined.splitlines():
        if re.match(r"[XVIMC]\w* ", line):
            words = [w for w in line.replace("(", " ").replace(")", " ").split() if "=" not in w]
            found.append((words[0], [w for w in words[1:] if w not in ("PARAMS:", "isource")]))
    return found


@pytest.mark.parametrize("language", ["ngspice", "ltspice"])
def test_a_copied_folder_gives_the_listed_decisions_in_ngspice(
    folders: Folders, tmp_path: Path, language: str
) -> None:
    """ngspice reads LTspice's words too, though it is not LTspice."""
    said = run_alone(folders[language], tmp_path / "alone")
    listed = json.loads((folders[language] / "expected.json").read_text())["testbenches"]
    expected = [f"{one['file']}: decision {one['decision']}, expected {one['decision']}" for one in listed]
    assert said.splitlines() == expected
    assert len(expected) == 2


def test_a_wrong_decision_is_told(folders: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "wrong"
    run_alone(folders["ngspice"], folder)
    content = json.loads((folder / "expected.json").read_text())
    content["testbenches"][0]["decision"] += 1
    (folder / "expected.json").write_text(json.dumps(content))
    assert subprocess.run([sys.executable, "check.py"], cwd=folder, check=False, timeout=60).returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"accumulator": "integrator"}])
def test_a_clocked_design_gives_the_listed_decisions(tmp_path: Path, options: dict[str, str]) -> None:
    export(*small("cmru", levels=2, **options), tmp_path / "made")
    assert run_alone(tmp_path / "made", tmp_path / "alone").count("expected") == 2


@pytest.mark.slow
def test_the_cmru_demo_gives_the_listed_decisions(tmp_path: Path) -> None:
    """Two inputs of different classes, each of 20 frames that all have to be remembered."""
    folder = packaged("models", "copy_first_cmru")
    plan = read_plan(folder / "config.yaml")
    design = map_folder(folder, load_network(folder), plan.technology, plan.config.mapping)[0]
    split = plan.task.test.take(np.array([0, 89]))
    assert split.y[0] != split.y[1]
    stimulus = make_stimulus(split.x, design.facts.input_size, design.facts.frame_period, split.lengths)
    export(design, stimulus, tmp_path / "made")
    told = json.loads((tmp_path / "made" / "expected.json").read_text())["testbenches"]
    assert [one["decision"] for one in told] == split.y.tolist()
    assert run_alone(tmp_path / "made", tmp_path / "alone").count("expected") == 2


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_every_dialect_says_the_same_circuit(all_folders: Folders, language: str) -> None:
    text = {
        name: (all_folders[name] / f"network.{SUFFIX.get(name, 'cir')}").read_text()
        for name in ("ngspice", language)
    }
    constant = [(name, nets[:2] if name[0] == "I" else nets) for name, nets in parts(text["ngspice"])]
    assert [(name, nets[:2] if name[0] == "I" else nets) for name, nets in parts(text[language])] == constant
    counts = {name: sorted(re.findall(r"\b(?:M|units)=(\d+)", text[name])) for name in text}
    assert counts[language] == counts["ngspice"]


@pytest.mark.parametrize("language", ["ngspice", "ltspice"])
def test_pyspice_reads_the_circuit(all_folders: Folders, language: str) -> None:
    """Its parser is not ours."""
    folder = all_folders[language]
    with (folder / "sizes.csv").open() as file:
        stages = {row["instance"] for row in csv.DictReader(file)}
    text = (folder / "network.cir").read_text()
    cells = {cell.name for cell in SpiceParser(source=f"{text}\n.end\n").subcircuits}
    assert stages | {"network", "block_layer0"} <= cells


@pytest.mark.parametrize("language", LANGUAGES)
def test_golden_files(folders: Folders, language: str) -> None:
    """The cell of a latch, as each dialect writes it. Copied from an export that was read."""
    suffix = SUFFIX.get(language, "cir")
    text = (folders[language] / f"network.{suffix}").read_text()
    (cell,) = re.findall(r"^\.?subckt layer0_latch.*?ends layer0_latch$", text, re.MULTILINE | re.DOTALL)
    golden = GOLDEN / f"latch.{language}.txt"
    assert cell + "\n" == golden.read_text(encoding="utf-8")


def test_the_files_are_the_same_each_time(folders: Folders, tmp_path: Path) -> None:
    for name in export(*small(), tmp_path):
        assert (tmp_path / name).read_text() == (folders["ngspice"] / name).read_text()


def test_tables_hold_every_transistor_and_reference(folders: Folders) -> None:
    design = small()[0]
    with (folders["ngspice"] / "sizes.csv").open() as file:
        sizes = list(csv.DictReader(file))
    assert sum(int(row["units"]) for row in sizes) == design.transistors
    area = sum(int(row["units"]) * float(row["w_um"]) * float(row["l_um"]) for row in sizes) * 1e-12
    assert area == pytest.approx(design.area)
    weights = [row for row in design.to_table() if row["trained"] is not None]
    # The network's weights are whole sixteenths, so mapping keeps them.
    assert [row["mapped"] for row in weights] == pytest.approx([row["trained"] for row in weights])
    with (folders["ngspice"] / "bias_currents.csv").open() as file:
        total = sum(float(row["current_a"]) for row in csv.DictReader(file))
    assert total == pytest.approx(sum(stage.bias_current for stage in design.stages))
    given = [row["current_a"] for row in design.to_table() if "reference" in str(row["device"])]
    assert np.sum(given) == pytest.approx(total)


def test_what_was_not_run_is_said(folders: Folders) -> None:
    assert "Not run" not in (folders["ngspice"] / "README.md").read_text()
    for language in LANGUAGES[1:]:
        assert f"Not run: no {language}" in (folders[language] / "README.md").read_text()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_readme_lists_every_file(all_folders: Folders, language: str) -> None:
    folder = all_folders[language]
    listed = re.findall(r"^\| `(.+?)` \|", (folder / "README.md").read_text(), re.MULTILINE)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(listed) == there - {"README.md"}
    assert "network.svg" in listed


def test_own_models_are_included_instead(tmp_path: Path) -> None:
    export(*small(), tmp_path, "spectre", "../pdk/fets.scs")
    hook = (tmp_path / "models.scs").read_text()
    assert 'include "../pdk/fets.scs"' in hook
    assert "subckt nfet (" not in hook


@pytest.mark.parametrize(
    ("language", "models", "said"),
    [("hspice", None, "dialect: must be one of ngspice, spectre, xyce, ltspice, got 'hspice'"),
     ("ngspice", "a b\n.control", "models: .* is not safe in a netlist")],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, language: str, models: str | None, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        export(*small(), tmp_path, language, models)
    assert not list(tmp_path.iterdir())


def test_models_that_run_commands_are_refused(technologies: Path, tmp_path: Path) -> None:
    design, stimulus = small()
    design.save(tmp_path / "design")
    with (technologies / "generic180" / "models.lib").open("a") as file:
        file.write(".control\nshell touch here\n.endc\n")
    with pytest.raises(ConfigError, match=r"generic180: models\.lib, line \d+: runs a command .*\.control"):
        export(load_design(tmp_path / "design"), stimulus, tmp_path / "made")
    assert not (tmp_path / "made").exists()
