"""The runner against the real ngspice, and against scripts that misbehave the way ngspice does."""

from __future__ import annotations

import logging
import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmru_hw.errors import ConfigError, SimulationError, SimulatorNotFound
from cmru_hw.primitives.clock import BankClock
from cmru_hw.spice import ngspice
from cmru_hw.spice.job import CORNER, FAST, LADDER, LATCH, DcSweep, Job, Noise, OperatingPoint, Transient
from cmru_hw.spice.ngspice import NgspiceError, find_ngspice, imap, run, run_many
from cmru_hw.spice.rawfile import RawData
from cmru_hw.spice.simulate import LONGEST_STEP

RC = "V1 in 0 pulse(0 1 0 1n 1n 1 2)\nR1 in out 1k\nC1 out 0 1u"
STEP = Job("rc step", RC, Transient(stop=5e-3, max_step=10e-6), save=("v(out)", "i(V1)"))
DIVIDER = "V1 a 0 1\nR1 a b 1k\nR2 b 0 3k"
SLOW = Job("slow", RC, Transient(stop=1.0, max_step=1e-8), save=("v(out)",), time_limit=60)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Make a shell script stand in for ngspice; `$REAL` in it is the real one."""

    def install(body: str, version: str = "ngspice-39") -> None:
        monkeypatch.delenv("CMRU_HW_NGSPICE", raising=False)
        real = find_ngspice()[0]
        script = tmp_path / "fake-ngspice"
        head = f'#!/bin/sh\nif [ "$1" = -v ]; then echo "** {version} : Circuit level"; exit 0; fi\n'
        script.write_text(f"{head}REAL={real}\n{body}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CMRU_HW_NGSPICE", str(script))

    return install


def lives(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except OSError:
        return False


# --- right results ---------------------------------------------------------------------------------------


def test_rc_step_follows_the_exponential():
    data = run(STEP)
    expected = 1 - np.exp(-data.time / 1e-3)
    assert np.abs(data["v(out)"] - expected).max() < 2e-3
    assert data["I(V1)"] is data["i(v1)"]
    assert data.rung == 0
    assert 0 < data.wall_s < 30
    at = [1e-3, 2e-3]
    assert data.sample(at)["v(out)"] == pytest.approx(1 - np.exp(-np.array([1, 2])), abs=2e-3)
    assert set(data.sample(at, ["v(out)"])) == {"v(out)"}


def test_dc_sweep_up_and_down():
    up = run(Job("up", DIVIDER, DcSweep("v1", 0, 1, 0.25), save=("v(b)",)))
    down = run(Job("down", DIVIDER, DcSweep("v1", 1, 0, -0.25), save=("v(b)",)))
    assert up.abscissa == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert up["v(b)"] == pytest.approx(0.75 * up.abscissa)
    assert down["v(b)"] == pytest.approx(up["v(b)"][::-1])
    assert down.sample([0.1])["v(b)"] == pytest.approx([0.075])


def test_dc_sweep_of_a_current_in_picoamperes():
    data = run(Job("pA", "I1 0 a 0\nR1 a 0 1k", DcSweep("i1", 0, 1e-9, 1e-12), save=("v(a)",)))
    assert len(data.abscissa) >= 1001
    assert data["v(a)"][1000] == pytest.approx(1e-6)


def test_operating_point_and_options():
    data = run(Job("op", DIVIDER, OperatingPoint(), save=("v(b)", "i(v1)"), tolerances=LATCH))
    assert data["v(b)"] == pytest.approx([0.75])
    assert data.abscissa.tolist() == [0.0]
    assert data.names == ("v(b)", "i(v1)")
    hot = Job("hot", "I1 0 a 1m\nR1 a 0 1k tc1=0.01", OperatingPoint(), temperature=37.0)
    assert run(hot)["v(a)"] == pytest.approx([1.1])


def test_noise_of_a_resistor_is_4ktr():
    data = run(Job("noise", "V1 a 0 dc 0 ac 1\nR1 a b 1k\nR2 b 0 1k", Noise("b", "v1", 1, 1e3)))
    expected = np.sqrt(4 * 1.380649e-23 * 300.15 * 500)
    assert data["onoise_spectrum"] == pytest.approx(np.full(31, expected), rel=1e-3)
    assert data["v(onoise_total)"] == pytest.approx([expected * np.sqrt(999)], rel=1e-2)


def test_initial_voltages_and_device_currents():
    decay = Job(
        "decay", "R1 a 0 1k\nC1 a 0 1u", Transient(1e-3, 1e-5, uic=True), ("v(a)",), initial={"a": 2.0}
    )
    assert run(decay).sample(1e-3)["v(a)"] == pytest.approx(2 * np.exp(-1), rel=2e-3)
    current = run(Job("device", DIVIDER, OperatingPoint(), save=("@r1[i]",)))
    assert current["@R1[i]"] == pytest.approx([0.25e-3])
    assert "@r1[i]" in current


def test_files_beside_the_deck(tmp_path):
    model = tmp_path / "elsewhere.lib"
    model.write_text("* a card\n.option scale=1\n.include inner.txt\n")
    files = {"cell.lib": model, "inner.txt": ".subckt half a b\nR1 a b 1k\nR2 b 0 1k\n.ends"}
    netlist = ".include 'cell.lib'\nV1 a 0 1\nX1 a b half"
    assert run(Job("files", netlist, OperatingPoint(), files=files))["v(b)"] == pytest.approx([0.5])


def test_one_thread_and_nothing_left_behind(fake, tmp_path):
    fake(f'cat .spiceinit > {tmp_path}/init; echo $OMP_THREAD_LIMIT >> {tmp_path}/init; exec $REAL "$@"')
    run(STEP, keep=tmp_path / "keep")
    assert "set num_threads=1" in (tmp_path / "init").read_text()
    assert (tmp_path / "init").read_text().endswith("\n1\n")
    assert list((tmp_path / "keep").iterdir()) == []


def test_missing_name_lists_what_there_is():
    data = run(STEP)
    with pytest.raises(SimulationError, match=r"no vector 'v\(nowhere\)'.*there are: v\(out\), i\(v1\)"):
        data["v(nowhere)"]
    with pytest.raises(SimulationError, match="must lie within"):
        data.sample([1.0])


# --- the simulator itself --------------------------------------------------------------------------------


def test_missing_simulator(monkeypatch):
    monkeypatch.setenv("CMRU_HW_NGSPICE", "/nonexistent/ngspice")
    with pytest.raises(SimulatorNotFound, match=r"looked for CMRU_HW_NGSPICE=/nonexistent.*apt-get install"):
        run(STEP)
    monkeypatch.delenv("CMRU_HW_NGSPICE")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SimulatorNotFound, match=r"on the PATH; install it with: apt-get install ngspice"):
        find_ngspice()


def test_too_old_and_not_ngspice(fake, monkeypatch):
    fake("exit 0", version="ngspice-30")
    with pytest.raises(SimulatorNotFound, match="ngspice 30 is too old, 36 or newer"):
        find_ngspice()
    monkeypatch.setenv("CMRU_HW_NGSPICE", "/bin/true")
    with pytest.raises(SimulatorNotFound, match="names no ngspice version"):
        find_ngspice()


# --- failures carry the deck and the simulator's line ----------------------------------------------------


@pytest.mark.parametrize(
    ("netlist", "line"),
    [
        ("V1 a 0 1\nR1 a 0 {foo}", r"Undefined parameter \[foo\]"),
        ("V1 a 0 1\nM1 a a 0 0 nomodel", "could not find a valid modelname"),
        ("V1 a 0 1\nX1 a 0 nosub", "unknown subckt: x1 a 0 nosub"),
        ("V1 a 0 1\nR1 a 0 1k foo=3", r"Error on line .* \| r1 a 0 1k foo=3 \| unknown parameter"),
    ],
)
def test_what_ngspice_complains_about(netlist, line, tmp_path):
    with pytest.raises(NgspiceError, match=line) as caught:
        run(Job("bad", netlist, OperatingPoint()), keep=tmp_path)
    deck = caught.value.deck
    assert str(deck) in str(caught.value)
    assert deck.is_relative_to(tmp_path)
    assert netlist in deck.read_text()
    assert caught.value.line
    assert "\n" not in str(caught.value)


def test_real_non_convergence_climbs_the_ladder_and_fails(tmp_path, caplog):
    fighting = Job("fight", "V1 a 0 1\nV2 a 0 2", Transient(1e-3), save=("v(a)",))
    with caplog.at_level(logging.WARNING), pytest.raises(NgspiceError, match="Timestep too small") as caught:
        run(fighting, keep=tmp_path)
    assert len(caplog.records) == len(LADDER) - 1
    assert "tenth of reltol" in str(caught.value)


def test_saved_vectors_and_initial_nodes_must_exist(tmp_path):
    with pytest.raises(NgspiceError, match=r"no such vector 'v\(zz\)'"):
        run(replace(STEP, save=("v(out)", "v(zz)")), keep=tmp_path)
    with pytest.raises(NgspiceError, match="initial voltage was ignored: zz"):
        run(replace(STEP, initial={"zz": 1.0}), keep=tmp_path)


@pytest.mark.parametrize("watched", [True, False], ids=["as Linux", "as elsewhere"])
def test_time_limit(tmp_path, monkeypatch, watched):
    if not watched:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    began = time.monotonic()
    with pytest.raises(NgspiceError, match=r"time limit of 0.3 s"):
        run(replace(SLOW, time_limit=0.3), keep=tmp_path)
    assert time.monotonic() - began < 5
    assert run(replace(STEP, time_limit=60.0)).rung == 0


def test_truncated_raw(fake, tmp_path):
    fake('$REAL "$@"; head -c 3000 out.raw > half; mv half out.raw')
    with pytest.raises(NgspiceError, match="cut short"):
        run(STEP, keep=tmp_path / "keep")
    fake('$REAL "$@"; head -c 40 out.raw > half; mv half out.raw')
    with pytest.raises(NgspiceError, match="inside a header"):
        run(STEP, keep=tmp_path / "keep")
    fake("exit 0")
    with pytest.raises(NgspiceError, match="no raw file was written"):
        run(STEP, keep=tmp_path / "keep")
    fake(": > out.raw")
    with pytest.raises(NgspiceError, match="raw file is empty"):
        run(STEP, keep=tmp_path / "keep")


def test_run_that_stops_early(fake, tmp_path):
    fake('sed -i "s/^.tran .*/.tran 1e-5 1e-3/" deck.cir; exec $REAL "$@"')
    with pytest.raises(NgspiceError, match=r"stopped at 0.001, before its end"):
        run(STEP, keep=tmp_path / "keep")


def corners(second: str, *at: float) -> Job:
    """Two sources that turn, the second one as told."""
    first = "V1 a 0 pwl(0 0 10m 0 10.001m 1 20m 1 20.001m 0)\nR1 a 0 1k"
    netlist = f"{first}\nV2 b 0 pwl({second})\nR2 b 0 1k"
    turns = (10e-3, 10.001e-3, 20e-3, 20.001e-3, *at)
    return Job("corners", netlist, Transient(stop=30e-3, max_step=1e-3, corners=turns), save=("v(a)", "v(b)"))


def test_every_corner_is_met():
    data = run(corners("0 0 5m 0 5.001m 1 10m 1 10.001m 0", 5e-3, 5.001e-3))
    assert data.sample([10.0005e-3])["v(a)"] == pytest.approx([0.5], abs=0.01)
    assert np.isclose(data.time[:, None], [10e-3, 20e-3], atol=1e-12).any(axis=0).all()


def test_corners_that_ngspice_forgot(tmp_path):
    """Those after one that it took for another source's."""
    with pytest.raises(NgspiceError, match=r"no time point at 0.01\d* s, where a source turns"):
        run(corners("0 0 9.999999999999m 0 15.03m 1 25m 0", 15.03e-3, 25e-3), keep=tmp_path / "keep")


def test_a_corner_is_missed_or_met():
    analysis = Transient(stop=1.0, max_step=0.1, corners=(0.0, 0.2, 0.5, 1.0))
    assert analysis.missed(np.array([0.05, 0.2, 0.3, 0.5, 1.0])) is None
    assert analysis.missed(np.array([0.0, 0.2 + 5e-6, 0.5 - 5e-6, 1.0])) is None
    assert analysis.missed(np.array([0.0, 0.2, 0.5 + 7e-6, 1.0])) == 0.5
    assert analysis.limit == analysis.halved().limit * 2 < 0.1
    assert analysis.halved().corners == analysis.corners
    assert Transient(stop=1.0, max_step=0.1).limit == 0.1
    assert BankClock.edge / BankClock.EDGE_PIECES > CORNER * LONGEST_STEP


def test_not_finite(fake, tmp_path):
    fake('$REAL "$@"; truncate -s -8 out.raw; printf "\\000\\000\\000\\000\\000\\000\\370\\177" >> out.raw')
    with pytest.raises(NgspiceError, match=r"i\(v1\) is not finite at point \d+"):
        run(STEP, keep=tmp_path / "keep")


def test_exit_code_and_stderr_decide_nothing(fake):
    fake('$REAL "$@"; echo "Error: so it says" >&2; exit 1')
    assert run(STEP)["v(out)"][-1] == pytest.approx(1 - np.exp(-5), abs=2e-3)


# --- the retry ladder ------------------------------------------------------------------------------------


def test_ladder_stops_at_the_first_rung_that_works(fake, caplog):
    fake(
        'if grep -q "itl4=100" deck.cir && grep -q " 0 5e-06" deck.cir; then exec $REAL "$@"; fi\n'
        'echo "doAnalyses: TRAN:  Timestep too small; time = 0.001, timestep = 1e-19" >&2; exit 1'
    )
    with caplog.at_level(logging.WARNING):
        data = run(STEP)
    assert data.rung == 2
    assert [record.getMessage().split("; rung ")[1][0] for record in caplog.records] == ["1", "2"]


def test_ladder_never_changes_the_circuit_and_tightens_only():
    decks = [STEP.deck(rung).splitlines() for rung in range(len(LADDER))]
    fixed = [[line for line in deck if not line.startswith((".options", ".tran"))] for deck in decks]
    assert all(lines == fixed[0] for lines in fixed)
    assert "reltol=0.001" in decks[2][4]
    assert "reltol=0.0001" in decks[3][4]
    assert f"gmin={FAST.gmin}" in decks[3][4]


def test_syntax_errors_are_not_retried(fake, tmp_path):
    fake(f'echo x >> {tmp_path}/calls; exec $REAL "$@"')
    with pytest.raises(NgspiceError):
        run(Job("bad", "X1 a 0 nosub", OperatingPoint()), keep=tmp_path / "keep")
    assert (tmp_path / "calls").read_text() == "x\n"


# --- refused decks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        ".control",
        "  .CONTROL",
        "*#shell touch pwned",
        "*# shell touch pwned",
        "* ng_script",
        "shell touch pwned",
        ".exec x",
        ".include /etc/passwd",
        ".inc ../up.lib",
        ".lib other.lib tt",
        '.include "good.lib" extra',
        ".include",
        "A1 [a] m\n.model m d_source(input_file=x)",
        ".tran 1u 1m",
        ".end",
        ".options reltol=1",
        ".save all",
        "R1 a 0 1k\x00",
    ],
)
def test_refused_netlists(line):
    with pytest.raises(ConfigError):
        Job("x", f"V1 a 0 1\n{line}", OperatingPoint(), files={"good.lib": ""})


def test_included_files_are_checked_too(tmp_path):
    hostile = tmp_path / "models.lib"
    hostile.write_text(".model n nmos\n*# shell touch pwned\n")
    with pytest.raises(ConfigError, match=r"models\.lib, line 2: runs a command"):
        run(Job("x", ".include m.lib\nV1 a 0 1", OperatingPoint(), files={"m.lib": hostile}))
    with pytest.raises(ConfigError, match=r"x: m\.lib, line 1"):
        run(Job("x", ".include m.lib\nV1 a 0 1", OperatingPoint(), files={"m.lib": ".include /etc/passwd"}))
    with pytest.raises(ConfigError, match="cannot be read"):
        run(Job("x", ".include m.lib\nV1 a 0 1", OperatingPoint(), files={"m.lib": tmp_path / "none"}))


@pytest.mark.parametrize(
    "change",
    [
        {"title": "two\nlines"},
        {"save": ("v(a)\n.control",)},
        {"initial": {"a": float("nan")}},
        {"initial": {"a b": 1.0}},
        {"files": {"../x": ""}},
        {"files": {"deck.cir": ""}},
        {"options": {"gmin": "1 \n.control"}},
        {"temperature": -300.0},
        {"time_limit": 0.0},
    ],
)
def test_refused_jobs(change):
    with pytest.raises(ConfigError):
        replace(STEP, **change)


def test_refused_analyses():
    with pytest.raises(ConfigError, match="stop must be a positive number"):
        Transient(stop=0)
    with pytest.raises(ConfigError, match="must lead from start to stop"):
        DcSweep("v1", 0, 1, -0.1)
    with pytest.raises(ConfigError, match="one word"):
        DcSweep("v1 0 1\n.control", 0, 1, 0.1)
    with pytest.raises(ConfigError, match="high must exceed low"):
        Noise("a", "v1", 10, 1)


# --- several at once -------------------------------------------------------------------------------------


def resistors(count: int) -> list[Job]:
    return [
        Job(f"r{n}", f"I1 0 a 1\nR1 a 0 {n}", OperatingPoint(), save=("v(a)",)) for n in range(1, count + 1)
    ]


def test_results_in_job_order_and_progress():
    seen: list[int] = []
    results = run_many(iter(resistors(6)), workers=2, progress=seen.append)
    assert [float(data["v(a)"][0]) for data in results] == pytest.approx([1, 2, 3, 4, 5, 6])
    assert seen == [1, 2, 3, 4, 5, 6]
    assert run_many([]) == []


def test_two_run_at_the_same_time(fake, tmp_path):
    fake(
        f"cd {tmp_path}; touch $$.here\n"
        "for i in $(seq 100); do [ $(ls *.here | wc -l) -ge 2 ] && break; sleep 0.05; done\n"
        'cd "$OLDPWD"; exec $REAL "$@"'
    )
    began = time.monotonic()
    assert len(run_many(resistors(2), workers=2)) == 2
    assert time.monotonic() - began < 4


def test_finished_work_is_yielded_then_the_failure_raised_and_the_rest_killed(tmp_path):
    good = resistors(3)
    bad = Job("bad", "X1 a 0 nosub", OperatingPoint())
    kept: dict[int, RawData] = {}
    began = time.monotonic()
    with pytest.raises(NgspiceError, match="nosub"):
        kept.update(entry for entry in imap([*good, SLOW, bad], workers=2, keep=tmp_path))
    assert sorted(kept) == [0, 1, 2]
    assert time.monotonic() - began < 10
    assert len(list(tmp_path.iterdir())) == 1


def test_leaving_the_loop_kills_what_runs(tmp_path):
    began = time.monotonic()
    for _ in imap([*resistors(1), SLOW], workers=2, keep=tmp_path):
        break
    assert time.monotonic() - began < 10
    with pytest.raises(ConfigError, match="workers must be 1 or more"):
        next(imap(resistors(1), workers=0))


def simulating(call: str, fake, tmp_path) -> tuple[subprocess.Popen[str], list[int]]:
    """A process in the middle of a call, and its simulators."""
    fake(f"echo $$ > {tmp_path}/$$.pid; exec sleep 60")
    code = (
        "from cmru_hw.spice.job import Job, OperatingPoint\n"
        "from cmru_hw.spice.ngspice import run, run_many\n"
        "from pathlib import Path\n"
        "job = Job('x', 'R1 a 0 1', OperatingPoint())\n"
        "try:\n"
        f"    {call}\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    # A shell has what it runs in the background ignore Ctrl-C, and children of that, too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    child = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    wanted = 2 if "many" in call else 1
    deadline = time.monotonic() + 15
    while len(pids := list(tmp_path.glob("*.pid"))) < wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    assert len(pids) == wanted
    return child, [int(path.stem) for path in pids]


CALLS = pytest.mark.parametrize("call", ["run(job)", "run_many([job, job], workers=2)"])


@CALLS
def test_ctrl_c_kills_the_simulators(call, fake, tmp_path):
    child, pids = simulating(call, fake, tmp_path)
    child.send_signal(signal.SIGINT)
    said, _ = child.communicate(timeout=10)
    assert said == "interrupted\n"
    assert not any(map(lives, pids))
    assert not list(tmp_path.glob("cmru-hw-*"))


@CALLS
@pytest.mark.skipif(not ngspice._ends_with_us(), reason="setpriv is what ties them")
def test_simulators_end_with_a_killed_process(call, fake, tmp_path):
    child, pids = simulating(call, fake, tmp_path)
    assert all(map(lives, pids))
    child.kill()
    child.communicate(timeout=10)
    time.sleep(0.2)
    assert not any(map(lives, pids))


def test_presets():
    assert "trtol" not in FAST.settings()
    assert LATCH.settings() == {
        "gmin": 1e-18,
        "abstol": 1e-16,
        "vntol": 1e-6,
        "reltol": 1e-4,
        "chgtol": 1e-18,
        "trtol": 7.0,
        "method": "gear",
    }
    assert ngspice.OLDEST == 36
