"""The README's code runs, its commands exist with the options it names, and files.md lists what there is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from one_thread import one_thread as one_thread
from pydantic import BaseModel
from typer.testing import CliRunner

from cmru_hw.cli import app
from cmru_hw.codesign import (
    CodesignConfig,
    OptimizeConfig,
    RobustnessConfig,
    SimulationConfig,
    UniformConfig,
    read_plan,
)
from cmru_hw.design import Facts
from cmru_hw.mapping import MappingConfig
from cmru_hw.nn.network_config import NetworkConfig
from cmru_hw.technology import Foundry, Technology
from cmru_hw.training.config import (
    EarlyStoppingConfig,
    HardwareNoiseConfig,
    MarginConfig,
    QuantizationConfig,
    TrainingConfig,
)
from cmru_hw.training.tasks import TASKS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"`cmru-hw ([a-z]+)((?: [^`\n]+)?)`")

MODELS: dict[str, type[BaseModel]] = {
    "codesign": CodesignConfig,
    **{f"task.{name}": options for name, options in TASKS.items()},
    "network": NetworkConfig,
    "training": TrainingConfig,
    "training.hardware_noise": HardwareNoiseConfig,
    "training.margin": MarginConfig,
    "training.quantization": QuantizationConfig,
    "training.early_stopping": EarlyStoppingConfig,
    "mapping": MappingConfig,
    "simulation": SimulationConfig,
    "robustness": RobustnessConfig,
    "optimize": OptimizeConfig,
    "optimize.uniform": UniformConfig,
    "facts": Facts,
    "technology card": Technology,
    "technology card.foundry": Foundry,
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def fields_of(name: str) -> dict[str, Any]:
    return {
        key: "required" if field.is_required() else field.get_default(call_default_factory=True)
        for key, field in MODELS[name].model_fields.items()
    }


def table(heading: str) -> dict[str, str]:
    """The first two columns of the table below `### heading` in files.md."""
    section = re.search(rf"^### `{re.escape(heading)}`.*?\n(.*?)(?=^#|\Z)", FILES, re.DOTALL | re.MULTILINE)
    assert section, f"files.md has no section {heading}"
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", section[1], re.MULTILINE))


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[number], f"README.md, block {number}", "exec"), {"__name__": "readme"})


def test_configuration_is_the_demo_s(tmp_path):
    (text,) = blocks("yaml")
    (tmp_path / "config.yaml").write_text(text)
    plan = read_plan(tmp_path / "config.yaml")
    assert plan.network.input_size == 12
    shipped = (ROOT / "models" / "speaker_vowels_fq_bmru" / "config.yaml").read_text()
    assert yaml.safe_load(text) == yaml.safe_load(shipped)


@pytest.mark.parametrize(("command", "rest"), sorted(set(COMMAND.findall(README))))
def test_commands_and_options_exist(command, rest):
    told = CliRunner().invoke(app, [command, "-h"], env={"COLUMNS": "200"})
    assert told.exit_code == 0, f"README names a command {command}"
    listed = set(re.findall(r"^ +(-\w)?(?:, )?(--[\w-]+)?", told.output, re.MULTILINE))
    options = {option for pair in listed for option in pair if option}
    assert set(re.findall(r"(?<!\S)--?[a-z][\w-]*", rest)) <= options


def test_every_command_is_in_the_table():
    listed = re.findall(r"^  ([a-z]+) {2,}", CliRunner().invoke(app, ["-h"]).output, re.MULTILINE)
    assert listed
    for command in listed:
        assert f"| `{command}` |" in README


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", MODELS)
def test_files_lists_every_key_with_its_default(name):
    written = table(name)
    fields = fields_of(name)
    assert list(written) == list(fields)
    for key, default in fields.items():
        if isinstance(default, BaseModel):
            assert written[key] == "its defaults", key
        elif default == "required" or default is None:
            assert written[key] == ("required" if default else "none"), key
        else:
            value = yaml.safe_load(written[key].strip("`"))
            assert value == (list(default) if isinstance(default, tuple) else default), key


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "models" / "README.md"):
        for link in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_calibration_table_is_the_measured_one():
    calibration = json.loads((ROOT / "circuits/technologies/generic180/calibration/latch.json").read_text())
    table = calibration["tables"][0]
    assert (table["celsius"], table["supply"]) == (27.0, 0.8)
    columns = [calibration["ratio"].index(ratio) for ratio in (0.0, 0.2, 0.5, 0.8, 1.0)]
    rows = [
        "| I_thresh | I_width = 0 | 0.2 I_thresh | 0.5 I_thresh | 0.8 I_thresh | 1.0 I_thresh "
        "| output / I_gain, at I_gain = I_thresh |",
        "|---|---|---|---|---|---|---|",
    ]
    for number in range(0, len(calibration["threshold"]), 2):
        up, down = table["up"][number], table["down"][number]
        cells = [f"{1e9 * calibration['threshold'][number]:.3g} nA"]
        cells += [f"{100 * up[k]:.1f} / {100 * down[k]:.1f}" for k in columns]
        rows.append(f"| {' | '.join(cells)} | {table['output'][number]:.3f} |")
    expected = "\n".join(rows)
    page = (ROOT / "docs" / "circuits.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- calibration table -->\n(.*?)\n?<!-- /calibration table -->", page, re.DOTALL)
    assert found
    assert found[1] == expected, f"the table should be:\n{expected}"


def test_the_page_of_measurements_is_made_from_the_results(tmp_path: Path) -> None:
    made = [sys.executable, ROOT / "benchmarks/page.py", ROOT / "benchmarks/results", tmp_path]
    subprocess.run(made, check=True)
    assert (tmp_path / "speed.md").read_text() == (ROOT / "docs/speed.md").read_text()
    assert (tmp_path / "images" / "speed.svg").stat().st_size > 5000


def test_the_page_of_studies_is_made_from_their_records(tmp_path: Path) -> None:
    made = [
        sys.executable,
        ROOT / "benchmarks/studies_page.py",
        ROOT / "benchmarks/results/studies",
        tmp_path,
    ]
    subprocess.run(made, check=True)
    assert (tmp_path / "studies.md").read_text() == (ROOT / "docs/studies.md").read_text()
    for figure in (tmp_path / "images").iterdir():
        assert (ROOT / "docs" / "images" / figure.name).exists()
