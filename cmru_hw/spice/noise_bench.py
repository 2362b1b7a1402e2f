"""Measure noise in ngspice against theory: shot noise in a diode, kT/C, flicker and telegraph sources.

python -m cmru_hw.spice.noise_bench

`.noise` takes the models' own noise, which for a transistor of generic180 is 1.13 times 2 q I with a flicker
corner near 50 Hz at 1 nA; a transient that of `NoiseSource` alone, as transistors and resistors are silent
there. A transient is one draw, so it scatters: shot noise and kT/C by 1 %, the flicker level by 3 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.signal import welch

from cmru_hw.primitives.device import Array
from cmru_hw.primitives.noise_source import BOLTZMANN, NoiseSource
from cmru_hw.spice.job import Job, Noise, Tolerances, Transient
from cmru_hw.spice.netlist import MODELS
from cmru_hw.spice.ngspice import run
from cmru_hw.technology import ZERO_CELSIUS, Polarity, Technology, load_technology

TOLERANCES = Tolerances(gmin=1e-18, abstol=1e-15, vntol=1e-7, reltol=1e-4, chgtol=1e-19)
"""vntol a thousandth of this noise. FAST gave the same rms within 0.3 %, LATCH 0.7 % less."""

SETTLED = 10  # time constants of the slowest part that are left out at the start
READ = 4  # readings a sample: the lines between samples are part of the noise


@dataclass(frozen=True)
class Agreement:
    """A measured number beside what theory says."""

    name: str
    measured: float
    theory: float
    unit: str

    @property
    def error(self) -> float:
        """Relative."""
        return self.measured / self.theory - 1

    def __str__(self) -> str:
        scale, prefix = {"V": (1e6, "u"), "": (1.0, "")}[self.unit]
        values = (
            f"{scale * value:.4g} {prefix}{self.unit}".rstrip() for value in (self.measured, self.theory)
        )
        return f"{self.name}: {next(values)}, theory {next(values)} ({100 * self.error:+.1f} %)"


@dataclass(frozen=True)
class DiodeNode:
    """A diode node's conductance (S), capacitance in all (F) and noise (V rms) by `.noise`.

    A unit transistor of generic180 as a diode brings 10.5 fF (n) or 10.8 fF (p) at 1 nA.
    """

    conductance: float
    capacitance: float
    noise: float

    @property
    def pole(self) -> float:
        """Hz."""
        return self.conductance / (2 * math.pi * self.capacitance)


def _diode(
    technology: Technology, polarity: Polarity, current: float, capacitance: float, units: int, noise: str
) -> str:
    unit, supply = technology.unit, technology.supply
    size = f"W={unit.w_um:g}u L={unit.l_um:g}u M={units}"
    biased = "Ib vdd d" if polarity == "n" else "Ib d 0"
    tied = "X1 d d 0 0 nfet" if polarity == "n" else "X1 d d vdd vdd pfet"
    lines = [f".include {MODELS}", f"Vdd vdd 0 {supply!r}", f"{biased} {current!r}", f"{tied} {size}"]
    return "\n".join([*lines, f"C1 d 0 {capacitance!r}", noise])


def measure_diode(
    technology: Technology,
    polarity: Polarity = "n",
    current: float = 1e-9,
    capacitance: float = 1e-13,
    units: int = 1,
) -> DiodeNode:
    """A diode of unit transistors that carries `current` (A), with `capacitance` (F) besides its own."""
    job = Job(
        title="noise of a diode",
        netlist=_diode(technology, polarity, current, capacitance, units, "Iprobe 0 d dc 0 ac 1"),
        analysis=Noise("d", "iprobe", 1e-1, 1e9, 50),
        tolerances=TOLERANCES,
        temperature=technology.temperature_celsius,
        files={MODELS: technology.model_text},
    )
    data = run(job)
    impedance = data["onoise_spectrum"] / data["inoise_spectrum"]
    flat = float(impedance[0])
    pole = float(np.exp(np.interp(math.log(math.sqrt(2)), np.log(flat / impedance), np.log(data.abscissa))))
    total = float(data["v(onoise_total)"].item())
    return DiodeNode(1 / flat, 1 / (2 * math.pi * pole * flat), total)


def shot_noise(
    technology: Technology,
    polarity: Polarity = "n",
    current: float = 1e-9,
    capacitance: float = 1e-13,
    step: float | None = None,
    time_constants: float = 5000.0,
    seed: int | None = None,
) -> Agreement:
    """Voltage of a diode node under its branch's shot noise in a transient; theory sqrt(2 q I / (4 gm C)).

    gm and C are measured, C with the diode's own. With a `seed` the noise is drawn here and can be repeated.
    """
    node = measure_diode(technology, polarity, current, capacitance)
    source = NoiseSource.shot(current)
    constant = 1 / (2 * math.pi * node.pole)
    step = step or constant / 5
    stop = time_constants * constant
    if seed is None:
        line = source.spice("noise", "0", "d", pole=node.pole, step=step)
    else:
        points = source.waveform(np.random.default_rng(seed), stop, pole=node.pole, step=step)
        line = "Inoise 0 d pwl(" + " ".join(f"{t:.9g} {a:.9g}" for t, a in points) + ")"
    volts = _transient(
        technology,
        _diode(technology, polarity, current, capacitance, 1, line),
        "d",
        stop,
        step,
        SETTLED * constant,
    )
    theory = math.sqrt(source.white / (4 * node.conductance * node.capacitance))
    return Agreement("shot noise, transient", float(volts.std()), theory, "V")


def thermal_noise(
    technology: Technology,
    resistance: float = 1e9,
    capacitance: float = 1e-13,
    time_constants: float = 5000.0,
) -> tuple[Agreement, Agreement]:
    """sqrt(kT/C) of a resistor (ohm) and a capacitor (F), by `.noise` and in a transient."""
    constant = resistance * capacitance
    celsius = technology.temperature_celsius
    circuit = f"R1 a 0 {resistance!r}\nC1 a 0 {capacitance!r}\n"
    job = Job(
        title="noise of a resistor and a capacitor",
        netlist=circuit + "Iprobe 0 a dc 0 ac 1",
        analysis=Noise("a", "iprobe", 1e-5 / constant, 1e4 / constant, 50),
        tolerances=TOLERANCES,
        temperature=celsius,
    )
    small = float(run(job)["v(onoise_total)"].item())
    pole = 1 / (2 * math.pi * constant)
    source, step = NoiseSource.thermal(1 / resistance, celsius), constant / 5
    line = source.spice("noise", "0", "a", pole=pole, step=step)
    volts = _transient(technology, circuit + line, "a", time_constants * constant, step, SETTLED * constant)
    theory = math.sqrt(BOLTZMANN * (celsius + ZERO_CELSIUS) / capacitance)
    return (
        Agreement("kT/C, .noise", small, theory, "V"),
        Agreement("kT/C, transient", float(volts.std()), theory, "V"),
    )


def spectrum(
    technology: Technology, source: NoiseSource, step: float, count: int, segment: int, seed: int = 1
) -> tuple[Array, Array]:
    """Frequencies (Hz) and density (A^2/Hz) of what ngspice makes of a source, by Welch's method.

    `count` readings, `step` s apart as its samples are, in segments of `segment`.
    """
    line = source.spice("noise", "0", "a", step=step)
    amperes = _transient(technology, line + "\nR1 a 0 1", "a", count * step, step, 0.0, reads=1, seed=seed)
    frequency, density = welch(amperes, 1 / step, nperseg=segment)
    return frequency[1:], density[1:]


def flicker_level(technology: Technology, step: float = 1e-4, count: int = 40000) -> Agreement:
    """Mean of S f / K over a decade and a half, up to a twentieth of the sampling rate."""
    source = NoiseSource(flicker=1e-24)
    frequency, density = spectrum(technology, source, step, count, 2048)
    band = (frequency > 3 / (2048 * step)) & (frequency < 0.05 / step)
    ratio = density[band] * frequency[band] / source.flicker
    return Agreement("flicker, S f / K", float(ratio.mean()), 1.0, "")


def telegraph_signal(
    technology: Technology,
    capture: float = 5e-3,
    emission: float = 2e-3,
    switches: float = 20000.0,
    seed: int = 1,
) -> tuple[Agreement, Agreement]:
    """Variance, and density averaged over two decades around its corner, over theory."""
    source = NoiseSource.telegraph(2e-11, capture, emission)
    step = source.correlation_time / 10
    count = int(switches * (capture + emission) / 2 / step)
    line = source.spice("noise", "0", "a")
    amperes = _transient(technology, line + "\nR1 a 0 1", "a", count * step, step, 0.0, reads=1, seed=seed)
    frequency, density = welch(amperes, 1 / step, nperseg=2048)
    corner = 1 / (2 * math.pi * source.correlation_time)
    band = (frequency > 0.1 * corner) & (frequency < 3 * corner)
    # Reading every tenth of the correlation time folds a little back; it is known.
    kept = math.exp(-0.1)
    angle = 2 * math.pi * frequency[band] * step
    folded = 2 * step * source.telegraph_variance * (1 - kept**2) / (1 - 2 * kept * np.cos(angle) + kept**2)
    return (
        Agreement("telegraph, variance", float(amperes.var()) / source.telegraph_variance, 1.0, ""),
        Agreement("telegraph, density", float(np.mean(density[band] / folded)), 1.0, ""),
    )


def _transient(
    technology: Technology, netlist: str, node: str, stop: float, step: float, settle: float,
    reads: int = READ, seed: int = 1,
) -> Array:  # fmt: skip
    """Readings of a node from `settle` (s) on, `reads` a sample."""
    job = Job(
        title="noise in a transient",
        netlist=netlist,
        analysis=Transient(stop=stop, max_step=step, print_step=step),
        save=(f"v({node})",),
        tolerances=TOLERANCES,
        temperature=technology.temperature_celsius,
        files={MODELS: technology.model_text} if MODELS in netlist else {},
        options={"seed": seed},
    )
    at = np.arange(settle, stop, step / reads)
    return run(job).sample(at)[f"v({node})"]


def measure(technology: Technology) -> Iterator[Agreement]:
    """All of the comparisons, in turn."""
    node = measure_diode(technology)
    theory = math.sqrt(NoiseSource.shot(1e-9).white / (4 * node.conductance * node.capacitance))
    yield Agreement("shot noise, .noise", node.noise, theory, "V")
    yield shot_noise(technology)
    yield from thermal_noise(technology)
    yield flicker_level(technology)
    yield from telegraph_signal(technology)


if __name__ == "__main__":
    for each in measure(load_technology("generic180")):
        print(each)
