"""Jobs on processes: every result once, kept, and the same whoever dies in between."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from farm.farm_jobs import Context, runs, scaled

from cmru_hw.errors import ConfigError, SimulationError, WorkError
from cmru_hw.farm import Farm, Store, chunks, estimate, run_jobs

JOBS = {f"job_{k}": k for k in range(7)}
IDENTITY = {"factor": 2.0}


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs(marks: Path, workers: int) -> None:
    seen: list[int] = []
    found = run_jobs(scaled, Context(2.0, marks), JOBS, Farm(workers), progress=seen.append)
    assert list(found) == list(JOBS)
    for key, job in JOBS.items():
        assert found[key]["scaled"].tolist() == [2.0 * k for k in range(job + 1)]
    assert seen == list(range(8))


def test_jobs_in_the_store_are_not_run_again(marks: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store", IDENTITY)
    first = run_jobs(scaled, Context(2.0, marks), dict(list(JOBS.items())[:3]), Farm(1), store)
    again = run_jobs(scaled, Context(2.0, marks), JOBS, Farm(1), Store(tmp_path / "store", IDENTITY))
    assert [runs(marks, job) for job in JOBS.values()] == [1] * 7
    for key, kept in first.items():
        assert np.array_equal(again[key]["scaled"], kept["scaled"])


def test_a_killed_workers_jobs_are_done_again(marks: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store", IDENTITY)
    found = run_jobs(scaled, Context(2.0, marks, deadly=(2, 5)), JOBS, Farm(2), store)
    assert [len(result["scaled"]) for result in found.values()] == list(range(1, 8))
    assert runs(marks, 2) >= 2
    calm = Store(tmp_path / "calm", IDENTITY)
    run_jobs(scaled, Context(2.0, marks), JOBS, Farm(1), calm)
    assert contents(store.folder) == contents(calm.folder)


def test_workers_that_go_on_dying_are_an_error_and_finished_jobs_are_kept(
    marks: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store", IDENTITY)
    context = Context(2.0, marks, deadly=(6,), deaths=100)
    with pytest.raises(WorkError, match=r"died 3 times .* of 7 jobs are left"):
        run_jobs(scaled, context, JOBS, Farm(2), store)
    assert store.get("job_6") is None
    kept = sum(store.get(key) is not None for key in JOBS)
    assert kept >= 4
    run_jobs(scaled, Context(2.0, marks), JOBS, Farm(1), store)
    assert all(store.get(key) is not None for key in JOBS)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_fails_says_so_and_finished_ones_are_kept(
    marks: Path, tmp_path: Path, workers: int
) -> None:
    store = Store(tmp_path / "store", IDENTITY)
    with pytest.raises(SimulationError, match="job 6 does not converge"):
        run_jobs(scaled, Context(2.0, marks, failing=(6,)), JOBS, Farm(workers), store)
    assert [key for key in JOBS if store.get(key) is None] == ["job_6"]


def test_a_store_of_something_else_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "store", IDENTITY).put("one", {"scaled": np.ones(1)})
    with pytest.raises(ConfigError, match=r"store: holds results of factor = 2.0, now 3.0"):
        Store(tmp_path / "store", {"factor": 3.0})
    with pytest.raises(ConfigError, match=r"store: holds results of seed = None, now 1"):
        Store(tmp_path / "store", {**IDENTITY, "seed": 1})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="other: holds other files"):
        Store(tmp_path / "other", IDENTITY)
    (tmp_path / "store" / "identity.json").write_text('{"factor": ')
    with pytest.raises(
        ConfigError, match=r"identity.json: not the identity of a store: .*; delete the folder"
    ):
        Store(tmp_path / "store", IDENTITY)


def test_a_result_that_is_not_whole_is_refused(marks: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store", IDENTITY)
    run_jobs(scaled, Context(2.0, marks), JOBS, Farm(1), store)
    path = tmp_path / "store" / "job_3.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ConfigError, match=r"job_3\.safetensors: not a finished result"):
        run_jobs(scaled, Context(2.0, marks), JOBS, Farm(1), store)


def test_a_disk_that_takes_no_more_is_an_error_and_finished_jobs_are_kept(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the operating system refuses to write on."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from farm.farm_jobs import Context, scaled
from cmru_hw.errors import WorkError
from cmru_hw.farm import Farm, Store, run_jobs
folder = Path({str(tmp_path)!r})
(folder / "marks").mkdir()
store = Store(folder / "store", {{}})
resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
try:
    run_jobs(scaled, Context(2.0, folder / "marks"), {{"small": 3, "large": 300}}, Farm(1), store)
except WorkError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "large.safetensors: cannot be written: File too large; finished results are kept" in done.stdout
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [
        "identity.json", "small.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["", "../up", "a b", ".hidden", "x/y"])
def test_a_key_that_is_no_plain_name_is_refused(marks: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="not a plain name"):
        run_jobs(scaled, Context(1.0, marks), {key: 1}, Farm(1))


def test_a_farm_without_workers_is_refused() -> None:
    with pytest.raises(ConfigError, match="workers must be 1 or more, got 0"):
        Farm(0)
    with pytest.raises(ConfigError, match="one or the other"):
        Farm(2, "tcp://127.0.0.1:1")


def test_chunks_cover_the_numbers_once() -> None:
    parts = chunks(range(3, 128), 50, "chips")
    assert [list(part) for part in parts.values()] == [
        list(range(3, 53)), list(range(53, 103)), list(range(103, 128)),
    ]  # fmt: skip
    assert next(iter(parts)) == "chips_00000003_00000052"


def test_an_estimate_counts_what_is_left(marks: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store", IDENTITY)
    run_jobs(scaled, Context(2.0, marks), dict(list(JOBS.items())[:3]), Farm(1), store)
    found = estimate(scaled, Context(2.0, marks), JOBS, Farm(2), store)
    assert (found.jobs, found.kept, found.workers) == (7, 3, 2)
    assert found.seconds == pytest.approx(4 * found.seconds_a_job / 2)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 0.5 * own < found.bytes_a_worker <= own


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
