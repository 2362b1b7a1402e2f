"""The 9-transistor current-mode bistable latch: one FQ-BMRU cell.

    bit' = 1 if c >= beta_hi,  0 if c < beta_lo,  else bit;      output = I_gain bit

Node v0 receives the candidate c and, while v0 is high, a feedback I_width; it loses I_thresh. Ideally
beta_hi = I_thresh and beta_lo = I_thresh - I_width. Measured, the upper threshold lies 1-6 % below that,
because the feedback switch conducts a little before v0 has risen, so the programmed currents are
pre-distorted with thresholds measured in ngspice (`LatchCalibration`).
Source: the FQ-BMRU and its cell, arXiv 2605.15216. Circuit: `circuits/latch_9t.sub`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numba import vectorize
from scipy.interpolate import RegularGridInterpolator
from scipy.optimize import brentq

from cmru_hw.errors import ConfigError
from cmru_hw.primitives.branch_noise import Spectrum, reference_noise, shot
from cmru_hw.primitives.device import Array, DeviceArray, Shifts, Single, Units, strength
from cmru_hw.primitives.signal import (
    Decider,
    Frame,
    Load,
    Memory,
    Signal,
    gate,
    over_batch,
    rail,
    reference_current,
    shift,
    source_net,
    transistor,
)
from cmru_hw.technology import Polarity, Technology, interpolated

if TYPE_CHECKING:
    from PySpice.Spice.Netlist import SubCircuit

SUBCIRCUIT = "latch_9t"
REFERENCES = ("threshold", "width", "gain")
_TRANSISTORS: dict[str, Polarity] = {
    "m1": "p", "m2": "n", "m3": "n", "m5": "n", "m6": "n", "m7": "p", "m8": "n", "m9": "p",
}  # fmt: skip
_SWITCHES = ("m3", "m6")


@dataclass(frozen=True, eq=False)
class LatchCalibration:
    """Thresholds measured in ngspice on a grid of programmed currents, as fractions of I_thresh.

    `threshold` [n] (A), `ratio` [m] = I_width / I_thresh, `up` and `down` [n, m]; output currents
    `output` [k] relative to the programmed `gain` [k] (A).
    """

    threshold: Array
    ratio: Array
    up: Array
    down: Array
    gain: Array
    output: Array

    def __post_init__(self) -> None:
        axes = (np.log(self.threshold), self.ratio)
        object.__setattr__(self, "_up", RegularGridInterpolator(axes, self.up))
        object.__setattr__(self, "_down", RegularGridInterpolator(axes, self.down))

    def forward(self, i_thresh: Array, i_width: Array) -> tuple[Array, Array]:
        """Upper and lower threshold (A) of latches programmed so. Outside the grid the edge ratio serves."""
        i_thresh, i_width = np.broadcast_arrays(i_thresh, i_width)
        low, high = self.threshold[0], self.threshold[-1]
        at = np.log(np.clip(i_thresh, low, high)), np.clip(i_width / i_thresh, 0.0, self.ratio[-1])
        points = np.stack(at, axis=-1)
        return i_thresh * self._up(points), i_thresh * self._down(points)  # type: ignore[attr-defined]

    def output_gain(self, i_gain: Array) -> Array:
        """Output current of a set latch relative to its programmed I_gain."""
        return np.interp(np.log(np.maximum(i_gain, 1e-15)), np.log(self.gain), self.output)

    def programmed_gain(self, output: Array) -> Array:
        """I_gain (A) that gives an output current; beyond the table its edge ratio serves."""
        measured = np.log(self.gain * self.output)
        gain = np.interp(np.log(np.maximum(output, 1e-15)), measured, self.output)
        return output / gain

    def upper_range(self) -> tuple[float, float]:
        """Upper thresholds (A) that can be programmed whatever the width."""
        return float(self.threshold[0] * self.up[0].max()), float(self.threshold[-1] * self.up[-1].min())

    def programmed(self, beta_hi: float, beta_lo: float) -> tuple[float, float]:
        """I_thresh and I_width (A) that give these thresholds. Raises ValueError outside the grid."""

        def thresholds(i_thresh: float, ratio: float) -> tuple[float, float]:
            up, down = self.forward(np.array(i_thresh), np.array(ratio * i_thresh))
            return float(up.item()), float(down.item())

        def i_thresh_for(ratio: float) -> float:
            low, high = self.threshold[0], self.threshold[-1]
            if not thresholds(low, ratio)[0] <= beta_hi <= thresholds(high, ratio)[0]:
                raise ValueError(f"threshold {beta_hi:.4g} A is outside the characterised range")
            return brentq(lambda x: thresholds(x, ratio)[0] - beta_hi, low, high, xtol=1e-18, rtol=1e-12)

        if beta_lo >= beta_hi:
            return i_thresh_for(0.0), 0.0
        widest = float(self.ratio[-1])
        if beta_lo <= thresholds(i_thresh_for(widest), widest)[1]:
            ratio = widest
        else:
            ratio = brentq(lambda r: thresholds(i_thresh_for(r), r)[1] - beta_lo, 0.0, widest, xtol=1e-9)
        i_thresh = i_thresh_for(ratio)
        return i_thresh, ratio * i_thresh


AXES = {"celsius": ("temperature", " C"), "supply": ("supply", " V"), "unit_area": ("unit_area", "")}
"""What the latch was measured over, with its name and unit."""


@lru_cache(maxsize=64)
def load_calibration(
    technology_name: str, path: Path, model_hash: str, celsius: float, supply: float, corner: str,
    unit_area: float,
) -> LatchCalibration:  # fmt: skip
    """The latch calibration shipped with a card, at a temperature (Celsius), supply (V), corner and size.

    The first table is nominal. Others are on the axes of supply and size through it, and over temperature at
    each corner; what several of them change is added. Raises ConfigError if it was measured on other models,
    or not at that temperature, supply, corner or size.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        axes = {key: np.array(content[key], dtype=float) for key in ("threshold", "ratio", "gain")}
        tables = content["tables"]
        middle = {axis: tables[0][axis] for axis in AXES} | {"corner": corner}
        centre = next((table for table in tables if middle.items() <= table.items()), None)
        if centre is None:
            raise ConfigError(f"{path}: corner: latches were not characterised at {corner}")
        found = {key: np.array(centre[key], dtype=float) for key in ("up", "down", "output")}
        for axis, value, through in (
            ("celsius", celsius, centre), ("supply", supply, tables[0]), ("unit_area", unit_area, tables[0]),
        ):  # fmt: skip
            for key, change in _changes(tables, through, axis, value, path).items():
                found[key] = found[key] + change
        measured_on = content["provenance"]["model_hash"]
        calibrated = LatchCalibration(**axes, **found)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(f"{path}: not a latch calibration: {error}") from error
    if measured_on != model_hash:
        raise ConfigError(
            f"{path}: was measured on other models than {technology_name}'s "
            f"(hash {measured_on[:12]}, models {model_hash[:12]}); characterize the latch again"
        )
    return calibrated


def _changes(
    tables: list[dict[str, Any]], centre: dict[str, Any], axis: str, value: float, path: Path
) -> dict[str, Array]:
    """What moving along one axis from a table to `value` adds to each quantity."""
    others = {name: centre[name] for name in (*AXES, "corner") if name != axis}
    along = [table for table in tables if others.items() <= table.items()]
    along.sort(key=lambda table: float(table[axis]))
    grid = np.array([table[axis] for table in along], dtype=float)
    if not grid[0] - 1e-9 <= value <= grid[-1] + 1e-9:
        what, unit = AXES[axis]
        raise ConfigError(
            f"{path}: {what}: latches were characterised from {grid[0]:g} to {grid[-1]:g}{unit}, "
            f"not at {value:g}{unit}"
        )
    at, middle = value, centre[axis]
    if axis == "unit_area":
        grid, at, middle = np.log(grid), float(np.log(at)), float(np.log(middle))
    found: dict[str, Array] = {}
    for key in ("up", "down", "output"):
        stack = np.array([table[key] for table in along], dtype=float)
        found[key] = interpolated(grid, stack, at) - interpolated(grid, stack, middle)
    return found


def calibration(technology: Technology) -> LatchCalibration:
    """The latch calibration of a technology, at its temperature, supply, corner and size."""
    return load_calibration(
        technology.name, technology.folder / technology.calibration / "latch.json", technology.model_hash,
        technology.temperature_celsius, technology.supply, technology.corner, technology.unit_area,
    )  # fmt: skip


@vectorize([f"float{n}(float{n}, float{n}, float{n}, float{n})" for n in (32, 64)], cache=True)
def _decided(candidate: float, gain: float, up: float, down: float) -> float:
    """What a candidate asks for."""
    c = candidate * gain
    return 1.0 if c >= up else (-1.0 if c < down else 0.0)


@vectorize([f"float{n}(float{n}, float{n}, float{n})" for n in (32, 64)], cache=True)
def _moved(state: float, decision: float, lowest: float) -> float:
    """The state after a decision."""
    return 1.0 if decision > 0.0 else (lowest if decision < 0.0 else state)


@dataclass(frozen=True, eq=False, kw_only=True)
class Latch(Memory, Decider):
    """A row of latches. Programmed currents in A, [size]; `initial_state` 0/1; `capacitance` on v0 in F.

    The state is the `bit`, 0 or 1, or a `sign`, -1 or 1.
    """

    kind: ClassVar[str] = "latch"
    cell_file: ClassVar[str] = "latch_9t.sub"
    candidate: str
    i_threshold: Array
    i_width: Array
    i_gain: Array
    initial_state: Units
    capacitance: float
    holds: Literal["bit", "sign"] = "bit"
    read: bool = False

    @property
    def measured(self) -> bool:
        return self.read

    @property
    def lowest(self) -> float:
        return 0.0 if self.holds == "bit" else -1.0

    @property
    def extremes(self) -> Array:
        return np.stack([np.full(self.size, self.lowest), np.ones(self.size)])

    @property
    def counts(self) -> bool:
        return False

    @property
    def threshold_row(self) -> None:
        return None

    @property
    def decider(self) -> str:
        return self.name

    def taken(self) -> list[tuple[str, int]]:
        """The candidates."""
        return [(self.candidate, self.size)]

    def loads(self, signals: Mapping[str, Signal], technology: Technology) -> Iterator[Load]:
        """M1."""
        for j in range(self.size):
            yield Load(self.candidate, gate(self.candidate, j), "p", technology.latch_units)

    def check_measured(self, technology: Technology) -> None:
        """Raises ConfigError for a temperature, supply or size without a calibration."""
        calibration(technology)

    def start(self, currents: Any = None) -> Array:
        """The initial states."""
        return np.where(self.initial_state > 0, 1.0, self.lowest).astype(Single)

    def initial_voltages(self, supply: float) -> dict[str, float]:
        """v0 at the rail of its initial bit."""
        return {self.stored(j): supply * float(bit) for j, bit in enumerate(self.initial_state)}

    def state_vectors(self) -> list[str]:
        """v0 of every latch."""
        return [f"v({self.stored(j)})" for j in range(self.size)]

    def read_state(self, vectors: Array, supply: float) -> Array:
        """The states."""
        return np.where(vectors > supply / 2, 1.0, self.lowest)

    def candidate_rows(self) -> list[str]:
        """The candidates."""
        return [self.candidate]

    @property
    def shaken(self) -> str:
        return self.candidate

    def candidate_noise(self, frame: Frame, currents: Mapping[str, Array]) -> Array:
        """That of the candidate's node, as it is at the frame's end."""
        return frame.noise[self.candidate, "p"].variance

    def noise_sources(
        self, frame: Frame, currents: Mapping[str, Array]
    ) -> tuple[Array | float, Spectrum | None, Array | float]:
        """I_gain's mirror and its reference."""
        value, units = frame.values[self.name], frame.technology.latch_units
        reference = reference_noise(value, "n", units, units, frame.technology)
        return shot(value, "n", frame.technology), reference, 0.0

    def drains(self, technology: Technology) -> Array | float:
        """M5's, behind M6."""
        return technology.latch_units * technology.drain_capacitance.n

    def candidates(self, values: Mapping[str, Array]) -> Array:
        """The candidates, at their diodes."""
        return values[self.candidate]

    def thresholds(self, currents: Mapping[str, Array], values: Mapping[str, Array]) -> tuple[Array, Array]:
        """Upper and lower threshold at the candidate's diode."""
        return currents["up"] / currents["candidate"], currents["down"] / currents["candidate"]

    def devices(self, technology: Technology) -> dict[str, DeviceArray]:
        """Every transistor by part: M1-M9 (M4 is `diode`) and the three reference diodes."""
        one = np.ones(self.size, dtype=np.int64)
        parts = self.signal_devices(technology)
        for part, polarity in _TRANSISTORS.items():
            if part in _SWITCHES:
                parts[part] = DeviceArray(polarity, one, technology.switch)
            else:
                parts[part] = DeviceArray(polarity, one * technology.latch_units, technology.unit)
        for name in REFERENCES:
            parts[f"reference_{name}"] = DeviceArray("n", one * technology.latch_units, technology.unit)
        return parts

    def currents(
        self, signals: Mapping[str, Signal], shifts: Shifts, technology: Technology
    ) -> dict[str, Array]:
        """What a chip's mismatch makes of the cell: candidate gain, `up`, `down` and `gain` (A)."""
        per_unit = signals[self.candidate].gain_per_unit("p", shifts, technology)
        candidate = technology.latch_units * per_unit
        i_threshold, i_width, i_gain = self.i_threshold, self.i_width, self.i_gain
        early = np.asarray(1.0)
        if shifts:

            def part(name: str) -> Array:
                return strength(shifts[f"{self.name}.{name}"], _TRANSISTORS.get(name, "n"), technology)

            candidate = candidate * part("m1")
            i_threshold = i_threshold * part("m2") / part("reference_threshold")
            i_width = i_width * part("m8") / part("reference_width") * part("m9") / part("m7")
            i_gain = i_gain * part("m5") / part("reference_gain")
            # The upper threshold trips early by the current at which M6's exponential meets that of v0:
            # a shift of M6 moves v0 there by n/(n+1) of itself, the early current by exp(-dV/((n+1) U_T)).
            n = technology.slope_factor.n
            early = np.exp(-shifts[f"{self.name}.m6"] / ((n + 1) * technology.thermal_voltage))
        table = calibration(technology)
        up, down = table.forward(i_threshold, i_width)
        return {
            "candidate": candidate,
            "up": i_threshold - (i_threshold - up) * early,
            "down": down,
            "gain": i_gain * table.output_gain(i_gain),
            "i_threshold": i_threshold,
            "i_width": i_width,
        }

    @staticmethod
    def decide(candidate: Array, currents: Mapping[str, Array]) -> Array:
        """What a candidate, [..., size] in A at its diode, asks for: 1 set, -1 reset, 0 hold."""
        gain, up, down = (over_batch(currents[key]) for key in ("candidate", "up", "down"))
        return np.asarray(_decided(candidate, gain, up, down))

    def step(self, state: Array, decision: Array) -> Array:
        """The states after a frame."""
        return np.asarray(_moved(state, decision, self.lowest))

    @staticmethod
    def output(bit: Array, currents: Mapping[str, Array]) -> Array:
        """Output current in A."""
        return bit * over_batch(currents["gain"])

    def supply_current(
        self, bit: Array, candidate: Array, output: Array, currents: Mapping[str, Array]
    ) -> Array:
        """Current from the supply (A): v0 never takes more than I_thresh; feedback and output when set."""
        c = candidate * over_batch(currents["candidate"])
        i_threshold, i_width = (over_batch(currents[key]) for key in ("i_threshold", "i_width"))
        latch = np.minimum(c + i_width * bit, i_threshold) + i_width * bit
        return (latch + output * (1 + self.copied)).sum(-1)

    def advance(self, frame: Frame, currents: Mapping[str, Array]) -> None:
        """The states at the frame's end, when it has settled."""
        candidate = frame.values[self.candidate]
        state = self.step(frame.before[self.name], self.decide(candidate, currents))
        state = self.held(state, currents)
        bit = (state > 0).astype(Single)
        output = self.output(bit, currents)
        frame.states[self.name], frame.values[self.name] = state, output
        if frame.metered:
            frame.drawn[self.name] = self.supply_current(bit, candidate, output, currents)

    @property
    def bias_current(self) -> float:
        """Current of the reference branches (A)."""
        return float(self.i_threshold.sum() + self.i_width.sum() + self.i_gain.sum())

    def subcircuit(self, signals: Mapping[str, Signal], shifts: Shifts, technology: Technology) -> SubCircuit:
        """The latches as a SPICE cell; v0 of latch j is the port `{name}_{j}_v0`."""
        from PySpice.Spice.Netlist import SubCircuit

        candidates = [gate(self.candidate, j) for j in range(self.size)]
        stored = [self.stored(j) for j in range(self.size)]
        cell = SubCircuit(self.name, "vdd", "vbias", *self.ports(), *stored, *candidates)
        cell.raw_spice = self._comments()
        self.draw_signal(cell, shifts, technology, diode=False)
        unit, switch = technology.unit, technology.switch
        for j in range(self.size):
            for name in REFERENCES:
                amperes = float(getattr(self, f"i_{name}")[j])
                net = f"{name}_{j}"
                reference_current(cell, net, net, "n", amperes)
                transistor(
                    cell, f"reference_{name}_{j}", "n", net, net, rail("n"), technology.latch_units,
                    shift(shifts, f"{self.name}.reference_{name}", j), technology,
                )  # fmt: skip
            parameters = {
                "W": f"{unit.w_um:g}u", "L": f"{unit.l_um:g}u", "WS": f"{switch.w_um:g}u",
                "LS": f"{switch.l_um:g}u", "U": technology.latch_units, "UOUT": self.diode_units,
                "C0": repr(self.capacitance),
            }  # fmt: skip
            if shifts:
                for number in range(1, 10):
                    part = "diode" if number == 4 else f"m{number}"
                    parameters[f"D{number}"] = repr(shift(shifts, f"{self.name}.{part}", j))
            nets = [f"{name}_{j}" for name in REFERENCES]
            cell.X(
                f"latch_{j}", SUBCIRCUIT, candidates[j], *nets, gate(self.name, j), stored[j], "vdd",
                source_net(self.name, j) if self.measured else "vdd", **parameters,
            )  # fmt: skip
        return cell

    def stored(self, index: int) -> str:
        """Net that holds the bit."""
        return f"{self.name}_{index}_v0"

    def _comments(self) -> str:
        return "".join(
            f"* {gate(self.name, j)}: I_thresh {self.i_threshold[j]:.5g} A, I_width {self.i_width[j]:.5g} A, "
            f"I_gain {self.i_gain[j]:.5g} A\n"
            for j in range(self.size)
        )
