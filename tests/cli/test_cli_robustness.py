"""`robustness`: every analysis through the command, kept, resumed, the same on any number of processes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_files import Command

ANALYSES = ["mismatch", "sensitivity", "scale", "corners", "noise", "retention", "stuck", "rare"]


@pytest.fixture
def given(design: Path, x: Path, tmp_path: Path, command: Command) -> tuple[object, ...]:
    """A design and inputs labelled with what it decides."""
    command("simulate", design, "--input", x, "-o", tmp_path / "nominal.npz")
    with np.load(tmp_path / "nominal.npz") as content:
        np.save(tmp_path / "labels.npy", content["decision"])
    return ("robustness", design, "--input", x, "--labels", tmp_path / "labels.npy")


@pytest.mark.slow
def test_every_analysis_goes_to_json_figures_and_a_page(
    given: tuple[object, ...], tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "out"
    done = command(*given, "--analysis", "all", "--chips", 4, "--yield-target", 0.6, "-o", out, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report == json.loads((out / "robustness.json").read_text())
    assert list(report["analyses"]) == ANALYSES
    assert sorted(path.stem for path in (out / "figures").iterdir()) == sorted(ANALYSES)
    page = (out / "report.html").read_text()
    for name in ANALYSES:
        assert f'<section id="{name}">' in page
    assert "Verified in ngspice" in page.split('id="left-out"')[1].split("</p>")[0]
    assert "http://" not in page
    files = {path: path.stat().st_mtime_ns for path in (out / "store").iterdir()}
    again = command(*given, "--analysis", "all", "--chips", 4, "--yield-target", 0.6, "-o", out, "--json")
    assert again.out == done.out
    alone = ("--analysis", "all", "--chips", 4, "--yield-target", 0.6, "--workers", 1, "--json")
    assert command(*given, *alone).out == done.out
    assert {path: path.stat().st_mtime_ns for path in (out / "store").iterdir()} == files


def test_some_analyses_go_to_json_figures_and_a_page(
    given: tuple[object, ...], tmp_path: Path, command: Command
) -> None:
    out, some = tmp_path / "out", ("--analysis", "mismatch", "--analysis", "retention", "--chips", 4)
    some = (*some, "--workers", 1)
    done = command(*given, *some, "-o", out, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report == json.loads((out / "robustness.json").read_text())
    assert sorted(path.stem for path in (out / "figures").iterdir()) == ["mismatch", "retention"]
    page = (out / "report.html").read_text()
    assert "Stuck cells" in page.split('id="left-out"')[1].split("</p>")[0]
    files = {path: path.stat().st_mtime_ns for path in (out / "store").iterdir()}
    told = command(*given, *some, "-o", out)
    assert "accuracy without mismatch" in told.out
    assert "report.html" in told.out
    assert {path: path.stat().st_mtime_ns for path in (out / "store").iterdir()} == files
    assert json.loads((out / "robustness.json").read_text()) == report


def test_the_same_bytes_with_one_and_two_workers(given: tuple[object, ...], command: Command) -> None:
    some = ("--analysis", "mismatch", "--analysis", "scale", "--analysis", "stuck", "--chips", 60, "--json")
    shown = [command(*given, *some, "--workers", workers).out for workers in (1, 2)]
    alone = json.loads(command(*given, "--analysis", "stuck", "--json", "--workers", 1).out)
    assert alone["analyses"] == {"stuck": json.loads(shown[0])["analyses"]["stuck"]}
    assert shown[0] == shown[1]


def test_mismatch_alone_has_the_keys_of_codesign(given: tuple[object, ...], command: Command) -> None:
    found = json.loads(command(*given, "--chips", 3, "--json").out)
    assert set(found) == {
        "chips", "seed", "sigma_scale", "mean_accuracy", "std_accuracy", "p05_accuracy", "yield",
        "yield_target", "yield_ci95",
    }  # fmt: skip


def test_a_dry_run_only_estimates(given: tuple[object, ...], tmp_path: Path, command: Command) -> None:
    out = tmp_path / "dry"
    some = ("--analysis", "mismatch", "--analysis", "stuck", "--chips", 120, "-o", out, "--workers", 1)
    found = json.loads(command(*given, *some, "--dry-run", "--json").out)
    assert list(found) == ["mismatch", "stuck"]
    assert (found["mismatch"]["jobs"], found["mismatch"]["kept"]) == (4, 0)
    assert found["mismatch"]["seconds"] > 0
    assert not (out / "robustness.json").exists()
    command(*given, *some)
    assert json.loads(command(*given, *some, "--dry-run", "--json").out)["mismatch"]["kept"] == 4
    assert "4 jobs, 4 kept" in command(*given, *some, "--dry-run").out


def test_wrong_values_are_refused_and_finished_results_kept(
    given: tuple[object, ...], tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "out"
    assert command(*given, "--chips", 3, "-o", out).code == 0
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    for wrong, complaint in (
        (("--sigma-scale", -1), "--sigma-scale"),
        (("--sigma-scale", "nan"), "--sigma-scale"),
        (("--yield-target", 1.5), "yield_target must be within 0 and 1"),
        (("--yield-target", 0, "--analysis", "rare"), "no chip can miss"),
        (("--sigma-scale", 2), "holds results of sigma_scale = 1.0, now 2.0"),
        (("--analysis", "tea"), "none called 'tea'; there are mismatch"),
        (("--verify", 1, "--analysis", "stuck"), "--verify: chooses among the chips"),
        (("--workers", 1, "--scheduler", "tcp://nowhere:1"), "a scheduler has workers of its own"),
    ):
        done = command(*given, "--chips", 3, "-o", out, *wrong)
        assert done.code == 2, wrong
        assert complaint in done.err
        assert len(done.err.strip().splitlines()) == 1 or "--sigma-scale" in complaint
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    assert "needs -o" in command(*given, "--verify", 1).err


def test_the_most_telling_chip_runs_in_ngspice(
    given: tuple[object, ...], tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "out"
    done = command(*given, "--chips", 3, "--verify", 1, "--verify-inputs", 1, "-o", out, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["analyses"]["verify"]
    assert found["inputs"] == 1
    assert found["suspects"][0]["suspect"].startswith("chip ")
    assert len(list((out / "verify").glob("input_*"))) == 1
    assert (out / "figures" / "verify.svg").exists()
