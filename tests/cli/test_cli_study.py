"""`cmru-hw study`: a study by name, kept and gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cli_files import Command

from cmru_hw.studies import catalogue
from cmru_hw.studies.retention import Retention

TINY: Mapping[str, Any] = {
    "recipes": ("lru", "k4"), "seeds": 1, "steps": 20, "hold": 0, "anneal": 0, "size": 3, "length": 50,
    "classes": 2, "train_size": 64, "lengths": (50, 100), "sequences": 8, "noisy_length": 50,
    "input_noises": (0.1,), "state_noises": (0.1,), "noisy_seeds": 1,
}  # fmt: skip


class Tiny(Retention):
    @classmethod
    def quick(cls) -> Tiny:
        return cls(**TINY)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalogue.STUDIES, "retention", Tiny)


def test_quick_form(command: Command, tmp_path: Path) -> None:
    arguments = ("study", "retention", "--quick", "-o", tmp_path / "out", "--workers", 1)
    first = command(*arguments, "--json")
    record = json.loads(first.out)
    assert record["study"] == "retention"
    assert list(record["recipes"]) == ["lru", "k4"]
    assert json.loads((tmp_path / "out" / "study.json").read_text()) == record
    again = command(*arguments)
    assert "CMRU, K = 4" in again.out
    assert f"record and figures: {tmp_path / 'out'}" in again.out.replace("\n", "")


def test_dry_run_counts_trials(command: Command, tmp_path: Path) -> None:
    told = command("study", "retention", "--quick", "--dry-run", "-o", tmp_path / "out", "--json")
    amount = json.loads(told.out)
    assert (amount["trials"], amount["kept"]) == (2, 0)
    assert amount["seconds"] >= 0
    assert 5e7 < amount["bytes_a_worker"] < 5e9
    assert not (tmp_path / "out").exists()


def test_unknown_study(command: Command, tmp_path: Path) -> None:
    failed = command("study", "speed", "-o", tmp_path)
    assert failed.code == 2
    assert "none called 'speed'; there are stability, benchmarks, retention" in failed.err
