"""The behavioural model, in blocks and from tables, against its equations, solved a frame at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
from hardware_networks import random_input, random_network
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from test_clocked_mapping import CLOCKED, small

from cmru_hw import behavioral
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.design import Design
from cmru_hw.mapping import MappingConfig, map_network
from cmru_hw.primitives import latch_bank, mirror, signal
from cmru_hw.primitives.device import Array
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import Polarity, Technology, load_technology
from cmru_hw.variation import draw, one_chip

GENERIC = load_technology("generic180")
LEAST = 1e-3  # V: below, a diode's current counts as this one's


def carried(technology: Technology, polarity: Polarity, volts: float) -> tuple[float, float]:
    """What a unit diode at V carries, and what its gate would where the output curve is 1 (A)."""
    slope = technology.slope_factor.of(polarity) * technology.thermal_voltage
    gate = 1e-9 * np.exp((volts - technology.gate_voltage_at_1na.of(polarity)) / slope)
    return float(gate * technology.saturation(polarity, np.array(volts))), float(gate)


def diode_gate(technology: Technology, polarity: Polarity, current: float) -> float:
    """What its gate carries where a unit diode carries a current."""
    if current <= carried(technology, polarity, LEAST)[0]:
        return carried(technology, polarity, LEAST)[1]
    volts = brentq(lambda v: carried(technology, polarity, v)[0] - current, 0.0, 1.8, xtol=1e-13)
    return carried(technology, polarity, volts)[1]


def mirrored(technology: Technology, polarity: Polarity, current: Array, units: int) -> Array:
    each = [units * diode_gate(technology, polarity, one / units) for one in np.ravel(current)]
    return np.reshape(each, np.shape(current))


def copied(technology: Technology, polarity: Polarity, current: Array, units: int) -> Array:
    other: Polarity = "n" if polarity == "p" else "p"
    native = mirrored(technology, polarity, current, units)
    volts = technology.gate_voltage(other, current / units)
    arrives = native * technology.saturation(polarity, technology.supply - volts)
    return mirrored(technology, other, arrives, units)


def settle(technology: Technology, polarity: Polarity, plus: Array, minus: Array, units: int) -> Array:
    """Currents of the diodes."""
    volts = settled(technology, polarity, plus, minus, units)
    each = [units * carried(technology, polarity, one)[0] for one in volts.ravel()]
    return np.reshape(each, volts.shape)


def arrive(technology: Technology, polarity: Polarity, plus: Array, minus: Array, units: int) -> Array:
    """What arrives."""
    volts = settled(technology, polarity, plus, minus, units)
    return plus * technology.saturation("p" if polarity == "n" else "n", technology.supply - volts)


def settled(technology: Technology, polarity: Polarity, plus: Array, minus: Array, units: int) -> Array:
    """V of the diodes at the nodes."""
    other: Polarity = "n" if polarity == "p" else "p"
    shape, supply = np.broadcast_shapes(plus.shape, minus.shape), technology.supply
    found = np.empty(shape)
    for at, (p, m) in enumerate(
        zip(*(np.broadcast_to(a, shape).ravel() for a in (plus, minus)), strict=True)
    ):

        def over(volts: float, p: float = p, m: float = m) -> float:
            arrives = p * float(technology.saturation(other, np.array(supply - volts)))
            taken = m * float(technology.saturation(polarity, np.array(volts)))
            return arrives - taken - units * carried(technology, polarity, volts)[0]

        found.flat[at] = brentq(over, 0.0, supply, xtol=1e-13) if over(0.0) > 0 else 0.0
    return found


@contextmanager
def by_the_equations() -> Iterator[None]:
    """Nodes and mirrors solved one by one, frames taken one at a time."""
    with (
        mock.patch.object(behavioral, "ROWS", 1),
        mock.patch.multiple(mirror, settle=settle, arrive=arrive, mirrored=mirrored),
        mock.patch.multiple(signal, mirrored=mirrored, copied=copied),
        mock.patch.object(latch_bank, "mirrored", mirrored),
    ):
        yield


def design_of(name: str, seed: int) -> Design:
    if name == "fq_9t":
        return map_network(random_network(seed, hidden_size=3), GENERIC, MappingConfig())[0]
    network, mapping = small(name, seed)
    return map_network(network, GENERIC, MappingConfig(**mapping))[0]


@settings(deadline=None, max_examples=12)
@given(name=st.sampled_from([*CLOCKED, "fq_9t"]), seed=st.integers(0, 200), chips=st.booleans())
def test_the_model_is_its_equations(name: str, seed: int, chips: bool) -> None:
    """Random designs of every unit: candidates within 1 pA, power within 0.1 %, states equal but in races."""
    design = design_of(name, seed)
    x = 1.5 * random_input(seed, batch=2, frames=3)
    stimulus = make_stimulus(x, 3, 1e-2, lengths=np.array([3, 2]))
    shifts = draw(design, range(2), seed) if chips else None
    found = BehavioralModel(design, shifts).run(stimulus)
    for chip in range(2 if chips else 1):
        own = one_chip(shifts, chip) if shifts else None
        for index in range(2):
            with by_the_equations():
                expected = BehavioralModel(design, own).run(stimulus.select([index]))
            length = int(stimulus.lengths[index])

            def row(array: Array, index: int = index, chip: int = chip, length: int = length) -> Array:
                return (array[chip] if chips else array)[index, :length]

            close = True
            for layer, states in enumerate(expected.states):
                difference = np.abs(row(found.states[layer]) - states[0, :length])
                close = close and float(difference.max()) <= design.memories[layer].resolution
            if close:
                for layer, candidates in enumerate(expected.candidates):
                    np.testing.assert_allclose(
                        row(found.candidates[layer]), candidates[0, :length], atol=1e-12
                    )
                power = (found.supply_power[chip] if chips else found.supply_power)[index]
                np.testing.assert_allclose(power, expected.supply_power[0], rtol=1e-3)
            else:  # only where a candidate is as near to its threshold as the tables are to the equations
                margins = [
                    np.abs(candidates[0, :length, :, None] - np.stack(np.broadcast_arrays(*levels), -1)).min()
                    for candidates, levels in (
                        (expected.candidates[k], design.thresholds(k, {}))
                        for k, decider in enumerate(design.deciders)
                        if not decider.threshold_row
                    )
                ]
                assert chips or min(margins) < 2e-12
