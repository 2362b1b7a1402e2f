"""Chips in a training step against those of the mapped design: `variation.draw` and the behavioural model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hardware_networks import random_input, random_network

from cmru_hw.behavioral import BehavioralModel
from cmru_hw.design import Design
from cmru_hw.errors import ConfigError
from cmru_hw.mapping import MappingConfig, map_network
from cmru_hw.nn.network import Network, NetworkConfig
from cmru_hw.primitives.device import Array, strength
from cmru_hw.primitives.latch import Latch
from cmru_hw.primitives.mirror import Mirror
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import load_technology
from cmru_hw.training.chips import Chips
from cmru_hw.training.circuit import Planned
from cmru_hw.training.hardware import Hardware
from cmru_hw.variation import draw

CARD = load_technology("generic180")
PERIOD = 4e-2  # s, long enough for every clock here
COPIES = ("copy", "copy_diode")
NETWORKS: dict[str, dict[str, Any]] = {
    "fq_bmru": {"unit": "fq_bmru"},
    "fq_bmru without skip": {"unit": "fq_bmru", "skip": False},
    "bmru": {"unit": "bmru"},
    "cmru": {"unit": "cmru", "levels": 2},
    "cmru without skip": {"unit": "cmru", "levels": 1, "skip": False},
    "cmru, input-dependent": {
        "unit": "cmru", "levels": 2, "input_dependent_threshold": True, "num_layers": 1,
    },
    "alpha_cmru": {"unit": "alpha_cmru", "rails": 1.5, "num_layers": 1},
}  # fmt: skip
every_network = pytest.mark.parametrize("name", NETWORKS)


def built(name: str) -> tuple[Network, Design, Hardware]:
    network = random_network(3, **NETWORKS[name]).double()
    design, _ = map_network(network, CARD, MappingConfig(frame_period=PERIOD))
    return network, design, Hardware(network, Planned(frame_period=PERIOD), CARD)


def drawn(network: Network, hardware: Hardware, deviates: torch.Tensor, **options: Any) -> Chips:
    with torch.no_grad():
        return hardware.draw(dict(network.named_parameters()), deviates, **options)


def deviates_of(hardware: Hardware, design: Design, shifts: dict[str, Array]) -> torch.Tensor:
    """What a draw of given chips would be: the log strength of every transistor over its sigma."""
    devices = design.devices()
    found = np.zeros((len(next(iter(shifts.values()))), hardware.mismatch.count))

    def normal(name: str) -> Array:
        array = devices[name]
        slope = CARD.slope_factor.of(array.polarity) * CARD.thermal_voltage
        sigma = np.hypot(*array.sigmas(CARD)) / slope
        return np.log(strength(shifts[name], array.polarity, CARD)) / np.where(sigma > 0, sigma, 1)

    for name, index in hardware.mismatch.columns.items():
        stage, part = name.split(".")
        if part == "bias":
            pairs = [(f"{stage}.bias_{s}", f"{stage}.bias_reference_{s}") for s in ("positive", "negative")]
            found[:, index] = sum((normal(a) - normal(b)) / np.sqrt(2) for a, b in pairs)
        elif part.startswith("from_"):
            both = np.asarray(sum(normal(f"{name}_{s}") for s in ("positive", "negative")))
            one_to_one = both.ndim == 3 and index.ndim == 1
            found[:, index] = np.diagonal(both, axis1=1, axis2=2) if one_to_one else both
        elif name in devices:  # a threshold's diode is never copied
            found[:, index] = normal(name)
    return torch.tensor(found)


def matrices(hardware: Hardware, chips: Chips) -> dict[tuple[str, str], Array]:
    """Gains [chips, out, in] by row and source, as numbers of the circuit."""
    rows, found = hardware.circuit.rows, {}
    for name, sums in hardware.circuit.sums.items():
        if sums.tensor is None:
            for k, source in enumerate(sums.sources):
                found[name, source] = chips.gains[name][:, k, None, :].numpy() * np.eye(rows[name].size)
            continue
        for row, lines in zip(sums.rows, chips.gains[name].chunk(len(sums.rows), dim=1), strict=True):
            for source, gain in zip(sums.sources, lines.chunk(len(sums.sources), dim=2), strict=True):
                found[row, source] = gain.numpy() * rows[source].weight / rows[source].diode
    return found


def circuit_matrices(design: Design, shifts: dict[str, Array]) -> dict[tuple[str, str], Array]:
    """The same of a design's chips."""
    found = {}
    for stage in design.stages:
        if isinstance(stage, Mirror):
            currents = stage.currents(design.signals, shifts, CARD)
            for term in stage.terms:
                none = np.zeros(term.units.shape)
                signed = [currents.get((term.source, positive), none) for positive in (True, False)]
                found[stage.name, term.source] = signed[0] - signed[1]
    return found


@every_network
def test_transistors_are_the_design_s(name):
    """Every one, but for logic, switches and tails, which no value follows."""
    _, design, hardware = built(name)
    columns = hardware.mismatch.columns
    counted = np.sort(np.concatenate([index.ravel() for index in columns.values()]))
    assert np.array_equal(counted, np.arange(hardware.mismatch.count))
    theirs = {}
    for full, array in design.devices().items():
        short = full.replace("bias_reference", "bias")
        short = short.removesuffix("_positive").removesuffix("_negative")
        theirs[short] = array.units.shape
    for full, index in columns.items():
        if full in theirs:
            shape = theirs[full]
            assert index.shape == (shape[:1] if ".from_" in full and index.ndim == 1 else shape), full
        else:
            assert full in {f"layer{k}_comparator.{part}" for k in range(2) for part in COPIES}
    for full in theirs.keys() - columns.keys():
        stage, part = full.split(".")
        idle = stage.endswith(("bank", "integrator", "comparator")) or part == "bias" or part == "m3"
        assert idle, full


@every_network
def test_without_errors_it_is_the_network(name):
    network, _, hardware = built(name)
    x = torch.tensor(random_input(5, 6, 20))
    chips = drawn(network, hardware, torch.zeros(3, hardware.mismatch.count))
    with torch.no_grad():
        scores, margins, states = hardware.run(x, None, dict(network.named_parameters()), chips)
        trace = network.trace(x)
        assert torch.allclose(scores, network(x), atol=1e-9)
    for layer, cell in enumerate(network.units):
        inner = trace["inputs"][layer].relu() if cell.rectifies_input else trace["inputs"][layer]
        assert torch.allclose(margins[layer], cell.margin(trace["candidates"][layer], inner), atol=1e-9)
        assert torch.allclose(states[layer], trace["states"][layer], atol=1e-9)


@every_network
def test_gains_of_a_chip_are_the_circuit_s(name):
    """Of weights; of biases over the nominal one, as the circuit's output curve is not in here."""
    network, design, hardware = built(name)
    shifts = draw(design, range(5), 2, 3.0)
    chips = drawn(network, hardware, deviates_of(hardware, design, shifts))
    ours, theirs = matrices(hardware, chips), circuit_matrices(design, shifts)
    assert ours.keys() == theirs.keys()
    for key, gain in theirs.items():
        assert np.allclose(ours[key], gain, rtol=1e-6, atol=1e-12), key
    for row, values in chips.bias.items():
        stage = design.signals[row]
        assert isinstance(stage, Mirror)
        mismatched, nominal = (stage.currents(design.signals, one, CARD) for one in (shifts, {}))
        for positive in (True, False):
            there = stage.bias > 0 if positive else stage.bias < 0
            ratio = mismatched["bias", positive][:, there] / nominal["bias", positive][there]
            own = values[:, : stage.size].numpy()[:, there]
            expected = stage.bias[there] / design.facts.unit_current * ratio
            assert np.allclose(own, expected, rtol=1e-3), (row, positive)


@pytest.mark.parametrize("name", ["fq_bmru", "fq_bmru without skip"])
def test_latches_of_a_chip_are_the_circuit_s(name):
    """Thresholds within 0.5 % of the upper one of the chip's, measured latch for measured latch."""
    network, design, hardware = built(name)
    shifts = draw(design, range(50), 2, 2.0)
    chips = drawn(network, hardware, deviates_of(hardware, design, shifts))
    for layer, latch in enumerate(design.memories):
        assert isinstance(latch, Latch)
        with torch.no_grad():
            ours = hardware.latch_thresholds(layer, dict(network.named_parameters()), chips)
        currents = latch.currents(design.signals, shifts, CARD)
        theirs = [one / design.facts.unit_current for one in latch.thresholds(currents, {})]
        for own, other in zip(ours, theirs, strict=True):
            assert np.abs(own.numpy() - other).max() < 5e-3 * theirs[0].max()
        spread = [one.std(axis=0).min() for one in theirs]
        assert min(spread) > 5e-3 * theirs[0].max(), "mismatch moves them by more"


@pytest.mark.parametrize("name", ["fq_bmru", "cmru", "alpha_cmru"])
def test_spread_and_correlation_are_the_circuit_s(name):
    """Log gains of 3000 chips drawn here and 3000 of `variation.draw`: within five standard errors."""
    network, design, hardware = built(name)
    count = 3000
    torch.manual_seed(0)
    ours = matrices(hardware, drawn(network, hardware, hardware.deviates(count)))
    theirs = circuit_matrices(design, draw(design, range(count), 5))
    logs = []
    for found in (ours, theirs):
        each = [np.abs(found[key]).reshape(count, -1) for key in theirs]
        each = [np.log(gain[:, gain[0] > 0]) for gain in each]
        logs.append(np.concatenate(each, axis=1))
    spread = [one.std(axis=0) for one in logs]
    assert np.abs(spread[0] / spread[1] - 1).max() < 5 / np.sqrt(count)  # 1/sqrt(2n) each
    together = [np.corrcoef(one.T) for one in logs]
    assert np.abs(together[0] - together[1]).max() < 5 * np.sqrt(2 / count)
    assert np.median(together[1][together[1] > 0.2]) > 0.3, "columns share the diodes of their sources"


@every_network
def test_a_chip_behaves_as_the_behavioural_model_of_it(name):
    """Of what mismatch does to its states and scores, four fifths are here."""
    network, design, hardware = built(name)
    x, count, scale = random_input(7, 12, 25), 20, 3.0
    shifts = draw(design, range(count), 1, scale)
    stimulus = make_stimulus(x, 3, PERIOD)
    nominal, model = (BehavioralModel(design, one).run(stimulus) for one in (None, shifts))
    chips = drawn(network, hardware, deviates_of(hardware, design, shifts))
    with torch.no_grad():
        every = torch.tensor(np.tile(x, (count, 1, 1)))
        scores, _, states = hardware.run(every, None, dict(network.named_parameters()), chips)
        ideal = network.trace(torch.tensor(x))
    for layer, theirs in enumerate(model.states):

        def unlike(a: Array, b: Array) -> float:
            return float(np.mean(np.abs(a - b) > 0.1))

        ours = states[layer].numpy().reshape(theirs.shape)
        without = unlike(ideal["states"][layer].numpy(), nominal.states[layer])
        moved = unlike(theirs, nominal.states[layer])
        assert moved > 0.02
        assert unlike(ours, theirs) < without + moved / 5
    pooled, nominally = model.logits.mean(axis=2), nominal.logits.mean(axis=1)
    error = (scores.numpy().reshape(pooled.shape) - pooled).var()
    assert error < (pooled - nominally).var() / 5
    ours_right = (scores.argmax(1).numpy().reshape(count, -1) == model.decision).mean()
    assert ours_right >= (nominal.decision == model.decision).mean()
    assert ours_right > 0.9


@every_network
def test_gradients_reach_weights_and_sizes(name):
    network, _, hardware = built(name)
    sizes = replace(
        hardware.sizes,
        area=hardware.sizes.area.clone().requires_grad_(),
        diode=hardware.sizes.diode.clone().requires_grad_(),
    )
    torch.manual_seed(0)
    deviates = hardware.deviates(4)
    chips = hardware.draw(dict(network.named_parameters()), deviates, sizes)
    scores, _, _ = hardware.run(
        torch.tensor(random_input(1, 8)), None, dict(network.named_parameters()), chips
    )
    scores.square().sum().backward()
    for parameter, value in network.named_parameters():
        assert value.grad is not None, parameter
        assert value.grad.abs().sum() > 0, parameter
    assert sizes.area.grad is not None
    assert sizes.area.grad != 0
    assert sizes.diode.grad is not None
    moved = sizes.diode.grad.numpy() != 0
    for row, found in zip(hardware.circuit.rows, moved, strict=True):
        if row.startswith("readout_") and row != "readout_x":
            assert not found, "logits are read at their diodes"
        elif row != "projection_neg":  # where it flows, a layer's x may be off
            assert found, row


def test_larger_transistors_err_less():
    """sigma falls with the square root of the unit's area, which the latch's switch follows."""
    network, _, hardware = built("fq_bmru")
    torch.manual_seed(0)
    deviates = hardware.deviates(2)
    normal, large = (
        drawn(network, hardware, deviates, sizes=replace(hardware.sizes, area=torch.tensor(area).double()))
        for area in (1.0, 4.0)
    )
    nominal = drawn(network, hardware, 0 * deviates)
    for name, gains in nominal.gains.items():
        there = gains != 0
        error = [(one.gains[name][there] / gains[there]).log() for one in (normal, large)]
        assert torch.allclose(error[0], 2 * error[1], rtol=1e-9)
    assert torch.allclose(normal.parts["layer0_latch.m2"], 2 * large.parts["layer0_latch.m2"])
    assert torch.allclose(normal.parts["layer0_latch.m6"], 2 * large.parts["layer0_latch.m6"])


def test_mismatch_of_a_temperature():
    """A threshold's shift is worth less current where U_T is larger: 85 C against the card's 27 C."""
    network, _, hardware = built("fq_bmru")
    torch.manual_seed(0)
    deviates = hardware.deviates(2)
    cold, hot = (drawn(network, hardware, deviates, celsius=c) for c in (None, 85.0))
    ratio = hot.native["layer0_x"] / cold.native["layer0_x"]
    warm = CARD.at(85.0)
    expected = CARD.slope_factor.n * CARD.thermal_voltage / (warm.slope_factor.n * warm.thermal_voltage)
    assert torch.allclose(ratio, torch.full_like(ratio, expected), rtol=0.02)
    assert (ratio < 0.9).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unit": "min_gru"}, r"network\.unit min_gru has no circuit"),
        ({"unit": "fq_bmru", "glu": True}, r"network\.glu: must be False"),
        ({"unit": "cmru"}, r"network\.levels: missing"),
        ({"unit": "alpha_cmru"}, r"network\.rails: missing"),
        (
            {"unit": "alpha_cmru", "rails": 100.0},
            r"rails of 100 at 1e-09 A a unit: no number of unit transistors",
        ),
    ],
)
def test_a_network_without_a_circuit_is_refused(options, said):
    sizes = {"input_size": 3, "model_size": 4, "hidden_size": 4, "num_layers": 1, "num_classes": 2}
    network = Network(NetworkConfig(**(sizes | options)))
    with pytest.raises(ConfigError, match=said):
        Hardware(network, Planned(), CARD)


def test_noise_of_branches_is_that_of_the_behavioural_model():
    """Of the first layer's candidates, the rms within a tenth."""
    network, design, hardware = built("fq_bmru")
    x = random_input(5, 40, 20)
    stimulus = make_stimulus(x, 3, PERIOD)
    quiet, noisy = (BehavioralModel(design, seed=1, intrinsic=one).run(stimulus) for one in (False, True))
    theirs = (noisy.candidates[0] - quiet.candidates[0]) / design.facts.unit_current
    chips = drawn(network, hardware, torch.zeros(1, hardware.mismatch.count))
    parameters = dict(network.named_parameters())
    torch.manual_seed(0)
    with torch.no_grad():
        silent, loud = (
            hardware.run(torch.tensor(x), None, parameters, chips, noise)[1][0].numpy()
            for noise in (False, True)
        )
    assert np.sqrt(np.mean((loud - silent) ** 2) / np.mean(theirs**2)) == pytest.approx(1.0, abs=0.1)


def test_sequences_are_shared_out_evenly():
    network, _, hardware = built("fq_bmru")
    chips = drawn(network, hardware, hardware.deviates(4))
    with pytest.raises(ConfigError, match="6 sequences cannot be shared out evenly over 4 chips"):
        hardware.run(torch.tensor(random_input(1, 6)), None, dict(network.named_parameters()), chips)
