"""Noise: densities against integrals, behavioural samples against densities, ngspice against theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.signal import welch

from cmru_hw.behavioral import BehavioralModel
from cmru_hw.design import Design, Facts
from cmru_hw.errors import ConfigError
from cmru_hw.primitives.device import Array
from cmru_hw.primitives.mirror import Input, Mirror, Term
from cmru_hw.primitives.noise_source import (
    BOLTZMANN,
    CHARGE,
    Noise,
    NoiseSource,
    branch_pole,
    interpolated,
    relative_shot_noise,
)
from cmru_hw.spice import noise_bench
from cmru_hw.spice.job import Job, Transient
from cmru_hw.spice.ngspice import run
from cmru_hw.spice.simulate import simulate
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import load_technology

GENERIC = load_technology("generic180")
MIXED = NoiseSource(white=3e-28, flicker=2e-26, amplitude=4e-12, capture=5e-4, emission=2e-3)
KINDS = {
    "white": NoiseSource(white=3e-28),
    "flicker": NoiseSource(flicker=1e-24),
    "telegraph": NoiseSource.telegraph(4e-12, 5e-3, 2e-3),
}


def integral(source: NoiseSource, low: float, high: float, pole: float = math.inf) -> float:
    """Of the density behind a pole, on a logarithmic axis."""

    def integrand(log: float) -> float:
        f = math.exp(log)
        return 1e24 * f * float(source.density(f)) / (1 + (f / pole) ** 2)

    return 1e-24 * quad(integrand, math.log(low), math.log(high), limit=400)[0]


def test_densities_of_shot_and_thermal_noise() -> None:
    assert float(NoiseSource.shot(1e-9).density(1e3)) == pytest.approx(2 * 1.602e-19 * 1e-9, rel=1e-3)
    assert float(NoiseSource.thermal(1e-9).density(1.0)) == pytest.approx(1.6569e-29, rel=1e-3)
    corner = NoiseSource.shot(1e-9, corner=50.0)
    assert corner.corner == pytest.approx(50.0)
    assert float(corner.density(50.0)) == pytest.approx(2 * corner.white)


@pytest.mark.parametrize("source", [*KINDS.values(), MIXED], ids=[*KINDS, "mixed"])
def test_rms_is_the_integral_of_the_density(source: NoiseSource) -> None:
    assert source.rms(0.1, 1e5) ** 2 == pytest.approx(integral(source, 0.1, 1e5), rel=1e-6)
    behind = integral(source, 1e-4 if source.flicker else 1e-9, 1e9, pole=3e3)
    assert source.variance(3e3, 1e-4) == pytest.approx(behind, rel=1e-4)


def test_a_telegraph_signal_has_the_variance_of_two_levels() -> None:
    source = NoiseSource.telegraph(4e-12, 5e-3, 2e-3)
    share = 2 / 7
    assert source.telegraph_variance == pytest.approx(16e-24 * share * (1 - share))
    assert source.rms(0, 1e9) ** 2 == pytest.approx(source.telegraph_variance, rel=1e-4)


def test_thermal_noise_of_a_capacitor_is_kt_over_c() -> None:
    conductance, capacitance = 2e-9, 1e-13
    variance = NoiseSource.thermal(conductance).variance(conductance / (2 * np.pi * capacitance))
    assert variance / conductance**2 == pytest.approx(BOLTZMANN * 300.15 / capacitance)


def test_shot_noise_behind_its_own_diode_is_a_share_of_the_current() -> None:
    for current in (1e-10, 3e-9):
        pole = branch_pole(current, 1e-13, "n", GENERIC)
        rms = math.sqrt(NoiseSource.shot(current).variance(pole))
        assert rms / current == pytest.approx(relative_shot_noise(1e-13, "n", GENERIC))
    assert relative_shot_noise(1e-13, "n", GENERIC) == pytest.approx(0.0047, abs=5e-5)


def test_the_share_that_a_pole_sees_is_that_under_the_lines_spectrum() -> None:
    for x in (0.003, 0.0199, 0.0201, 0.2, 0.55, 3.0):

        def passed(f: float, x: float = x) -> float:  # f in poles, samples x time constants apart
            return float(np.sinc(f * x / (2 * np.pi)) ** 4 / (1 + f**2))

        expected = 2 / np.pi * (quad(passed, 0, 50, limit=500)[0] + quad(passed, 50, 5e4, limit=5000)[0])
        assert interpolated(x) == pytest.approx(expected, abs=2e-4)
    assert interpolated(0.0199) == pytest.approx(interpolated(0.0201), abs=2e-4)
    assert interpolated(1e-9) == pytest.approx(1.0)


def welch_of(x: Array, step: float) -> tuple[Array, Array]:
    """Frequencies and mean density of many sequences; the lowest three and the last left out."""
    frequency, density = welch(x, 1 / step, nperseg=1024, axis=-1)
    return frequency[3:-1], density.mean(axis=0)[3:-1]


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_density(kind: str) -> None:
    source, step = KINDS[kind], 2e-4
    x = source.samples(np.random.default_rng(1), (100, 4096), step)
    frequency, density = welch_of(x, step)
    # The sampled telegraph signal folds back what it has beyond 2.5 kHz: compare well below that.
    band = frequency < (500 if kind == "telegraph" else 2500)
    ratio = density[band] / source.density(frequency[band])
    assert ratio.mean() == pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(ratio, 1.0, atol=0.25)


def test_a_telegraph_signal_has_two_levels_and_its_times() -> None:
    source, step = KINDS["telegraph"], 1e-4
    x = source.samples(np.random.default_rng(2), (50, 20000), step)
    np.testing.assert_allclose(np.unique(x), 4e-12 * (np.array([0, 1]) - 2 / 7))
    assert (x > 0).mean() == pytest.approx(2 / 7, abs=0.01)
    up, ends = x > 0, np.flatnonzero(np.diff((x > 0).ravel().astype(int)))
    held = np.diff(ends) * step
    # Read every 0.1 ms, short visits are missed: what is seen is longer by 1 / (1 - step / (2 other)).
    rising = up.ravel()[ends[:-1] + 1]
    assert held[rising].mean() == pytest.approx(2e-3, rel=0.05)
    assert held[~rising].mean() == pytest.approx(5e-3, rel=0.06)


def folded(source: NoiseSource, frequency: Array, step: float, pole: float) -> Array:
    """What sampling makes of the density behind a pole, band by band."""
    bands = np.arange(20000)[:, None] / step
    return np.array(
        [
            sum(
                float((source.density(f) / (1 + (f / pole) ** 2)).sum())
                for f in (bands + one, bands + 1 / step - one)
            )
            for one in frequency
        ]
    )


@pytest.mark.parametrize("pole", [20.0, 113.7, 2000.0, 4e4])
@pytest.mark.parametrize("kind", KINDS)
def test_frames_fold_all_that_passes_the_pole(kind: str, pole: float) -> None:
    """White, flicker and a telegraph signal of 1.4 ms (111 Hz), read every 10 ms; bands summed one by one."""
    source, step = KINDS[kind], 10e-3
    x = source.frame_noise(np.random.default_rng(3), (200, 4096), step, pole)
    frequency, density = welch_of(x, step)
    some = np.arange(5, len(frequency), 40)
    near = np.stack([density[some - 1], density[some], density[some + 1]]).mean(axis=0)
    np.testing.assert_allclose(near, folded(source, frequency[some], step, pole), rtol=0.06)
    low = 0.56 / (2 * x.shape[1] * step)  # a sum over k of 1 / k is a logarithm from 0.56 on
    assert x.var() == pytest.approx(source.variance(pole, low), rel=0.03)


def test_a_fast_pole_leaves_frames_of_white_noise_independent() -> None:
    x = KINDS["white"].frame_noise(np.random.default_rng(4), (100, 1000), 10e-3, 4e4)
    assert abs((x[:, 1:] * x[:, :-1]).mean() / x.var()) < 0.01
    slow = KINDS["white"].frame_noise(np.random.default_rng(4), (2000, 100), 10e-3, 3.0)
    kept = math.exp(-2 * np.pi * 0.03)
    assert (slow[:, 1:] * slow[:, :-1]).mean() / slow.var() == pytest.approx(kept, abs=0.01)
    np.testing.assert_allclose(slow.var(axis=0), KINDS["white"].variance(3.0), rtol=0.15)


def test_draws_are_those_of_the_generator() -> None:
    one, two, other = (MIXED.frame_noise(np.random.default_rng(s), (3, 40), 1e-2, 1e4) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)
    assert one.shape == (3, 40)
    assert (MIXED.samples(np.random.default_rng(0), (1,), 1e-3) != 0).all()
    silent = NoiseSource().frame_noise(np.random.default_rng(0), (2, 5), 1e-2, 1e4)
    np.testing.assert_array_equal(silent, 0)


def test_the_element_that_ngspice_gets() -> None:
    pole = 1e5 / (2 * np.pi)  # a time constant of 10 us
    line = NoiseSource(white=2e-28, flicker=1e-24 / np.pi).spice("n1", "a", "0", pole=pole)
    assert line.startswith("In1 a 0 dc 0.0 trnoise(")
    white, step, exponent, slow = map(float, line.partition("(")[2].rstrip(")").split())
    assert (step, exponent, slow) == pytest.approx((2e-6, 1.0, 1e-12))
    assert white**2 == pytest.approx(2e-28 / (2 * step) / interpolated(0.2))
    trap = NoiseSource.telegraph(7e-12, 5e-3, 2e-3).spice("n2", "a", "b")
    assert trap == "In2 a b dc -2e-12 trnoise(0.0 0.0 0.0 0.0 7e-12 0.005 0.002)"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"white": -1e-28}, "noise: white must be >= 0, got -1e-28"),
        ({"flicker": np.nan}, "noise: flicker must be >= 0, got nan"),
        ({"capture": 0.0}, "noise: capture must be > 0, got 0"),
    ],
)
def test_what_is_no_noise_is_refused(values: dict[str, float], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        NoiseSource(**values)


def test_what_has_no_answer_is_refused() -> None:
    with pytest.raises(ConfigError, match="no finite variance"):
        MIXED.rms(0, 1e3)
    with pytest.raises(ConfigError, match="no finite variance"):
        MIXED.variance(1e3)
    with pytest.raises(ConfigError, match="frequencies must rise"):
        MIXED.rms(10, 1)
    with pytest.raises(ConfigError, match="need a pole or a step"):
        MIXED.spice("n", "a", "0")


# --- ngspice ---------------------------------------------------------------------------------------------


def test_shot_noise_in_a_diode_node() -> None:
    """1 nA into 100 fF: 172 uV; with the diode's own 10.5 fF 164 uV. Observed 163 to 166 uV."""
    node = noise_bench.measure_diode(GENERIC)
    assert node.capacitance == pytest.approx(110.5e-15, rel=0.02)
    ideal = math.sqrt(2 * CHARGE * 1e-9 / (4 * node.conductance * 1e-13))
    assert ideal == pytest.approx(172e-6, rel=0.01)
    assert node.noise == pytest.approx(ideal, rel=0.1), "the models' own noise, 1.13 times 2 q I"
    found = noise_bench.shot_noise(GENERIC)
    assert found.measured == pytest.approx(ideal, rel=0.1)
    assert abs(found.error) < 0.07, "five times its scatter"
    share = found.measured * node.conductance / 1e-9
    assert share == pytest.approx(relative_shot_noise(node.capacitance, "n", GENERIC), rel=0.08)


@pytest.mark.parametrize("steps", [0.1, 1.0])
def test_the_correction_holds_for_coarse_samples(steps: float) -> None:
    """Samples 0.1 and 1 time constant apart: 2 and 20 % of the rms would be missing."""
    node = noise_bench.measure_diode(GENERIC)
    step = steps / (2 * np.pi * node.pole)
    assert abs(noise_bench.shot_noise(GENERIC, step=step, time_constants=4000).error) < 0.08


def test_drawn_here_a_run_can_be_repeated() -> None:
    one, two = (noise_bench.shot_noise(GENERIC, time_constants=1000, seed=1) for _ in range(2))
    assert one == two
    assert abs(one.error) < 0.1
    assert one != noise_bench.shot_noise(GENERIC, time_constants=1000, seed=2)


def test_kt_over_c() -> None:
    """Observed within 0.1 % by `.noise`, 0.5 % in transients."""
    small, transient = noise_bench.thermal_noise(GENERIC)
    assert abs(small.error) < 0.01
    assert abs(transient.error) < 0.07


def test_flicker_level() -> None:
    """Observed within 3 %."""
    assert abs(noise_bench.flicker_level(GENERIC).error) < 0.1


def test_telegraph_signal() -> None:
    """Observed within 1 %."""
    for found in noise_bench.telegraph_signal(GENERIC):
        assert abs(found.error) < 0.07, str(found)


def test_all_kinds_in_one_source() -> None:
    """No mean, and the variances add up; the lines between samples leave two thirds of the white part."""
    source, step, count = NoiseSource(white=4e-26, amplitude=2e-11, capture=2e-3, emission=1e-3), 1e-4, 40000
    netlist = source.spice("n", "0", "a", step=step) + "\nR1 a 0 1"
    job = Job(
        title="kinds of noise",
        netlist=netlist,
        analysis=Transient(stop=count * step, max_step=step),
        save=("v(a)",),
        tolerances=noise_bench.TOLERANCES,
        options={"seed": 1},
    )
    x = run(job).sample(np.arange(0, count * step, step / 5))["v(a)"]
    expected = source.telegraph_variance + 2 / 3 * source.white / (2 * step)
    assert x.var() == pytest.approx(expected, rel=0.05)
    assert abs(x.mean()) < 0.1 * math.sqrt(expected)


# --- in a design -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_noise_of_a_branch_is_the_same_in_both_engines() -> None:
    """Eight mirrors of 1 nA with white noise, read once a frame, of which the node's pole is far above."""
    none, eye = np.zeros(8, dtype=np.int64), np.eye(8, dtype=np.int64)
    rows = (
        Input(name="in_pos", polarity="n", diode_units=2, copied=none),
        Input(name="in_neg", polarity="n", diode_units=2, copied=none),
        Mirror(
            name="out", polarity="p", diode_units=2, copied=none, terms=(Term("in_pos", 2 * eye, 1.0 * eye),),
            bias=np.zeros(8), bias_units=1, read=True,
        ),
    )  # fmt: skip
    facts = Facts(
        technology="generic180", unit="fq_bmru", boundary="full", pool="mean", num_classes=8, input_size=8,
        unit_current=1e-9, logit_scale=1.0, quiescent_current=0.0, frame_period=1e-4, ramp=1e-5, supply=0.8,
        temperature_celsius=27.0,
        inputs=["in_pos", "in_neg"], outputs=["out"], states=[],
    )  # fmt: skip
    design, stimulus = Design(facts, rows), make_stimulus(np.ones((1, 100, 8)), 8, 1e-4)
    pole = branch_pole(1e-9, 2 * 10.8e-15, "p", GENERIC)
    noise = {"out": Noise(NoiseSource.shot(1e-9), pole)}
    fast = BehavioralModel(design, noise=noise, seed=1).run(stimulus).logits[0, 10:]
    spice = simulate(design, stimulus, noise=noise).logits[0, 10:]
    assert fast.std(axis=0).mean() == pytest.approx(relative_shot_noise(2 * 10.8e-15, "p", GENERIC), rel=0.1)
    assert spice.std(axis=0).mean() == pytest.approx(fast.std(axis=0).mean(), rel=0.1)
    with pytest.raises(ConfigError, match="no stage called 'elsewhere'"):
        BehavioralModel(design, noise={"elsewhere": noise["out"]})
