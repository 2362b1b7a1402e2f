"""The Verilog-A models of an exported folder, compiled with OpenVAF, do as the behavioural model.

OpenVAF gives residuals and Jacobian of a module; the tests solve them in time by implicit Euler steps.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hardware_networks import random_input, random_network

from cmru_hw.design import Design
from cmru_hw.export import export
from cmru_hw.mapping import MappingConfig, map_network
from cmru_hw.primitives.integrator import Integrator
from cmru_hw.primitives.latch import Latch
from cmru_hw.primitives.latch_bank import LatchBank
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import load_technology

openvaf = pytest.importorskip("openvaf_py", reason="needs openvaf-py, which has no wheel here")

FRAMES = 40


def design_of(unit: str, options: dict[str, str], **sizes: float) -> Design:
    network = random_network(1, unit=unit, num_layers=1, model_size=2, hidden_size=2, num_classes=3, **sizes)
    return map_network(network, load_technology("generic180"), MappingConfig(**options))[0]


@dataclass
class Compiled:
    """A module of an exported folder, and the parameters of its instances."""

    module: Any
    rows: list[dict[str, str]]

    def __post_init__(self) -> None:
        self.nodes = [each["name"] for each in self.module.get_dae_system()["nodes"]]

    def given(self, row: dict[str, str]) -> dict[str, float]:
        """All that an evaluation asks for: what the row says, the module's defaults, and 0 V and A."""
        defaults = self.module.get_param_defaults()
        own = {name: float(value) for name, value in row.items() if name in defaults}
        return dict.fromkeys(self.module.param_names, 0.0) | defaults | own | {"mfactor": 1.0}

    def current(self, given: dict[str, float], node: str) -> float:
        """Into the module (A), at rest."""
        return float(self.module.run_init_eval(given)[0][self.nodes.index(node)][0])

    def solve(
        self, row: dict[str, str], times: Sequence[float], drive: Callable[[float], dict[str, float]],
        free: Sequence[str], starts: Sequence[float],
    ) -> np.ndarray:  # fmt: skip
        """Voltages of the nodes `free` at `times` (s), [times, free], of what `drive` says of the others."""
        index, names = [self.nodes.index(node) for node in free], [f"V({node},gnd)" for node in free]
        given = self.given(row)

        def evaluated(t: float, volts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            residuals, entries = self.module.run_init_eval(
                given | drive(t) | dict(zip(names, volts, strict=True))
            )
            found = np.array([residuals[i] for i in index])
            jacobian = np.zeros((2, len(index), len(index)))
            for to, by, *values in entries:
                if to in index and by in index:
                    jacobian[:, index.index(to), index.index(by)] = values
            return found[:, 0], found[:, 1], jacobian

        now = np.array(starts, dtype=float)
        kept = [now]
        charge = evaluated(times[0], now)[1]
        for before, t in pairwise(times):
            for _ in range(50):
                resistive, reactive, jacobian = evaluated(t, now)
                step = np.linalg.solve(
                    jacobian[0] + jacobian[1] / (t - before), resistive + (reactive - charge) / (t - before)
                )
                now = now - step
                if np.abs(step).max() < 1e-10:
                    break
            else:
                raise AssertionError(f"no convergence at {t} s")
            charge = evaluated(t, now)[1]
            kept.append(now)
        return np.array(kept)


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[Design, str], Compiled]:
    def make(design: Design, model: str) -> Compiled:
        rest = make_stimulus(random_input(2, 1, 4), 3, design.facts.frame_period)
        export(design, rest, tmp_path)
        (module,) = openvaf.compile_va(str(tmp_path / "verilog_a" / f"{model}.va"))
        with (tmp_path / "verilog_a" / f"{model}.csv").open() as file:
            return Compiled(module, list(csv.DictReader(file)))

    return make


def some_decisions() -> np.ndarray:
    """-1, 0, 1 for two units, [FRAMES, 2]: up to the upper end, down to the lower, then at random."""
    decisions = np.random.default_rng(1).integers(-1, 2, (FRAMES, 2))
    decisions[:8], decisions[8:20] = 1, -1
    return decisions


@dataclass
class Clocked:
    """FRAMES frames of a clock: its phases, and decisions that stand from pe's fall to the frame's end."""

    design: Design
    decisions: np.ndarray  # -1, 0, 1 by frame
    amplitudes: np.ndarray  # A by frame

    def __post_init__(self) -> None:
        (self.clock,) = self.design.clocks.values()
        self.starts = self.clock.frame_period * np.arange(FRAMES + 1)
        supply = self.design.facts.supply
        self.phases = {
            phase: self.clock.waveform(phase, self.starts, supply) for phase in ("ph", "p1", "rst")
        }

    @property
    def times(self) -> np.ndarray:
        """Eight steps an edge, and thirty a frame besides; frames' ends are among them."""
        edges = [np.linspace(a, b, 9) for wave in self.phases.values()
                 for a, b in pairwise(wave[:, 0]) if b - a < 2e-6]  # fmt: skip
        frames = np.linspace(0.0, self.starts[-1], 30 * FRAMES + 1)
        return np.unique(np.concatenate([frames, self.starts, *edges]).round(12))

    def ends(self, times: np.ndarray) -> np.ndarray:
        return np.searchsorted(times, self.starts[1:].round(12))

    def drive(self, t: float) -> dict[str, float]:
        frame = min(int(t / self.clock.frame_period), FRAMES - 1)
        stands = t - self.starts[frame] > self.clock.decides * self.clock.frame_period
        decision, supply = stands * self.decisions[frame], self.design.facts.supply
        logic = {f"V({phase},gnd)": float(np.interp(t, *wave.T)) for phase, wave in self.phases.items()}
        return logic | {
            "V(up,gnd)": supply * (decision > 0), "V(down,gnd)": supply * (decision < 0),
            "I(packets)": self.amplitudes[frame],
        }  # fmt: skip


def test_latches_have_the_thresholds_of_the_behavioural_model(
    compiled: Callable[[Design, str], Compiled],
) -> None:
    """The net current into v0 changes sign at the thresholds, and v0 is at a rail a frame later."""
    design = design_of("fq_bmru", {})
    model = compiled(design, "latch")
    (latch,) = (stage for stage in design.stages if isinstance(stage, Latch))
    up, down = design.thresholds(0, {})
    assert len(model.rows) == 2
    period = design.facts.frame_period
    random = np.random.default_rng(1)
    for j, row in enumerate(model.rows):
        given = model.given(row)
        for candidate in np.linspace(0.0, 2 * up[j], 201):
            if min(abs(candidate - up[j]), abs(candidate - down[j])) < 1e-14:
                continue
            low, high = (
                -model.current(given | {"I(candidate)": candidate, "V(v0,gnd)": volts}, "v0")
                for volts in (0.0, 0.8)
            )
            assert (low > 0) == (candidate > up[j])
            assert (high < 0) == (candidate < down[j])
        candidates = random.uniform(0.5 * down[j], 1.3 * up[j], FRAMES // 2)
        candidates = candidates[(abs(candidates - up[j]) > 2e-11) & (abs(candidates - down[j]) > 2e-11)]

        def drive(t: float, candidates: np.ndarray = candidates) -> dict[str, float]:
            return {"I(candidate)": candidates[min(int(t / period - 1e-9), len(candidates) - 1)]}

        switching = [*np.arange(0.0, 1e-3, 1e-6), 2e-3, 5e-3]
        times = [frame * period + t for frame in range(len(candidates)) for t in switching]
        bit = float(row["starts"])
        got = (
            model.solve(row, times, drive, ["v0"], [0.8 * bit])[len(switching) - 1 :: len(switching), 0] / 0.8
        )
        told = []
        for candidate in candidates:
            decision = np.array(float(candidate > up[j]) - float(candidate < down[j]))
            bit = float(latch.step(np.array(bit), decision))
            told.append(bit)
        assert np.abs(got - told).max() < 0.02
        assert 0 < np.sum(told) < len(told)


@pytest.mark.parametrize(
    ("unit", "options", "sizes"),
    [("cmru", {}, {"levels": 2}), ("bmru", {}, {}), ("fq_bmru", {"latch": "clocked"}, {})],
)
def test_latch_banks_count_as_the_behavioural_model(
    compiled: Callable[[Design, str], Compiled], unit: str, options: dict[str, str], sizes: dict[str, float]
) -> None:
    design = design_of(unit, options, **sizes)
    model = compiled(design, "latch_bank")
    (bank,) = (stage for stage in design.stages if isinstance(stage, LatchBank))
    currents = bank.currents(design.signals, {}, design.technology)
    decisions = some_decisions()
    states = [bank.start()]
    for decision in decisions:
        states.append(bank.step(states[-1], decision))
    set_units = bank.is_set(np.array(states)).sum(axis=-1)
    assert {0.0, float(bank.latches)} <= set(set_units[:, 0]), "saturates at both ends"
    assert len(model.rows) == 2
    for j, row in enumerate(model.rows):
        clocked = Clocked(design, decisions[:, j], np.zeros(FRAMES))
        times = clocked.times

        def drive(t: float, clocked: Clocked = clocked) -> dict[str, float]:
            logic = clocked.drive(t)
            return logic | ({"V(ph,gnd)": logic["V(p1,gnd)"]} if bank.single else {})

        got = model.solve(row, times, drive, ["held", "state"], [0.0, 0.0])[clocked.ends(times), 1]
        np.testing.assert_allclose(got, set_units[1:, j], atol=1e-6)
        out = [model.current(model.given(row) | {"V(state,gnd)": each}, "out") for each in got]
        told = bank.output(np.array(states[1:]), currents)[:, j]
        np.testing.assert_allclose(out, told, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("unit", "options", "sizes"),
    [("cmru", {"accumulator": "integrator"}, {"levels": 2}), ("alpha_cmru", {}, {"rails": 4.0})],
)
def test_integrators_move_as_the_behavioural_model(
    compiled: Callable[[Design, str], Compiled], unit: str, options: dict[str, str], sizes: dict[str, float]
) -> None:
    """Between the rails and into them, by constant packets and by packets of a row of amplitudes."""
    design = design_of(unit, options, **sizes)
    model = compiled(design, "integrator")
    (stage,) = (stage for stage in design.stages if isinstance(stage, Integrator))
    currents = stage.currents(design.signals, {}, design.technology)
    decisions = some_decisions()
    amplitudes = np.zeros((FRAMES, 2))
    if stage.amplitude_signal:
        amplitudes = np.random.default_rng(2).uniform(0.2, 0.8, (FRAMES, 2)) * stage.rails / currents["up"]
    (clock,) = design.clocks.values()
    kept = stage.kept(clock.frame_period, design.technology)
    states = [stage.woken(currents)]
    for decision, amplitude in zip(decisions, amplitudes, strict=True):
        given = amplitude[None] if stage.amplitude_signal else None
        states.append(stage.move(states[-1][None], decision[None], currents, given, kept)[0])
    told = stage.output(np.array(states[1:]))
    spread = np.ptp(told, axis=0) / stage.rails
    assert (spread > 1.9).all(), "reaches both rails"
    assert len(model.rows) == 2
    for j, row in enumerate(model.rows):
        clocked = Clocked(design, decisions[:, j], amplitudes[:, j])
        times = clocked.times
        volts = model.solve(row, times, clocked.drive, ["held", "state"], [0.0, 0.0])
        out = [
            model.current(model.given(row) | {"V(state,gnd)": each}, "out")
            for each in volts[clocked.ends(times), 1]
        ]
        np.testing.assert_allclose(out, told[:, j], rtol=0, atol=1e-13)
