"""A design part by part in ngspice is the design in one deck."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hardware_networks import random_input, random_network
from hypothesis import given, settings
from hypothesis import strategies as st
from test_clocked_mapping import CLOCKED, small

from cmru_hw.behavioral import BehavioralModel
from cmru_hw.design import Design
from cmru_hw.errors import ConfigError
from cmru_hw.mapping import MappingConfig, map_network
from cmru_hw.primitives.noise_source import Noise, NoiseSource
from cmru_hw.result import Result
from cmru_hw.spice.job import CORNER, Job, Transient
from cmru_hw.spice.partition import parts, thinned
from cmru_hw.spice.rawfile import read_raw
from cmru_hw.spice.simulate import simulate
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import Technology
from cmru_hw.variation import draw, one_chip


def made(generic: Technology, name: str, seed: int = 0, **choices: Any) -> Design:
    if name == "fq_9t":
        return map_network(random_network(seed, hidden_size=3), generic, MappingConfig(**choices))[0]
    network, mapping = small(name, seed)
    return map_network(network, generic, MappingConfig(**(mapping | choices)))[0]


def assert_same(parted: Result, flat: Result) -> None:
    """Equal states; logits and candidates within 0.5 % of a unit, power within 0.5 %."""
    for a, b in zip(parted.states, flat.states, strict=True):
        np.testing.assert_allclose(a, b, atol=0 if a.dtype == np.int8 else 0.02)
    for a, b in zip(parted.candidates, flat.candidates, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-12)
    np.testing.assert_allclose(parted.logits, flat.logits, rtol=2e-3, atol=5e-3)
    np.testing.assert_allclose(parted.supply_power, flat.supply_power, rtol=5e-3)
    assert parted.breakdown.keys() == flat.breakdown.keys()


# --- parts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CLOCKED, "fq_9t"])
def test_every_transistor_is_in_one_part_and_takes_only_from_those_before(
    generic: Technology, name: str
) -> None:
    design = made(generic, name)
    count, ready = 0, set()
    for level in parts(design):
        for part in level:
            assert {part.in_design(load.net) for load in part.taken} <= ready
            stages = (stage.devices(design.technology) for stage in part.stages)
            count += sum(array.count for devices in stages for array in devices.values())
        for part in level:
            ready |= {part.in_design(net) for stage in part.stages for net in stage.ports()}
    assert count == design.transistors


@pytest.mark.parametrize("name", [*CLOCKED, "fq_9t"])
def test_every_vector_that_a_deck_is_read_by_comes_from_a_part(generic: Technology, name: str) -> None:
    from cmru_hw.spice.simulate import job

    design = made(generic, name)
    flat = job(design, make_stimulus(random_input(0, batch=1, frames=2), 3, 1e-2), 0)
    given_names = [
        vector for level in parts(design) for part in level for vector in part.vectors(design).values()
    ]
    assert set(flat.save) <= set(given_names)


@given(
    values=st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=2), min_size=2, max_size=60),
    error=st.floats(1e-6, 0.5),
)
@settings(deadline=None)
def test_a_thinned_waveform_is_within_its_error_of_every_point(
    values: list[list[float]], error: float
) -> None:
    wave = np.array(values)
    time = np.cumsum(np.linspace(0.1, 1.0, len(wave)))
    kept = thinned(time, wave, error)
    assert kept[0] == 0
    assert kept[-1] == len(wave) - 1
    assert (np.diff(kept) > 0).all()
    for column in wave.T:
        np.testing.assert_allclose(np.interp(time, time[kept], column[kept]), column, atol=error * (1 + 1e-9))


def test_a_line_is_thinned_to_its_ends() -> None:
    time = np.linspace(0, 1, 100)
    assert thinned(time, 0.3 * time[:, None], 1e-9).tolist() == [0, 99]


def test_noise_runs_in_one_deck(generic: Technology) -> None:
    design = made(generic, "bmru")
    stimulus = make_stimulus(random_input(0, batch=1, frames=2), 3, 1e-2)
    noise = {"input_pos": Noise(NoiseSource.shot(1e-9), 1e3)}
    with pytest.raises(ConfigError, match="noise runs as one deck"):
        simulate(design, stimulus, noise=noise, partition=True)


# --- ngspice ---------------------------------------------------------------------------------------------


def test_parted_is_flat_and_chips_are_those_of_the_draw(generic: Technology) -> None:
    design = made(generic, "bmru")
    stimulus = make_stimulus(2 * random_input(0, batch=1, frames=4), 3, 1e-2)
    chips = draw(design, range(2), seed=2)
    parted = simulate(design, stimulus, chips, checked=0)
    assert parted.states[0].shape == (2, 1, 4, 3)
    alone = simulate(design, stimulus, one_chip(chips, 1), checked=0, partition=False)
    second = Result(
        logits=parted.logits[1], decision=parted.decision[1], states=[parted.states[0][1]],
        candidates=[parted.candidates[0][1]], supply_power=parted.supply_power[1],
        breakdown={key: watts[1] for key, watts in parted.breakdown.items()},
    )  # fmt: skip
    assert_same(second, alone)
    assert np.abs(parted.logits[0] - parted.logits[1]).max() > 0.02, "chips must differ"
    model = BehavioralModel(design, chips).run(stimulus)
    np.testing.assert_array_equal(model.states[0], parted.states[0])
    np.testing.assert_allclose(model.supply_power, parted.supply_power, rtol=0.03)


def test_corners_of_a_deck_are_one_or_well_apart(
    generic: Technology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its clock, of the beat that stops it at events, of the inputs."""
    found: list[Transient] = []

    def noted(path: Path, job: Job) -> Any:
        found.append(job.analysis)  # type: ignore[arg-type]
        return read_raw(path, job)

    monkeypatch.setattr("cmru_hw.spice.ngspice.read_raw", noted)
    design = made(generic, "bmru")
    simulate(design, make_stimulus(2 * random_input(0, batch=1, frames=4), 3, 1e-2), checked=0)
    assert len(found) == sum(map(len, parts(design)))
    assert all(len(one.corners) > 4 for one in found)
    assert all(np.diff(one.corners).min() > CORNER * one.limit for one in found)


def test_rows_in_pieces_are_the_row(generic: Technology, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chip of a clockless network whose rows of more than a few transistors are decks of their own."""
    design = made(generic, "fq_9t", seed=1)
    stimulus = make_stimulus(2 * random_input(1, batch=1, frames=3), 3, 1e-2)
    chip = one_chip(draw(design, range(1), seed=4), 0)
    whole = len(parts(design))
    monkeypatch.setattr("cmru_hw.spice.partition.LARGEST_ROW", 6)
    assert len(parts(design)) > whole
    assert_same(*(simulate(design, stimulus, chip, partition=way) for way in (True, False)))


@pytest.mark.slow
@pytest.mark.parametrize("name", CLOCKED)
def test_every_clocked_network_is_the_same_in_parts(generic: Technology, name: str) -> None:
    design = made(generic, name, seed=2)
    stimulus = make_stimulus(2 * random_input(2, batch=2, frames=8), 3, 1e-2)
    assert_same(*(simulate(design, stimulus, checked=0, partition=way) for way in (True, False)))


@pytest.mark.slow
def test_latches_without_a_clock_are_the_same_in_parts_but_for_hazards(generic: Technology) -> None:
    """Two layers; where a passing current decides, the order of events may differ."""
    design = made(generic, "fq_9t", ramp=5e-3)
    stimulus = make_stimulus(2 * random_input(3, batch=2, frames=8), 3, 1e-2)
    parted, flat = (simulate(design, stimulus, partition=way) for way in (True, False))
    for a, b in zip(parted.states, flat.states, strict=True):
        assert (a == b).mean() > 0.95
    np.testing.assert_allclose(parted.candidates[0], flat.candidates[0], atol=5e-12)
