"""kill -9 of the main process, and the same command again."""

from __future__ import annotations

from pathlib import Path

from farm.interrupted import CHIPS, CHIPS_A_JOB, trials

from cmru_hw.analysis.robustness import lot


def test_a_killed_monte_carlo_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    assert CHIPS_A_JOB == lot.CHIPS_A_JOB
    found = trials(tmp_path, 5, seed=0)
    assert all(one.same for one in found)
    assert any(0 < one.kept < CHIPS // CHIPS_A_JOB for one in found), "none was killed in the middle"
