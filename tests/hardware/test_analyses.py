"""Robustness analyses on small designs, against what can be computed otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hardware_networks import random_input, random_network

from cmru_hw.analysis.robustness.analysis import run_analyses
from cmru_hw.analysis.robustness.corners import Corners
from cmru_hw.analysis.robustness.lot import Chips, Lot
from cmru_hw.analysis.robustness.mismatch import Mismatch
from cmru_hw.analysis.robustness.noise import NoiseSweeps
from cmru_hw.analysis.robustness.retention import Retention, hold
from cmru_hw.analysis.robustness.scale import Scale
from cmru_hw.analysis.robustness.sensitivity import Sensitivity
from cmru_hw.analysis.robustness.stuck import StuckCells, faults
from cmru_hw.analysis.robustness.verify import chip, telling, verify
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.design import Design, Pooled
from cmru_hw.farm import Farm
from cmru_hw.mapping import MappingConfig, map_network
from cmru_hw.nn.network import save_network
from cmru_hw.primitives.device import strength
from cmru_hw.stimulus import Stimulus, make_stimulus
from cmru_hw.technology import load_technology
from cmru_hw.variation import Transistors, draw

GENERIC = load_technology("generic180")


def mapped(unit: str = "fq_bmru", seed: int = 2, layers: int = 2, **changes: object) -> Design:
    """A small design."""
    special = {"cmru": {"levels": 2}, "alpha_cmru": {"rails": 2.0}}.get(unit, {})
    network = random_network(seed, unit=unit, num_layers=layers, **special, **changes)
    return map_network(network, GENERIC, MappingConfig(frame_period=2e-2))[0]


def inputs(design: Design, batch: int = 8, frames: int = 6) -> Stimulus:
    """Of different lengths."""
    x = random_input(2, batch=batch, frames=frames)
    return make_stimulus(x, 3, design.facts.frame_period, 2 + np.arange(batch) % (frames - 1))


def lot(design: Design, sigma_scale: float = 1.0, **changes: int) -> Lot:
    """Chips that are asked for what the design decides without mismatch."""
    stimulus = inputs(design, **changes)
    return Lot(design, stimulus, BehavioralModel(design).decisions(stimulus), 1, sigma_scale)


# --- margins, final states, rest ----------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["mean", "last", "vote"])
def test_the_sign_of_a_margin_is_the_decision(pool: str) -> None:
    design = mapped(pool=pool)
    stimulus = inputs(design, batch=20)
    model = BehavioralModel(design, draw(design, range(4), 0, 4.0))
    decided = model.decisions(stimulus)
    for label in range(2):
        labels = np.full(20, label)
        assert np.array_equal(model.margins(stimulus, labels) >= 0, decided == label)


def test_margins_are_those_of_the_mean_logits_and_ties_are_lost_by_the_higher_class() -> None:
    design = mapped()
    stimulus = inputs(design)
    result = BehavioralModel(design).run(stimulus)
    mean = np.nanmean(result.logits, axis=1)
    expected = mean[:, 0] - mean[:, 1]
    assert BehavioralModel(design).margins(stimulus, np.zeros(8, dtype=int)) == pytest.approx(expected)
    tied = Pooled("vote", np.array([2, 2]))
    tied.add(0, np.array([[1.0, 0.0], [1.0, 0.0]]))
    tied.add(1, np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert (tied.margins(np.array([0, 1])) >= 0).tolist() == [True, False]


@pytest.mark.parametrize("unit", ["fq_bmru", "cmru", "alpha_cmru"])
def test_final_states_are_those_of_the_last_frames(unit: str) -> None:
    design = mapped(unit, layers=1)
    stimulus = inputs(design)
    model = BehavioralModel(design, draw(design, range(3), 0))
    result, final = model.run(stimulus), model.final(stimulus)
    for layer, memory in enumerate(design.memories):
        for b, length in enumerate(stimulus.lengths):
            told = final[memory.name][:, b] / memory.unit
            assert told == pytest.approx(result.states[layer][:, b, length - 1].astype(float), rel=1e-9)


@pytest.mark.parametrize(
    ("unit", "layers"), [("fq_bmru", 2), ("cmru", 2), ("alpha_cmru", 1), ("alpha_cmru", 2)]
)
def test_holding_leaps_to_where_stepping_goes(unit: str, layers: int) -> None:
    """After 1, 7 and 120 frames of rest, at 85 C, where integrators lose 0.8 % of h a second."""
    design = mapped(unit, layers=layers).at(85.0)
    model = BehavioralModel(design, draw(design, range(2), 0))
    start = model.final(inputs(design, batch=4))
    times, states, stepped = [1, 7, 120], start, {}
    for frame in range(1, max(times) + 1):
        states, logits = model.rest(states)
        stepped[frame] = states, logits
    for frames, (leapt, logits) in zip(times, hold(model, start, times), strict=True):
        for memory in design.memories:
            expected = stepped[frames][0][memory.name]
            assert leapt[memory.name] == pytest.approx(expected, rel=1e-9, abs=1e-16)
        assert logits == pytest.approx(stepped[frames][1], rel=1e-6, abs=1e-9)


def test_an_integrator_keeps_what_its_droop_leaves() -> None:
    """h falls by exp(-t 7.8e-3 / s) at 85 C and stays within 2 % of the rails for as long as that says."""
    design = mapped("alpha_cmru", layers=1)
    found = run_analyses(
        lot(design), [Retention(lot(design), 3, (1.0, 36000.0), (27.0, 85.0, -20.0))], Farm(1)
    )
    retention = found["retention"]
    assert retention["droops"]
    assert [one["celsius"] for one in retention["temperatures"]] == [27.0, 85.0]
    assert "from 27 to 85 C" in retention["refused"][0]["reason"]
    hot = retention["temperatures"][1]
    assert hot["held"][0] == 1.0
    assert hot["held"][1] < hot["held"][0]
    static = mapped("cmru", layers=1)
    held = run_analyses(lot(static), [Retention(lot(static), 3)], Farm(1))["retention"]
    assert all(one["worst_held"] == [1.0] * 6 for one in held["temperatures"])


# --- mismatch -----------------------------------------------------------------------------------------------


def test_a_deviate_a_transistor_spreads_as_a_draw_does() -> None:
    design = mapped()
    every = Transistors.of(design, 2.0)
    assert len(every) == sum(int((array.units > 0).sum()) for array in design.devices().values())
    assert len(every.names) == len(every.part_of) == len(set(every.names)) == len(every)
    drawn = draw(design, range(4000), 0, 2.0)
    for name, places in every.places.items():
        if len(places):
            own = drawn[name].reshape(4000, -1)[:, places].std()
            sigma = every.sigma[[part == name for part in every.part_of]]
            assert own == pytest.approx(float(np.sqrt((sigma**2).mean())), rel=0.05)
    one = every.shifts(np.eye(len(every))[[5]])
    assert sum(np.count_nonzero(array) for array in one.values()) == 1
    assert max(array.max() for array in one.values()) == every.sigma[5]


def test_one_spread_for_all_is_the_same_for_every_size() -> None:
    design = mapped()
    drawn = draw(design, range(2000), 0, relative=0.05)
    for name, array in design.devices().items():
        factors = np.log(strength(drawn[name], array.polarity, GENERIC))
        assert factors[:, array.units > 0].std(axis=0) == pytest.approx(0.05, rel=0.1)
        assert not factors[:, array.units == 0].any()


def test_single_transistors_add_up_to_the_spread_of_the_chips() -> None:
    """The sum of squared slopes is the Monte Carlo's variance, where no state moves; a slope is two runs'."""
    design = mapped(layers=1)
    every = lot(design, batch=120)
    chips = BehavioralModel(design, draw(design, range(200), 7)).run(every.stimulus)
    still = (chips.states[0] == chips.states[0][0]).all(axis=(0, 2, 3))
    chosen = np.flatnonzero(still)
    assert len(chosen) > 4
    some = Lot(design, every.stimulus.select(chosen.tolist()), every.labels[chosen], 1, 0.5)
    found = run_analyses(some, [Sensitivity(Mismatch(some, 400, 0.9))], Farm(1))["sensitivity"]
    low, high = found["explained"]["share_ci95"]
    assert low < 1 < high
    shares = [one["variance_share"] for one in found["by_margin"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(one["variance_share"] for one in found["stages"]) == pytest.approx(1)
    first = found["by_margin"][0]
    transistors = Transistors.of(design, 0.5)
    deviates = np.zeros((2, len(transistors)))
    deviates[:, transistors.names.index(first["transistor"])] = -3, 3
    down, up = some.margins(transistors.shifts(deviates)).mean(axis=1)
    assert first["margin_a_sigma"] == pytest.approx((up - down) / 6)


def test_sweeps_agree_with_single_lots() -> None:
    some = lot(mapped())
    found = run_analyses(some, [Scale(some, 5, 0.9, (1.0, 4.0), (0.3,))], Farm(1))["scale"]["points"]
    assert [point.get("pelgrom", point.get("three_sigma")) for point in found] == [1.0, 4.0, 0.3]
    direct = Chips(range(5), scale=4.0).run(some)["accuracy"].mean()
    assert found[1]["mean_accuracy"] == direct
    spread = Chips(range(5), relative=0.1).run(some)["accuracy"].mean()
    assert found[2]["mean_accuracy"] == spread


# --- corners, noise, faults ---------------------------------------------------------------------------------


def test_corners_are_the_design_there() -> None:
    some = lot(mapped())
    found = run_analyses(some, [Corners(some, 2, 0.9, (1.0, 1.3), (27.0, 85.0))], Farm(1))["corners"]
    assert len(found["conditions"]) == 5 * 2
    assert len(found["refused"]) == 5 * 2
    assert "0.6 to 0.9 V" in found["refused"][0]["reason"]
    hot = next(row for row in found["conditions"] if (row["corner"], row["celsius"]) == ("ff", 85.0))
    decided = BehavioralModel(some.design.at(85.0, None, "ff")).decisions(some.stimulus)
    assert hot["nominal_accuracy"] == (decided == some.labels).mean()


def test_noise_grows_with_bandwidth_and_unit_currents_need_the_network(tmp_path: Path) -> None:
    network = random_network(2)
    design, report = map_network(network, GENERIC)
    some = lot(design, batch=16)
    sweeps = NoiseSweeps(some, tmp_path, 4, (1.0, 1e5), (1e-9, 1e-7))
    bare = run_analyses(some, [sweeps], Farm(1))["noise"]
    assert bare["bandwidth"][0]["mean_accuracy"] > bare["bandwidth"][1]["mean_accuracy"]
    assert bare["unit_current"] == []
    assert "does not say how the design was mapped" in bare["skipped"][0]["reason"]
    report.save(tmp_path)
    save_network(network, tmp_path)
    full = run_analyses(some, [NoiseSweeps(some, tmp_path, 4, (1.0,), (1e-9, 1e-7))], Farm(1))["noise"]
    assert [point["amperes"] for point in full["unit_current"]] == [1e-9]
    assert full["unit_current"][0]["silent_accuracy"] == 1.0
    assert full["skipped"][0]["amperes"] == 1e-7


def test_noise_is_as_wide_as_the_capacitances_are_small() -> None:
    """Variances go as the bandwidth: logits move 10 times as much with 1/100 of the capacitance."""
    design = mapped(layers=1)
    stimulus = inputs(design)
    silent = BehavioralModel(design).run(stimulus)

    def moved(capacitance: float) -> float:
        noisy = BehavioralModel(design, seed=3, intrinsic=True, capacitance=capacitance).run(stimulus)
        same = (noisy.states[0] == silent.states[0]).all(axis=-1)
        return float(np.sqrt(np.nanmean((noisy.logits - silent.logits)[same] ** 2)))

    assert moved(1e-2) / moved(1.0) == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("unit", ["fq_bmru", "cmru", "alpha_cmru"])
def test_a_stuck_cell_never_moves_and_leaves_its_layer_alone(unit: str) -> None:
    design = mapped(unit)
    stimulus = inputs(design)
    free = BehavioralModel(design).run(stimulus)
    memory = design.memories[0]
    for level in range(2):
        stuck = np.full((1, memory.size), np.nan)
        stuck[0, 1] = memory.extremes[level, 1]
        found = BehavioralModel(design, stuck={memory.name: stuck}).run(stimulus).states[0][0]
        valid = np.arange(6) < stimulus.lengths[:, None]
        assert found[valid][:, 1] == pytest.approx(memory.extremes[level, 1] / memory.unit)
        others = [0, 2, 3]
        assert np.array_equal(found[valid][:, others], free.states[0][valid][:, others])


def test_faults_are_ranked_by_what_they_cost() -> None:
    some = lot(mapped("cmru"))
    found = run_analyses(some, [StuckCells(some, 0.9)], Farm(1))["stuck"]
    assert len(found["faults"]) == len(faults(some.design)) == 2 * 2 * 4
    accuracies = [one["accuracy"] for one in found["faults"]]
    assert accuracies == sorted(accuracies)
    assert found["nominal_accuracy"] == 1.0
    assert found["survived"] == np.mean(np.array(accuracies) >= 0.9)


# --- the most telling chips ---------------------------------------------------------------------------------


def test_telling_chips_come_from_the_worst_the_target_and_the_median() -> None:
    accuracies = np.array([0.95, 0.5, 0.9, 0.96, 0.94])
    assert telling(accuracies, 0.9, 3) == [1, 2, 4]
    assert sorted(telling(accuracies, 0.9, 99)) == list(range(5))


def test_a_chip_is_verified_in_ngspice_and_not_run_twice(tmp_path: Path) -> None:
    some = lot(mapped(layers=1))
    suspects = [chip(some, 3)]
    told: list[int] = []
    first = verify(some, suspects, 1, tmp_path, progress=told.append)
    assert told[-1] == 1
    runs = list(tmp_path.glob("input_*"))
    assert len(runs) == 1
    before = runs[0].stat().st_mtime_ns
    assert verify(some, suspects, 1, tmp_path) == first
    assert runs[0].stat().st_mtime_ns == before
    (row,) = first["suspects"]
    assert first["decisions_equal"] == 1
    assert row["behavioral"] == row["spice"]
    assert row["margins"][0] == pytest.approx(row["margins"][1], abs=0.1)


@pytest.mark.parametrize("make", [Mismatch, StuckCells])
def test_summaries_do_not_depend_on_the_number_of_processes(make: Callable[..., Mismatch]) -> None:
    some = lot(mapped(), 4.0)
    given = (some, 120, 0.9) if make is Mismatch else (some, 0.9)
    found = [run_analyses(some, [make(*given)], Farm(workers)) for workers in (1, 2)]
    assert found[0] == found[1]
