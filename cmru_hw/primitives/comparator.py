"""Clocked current window comparator, with its clock: where a BMRU or CMRU decides whether its state moves.

    up = [P - M > beta],   down = [M - P > beta];      the candidate is c = P - M, beta >= 0

Two halves of six transistors. In the `up` half one mirror pushes P into a node, two push M and beta into
the other, and a cross-coupled nMOS pair sinks both. While the clock phase `pe` is high the pair is shorted:
both nodes rest at the gate voltage of a nA device, where the logic behind passes only leakage, so that no
slow node ever holds logic at its threshold. When `pe` falls the pair regenerates to full rails, the larger
side up, and stays. `pe` falls slowly: an edge of 1 us would shift the threshold by 7 pA.
Mismatch: each mirror's current is off by exp(-dV_T / (n U_T)); the pair weighs the two sides by the
strengths of its transistors, raised to `pair_weight`, measured in ngspice.
Source: candidate and threshold of the BMRU, arXiv 2601.09495, and the CMRU, arXiv 2605.11855; the circuit is
ours. Circuit: `circuits/window_comparator.sub`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numba import vectorize

from cmru_hw.config import Strict
from cmru_hw.errors import MappingError
from cmru_hw.primitives.branch_noise import Spectrum, conductance, decision_bandwidth, shot
from cmru_hw.primitives.clock import BankClock, clock_net
from cmru_hw.primitives.device import Array, DeviceArray, Shifts, Single, strength
from cmru_hw.primitives.signal import (
    Decider,
    Frame,
    Load,
    Signal,
    gate,
    over_batch,
    rail,
    reference_current,
    shift,
    transistor,
)
from cmru_hw.technology import Geometry, Polarity, Technology

if TYPE_CHECKING:
    from PySpice.Spice.Netlist import SubCircuit

SUBCIRCUIT = "current_comparator"
HALVES = ("up", "down")
_TRANSISTORS: dict[str, Polarity] = {
    "win": "p", "lose": "p", "threshold": "p", "pair_out": "n", "pair_rest": "n", "equaliser": "n",
}  # fmt: skip
_MIRRORS = ("win", "lose", "threshold")


class ComparatorGeometry(Strict):
    """What a technology card says about the comparator, under `cells.window_comparator`."""

    pair: Geometry  # wide: its gate voltage at the mirrors' currents must stay below the logic's threshold
    equaliser: Geometry
    node_capacitance: float  # F at each node of a pair, besides the drains of its mirrors
    clock_capacitance: float  # F that a pe pulse charges in one cell
    pair_weight: float  # d ln(trip current) / d ln(strength of the pair transistor on its side)


def node_capacitance(technology: Technology) -> float:
    """F at each node of a pair, mean of the two; times the supply, the charge of a decision."""
    drains = len(_MIRRORS) / 2 * technology.latch_units * technology.drain_capacitance.p
    return comparator_geometry(technology).node_capacitance + drains


def smallest_threshold(clock: BankClock, technology: Technology) -> float:
    """The smallest beta (A) that charges its node before the strobe."""
    return node_capacitance(technology) * technology.supply / clock.evaluation


def comparator_geometry(technology: Technology) -> ComparatorGeometry:
    """The comparator's part of a card. Raises MappingError where the technology has none."""
    return technology.cell("window_comparator", ComparatorGeometry)


@vectorize(
    [f"float{n}(float{n}, float{n}, float{n}, float{n}, float{n}, float{n})" for n in (32, 64)], cache=True
)
def _says(own: float, other: float, beta: float, win: float, lose: float, threshold: float) -> float:
    """A half's decision."""
    return 1.0 if win * own > lose * other + threshold * beta else 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class WindowComparator(Decider):
    """A row of comparators. As a `Signal` it is its threshold: the diode that carries beta.

    `positive` and `negative` name the rows P and M, whose pMOS gate nets it takes. `i_threshold` is beta in
    A, [size]; where `threshold_signal` names a row of currents instead, it is 0 and that row's gates serve.
    """

    kind: ClassVar[str] = "comparator"
    cell_file: ClassVar[str] = "window_comparator.sub"
    positive: str
    negative: str
    i_threshold: Array
    threshold_signal: str | None = None
    clock: str

    def __post_init__(self) -> None:
        if self.polarity != "p" or self.copied.any():
            raise MappingError(f"{self.name}: a comparator's threshold is a pMOS diode without copies")
        wrong = self.i_threshold != 0 if self.threshold_signal else ~(self.i_threshold > 0)
        if wrong.any():
            j = int(np.argmax(wrong))
            rule = f"0, as {self.threshold_signal} sets it" if self.threshold_signal else "> 0"
            raise MappingError(f"{self.name}: unit {j}: beta must be {rule}, got {self.i_threshold[j]:g} A")

    def sources(self) -> list[str]:
        """Names of the rows it takes."""
        return [self.positive, self.negative, *([self.threshold_signal] if self.threshold_signal else [])]

    def taken(self) -> list[tuple[str, int]]:
        """The rows, each of its own size."""
        return [(name, self.size) for name in self.sources()]

    def loads(self, signals: Mapping[str, Signal], technology: Technology) -> Iterator[Load]:
        """A transistor a half."""
        for name in self.sources():
            for j in range(self.size):
                yield Load(name, gate(name, j), "p", len(HALVES) * technology.latch_units)

    def start(self, currents: Any = None) -> Array:
        """No decision yet."""
        return np.zeros(self.size, Single)

    def initial_voltages(self, supply: float) -> dict[str, float]:
        """No decision yet."""
        return dict.fromkeys(self.decisions(), 0.0)

    def clock_nets(self) -> list[str]:
        """The phase it takes."""
        return [clock_net(self.clock, "pe")]

    @property
    def threshold_row(self) -> str | None:
        return self.threshold_signal

    def candidate_rows(self) -> list[str]:
        """P, M and, where it is a signal, beta."""
        return self.sources()

    @property
    def shaken(self) -> str:
        return self.positive

    def candidate_noise(self, frame: Frame, currents: Mapping[str, Array]) -> Array:
        """Of P, M, beta, their mirrors and the pair, in the bandwidth of a decision."""
        technology, values = frame.technology, frame.values
        capacitance = node_capacitance(technology)
        rows = [frame.noise[name, "p"] for name in self.sources()]
        if self.threshold_signal:
            beta = values[self.threshold_signal]
        else:
            beta = self.i_threshold
            node, _ = frame.capacitances[self.name]
            bandwidth = conductance(self.i_threshold, "p", technology) / (4 * node)
            rows.append(Spectrum.white(shot(self.i_threshold, "p", technology), bandwidth))
        flows = values[self.positive] + values[self.negative] + beta
        heard = decision_bandwidth(flows / 2, capacitance, frame.clocks[self.clock].fall, technology)
        own = shot(flows, "p", technology) + shot(flows, "n", technology)
        return np.asarray(own * heard + sum(row.through(heard).variance for row in rows))

    def candidates(self, values: Mapping[str, Array]) -> Array:
        """c = P - M."""
        return values[self.positive] - values[self.negative]

    def thresholds(self, currents: Mapping[str, Array], values: Mapping[str, Array]) -> tuple[Array, Array]:
        """+beta and -beta at the diodes of P and M."""
        up, down = (currents["threshold"][..., k] / currents["win"][..., k] for k in range(2))
        if not self.threshold_signal:
            return up, -down
        beta = values[self.threshold_signal]
        return beta * over_batch(up), -beta * over_batch(down)

    def advance(self, frame: Frame, currents: Mapping[str, Array]) -> None:
        """The decisions of this frame."""
        technology, clock = frame.technology, frame.clocks[self.clock]
        rows = frame.values[self.positive], frame.values[self.negative]
        beta = frame.values[self.threshold_signal] if self.threshold_signal else None
        decision = self.step(*rows, currents, beta)
        frame.states[self.name] = decision
        frame.values[self.name] = self.i_threshold
        if frame.metered:
            win, lose, threshold = (over_batch(currents[key][..., 0]) for key in ("win", "lose", "threshold"))
            frame.drawn[self.name] = self.supply_current(
                frame.before[self.name], decision, win * rows[0], lose * rows[1],
                threshold * (1.0 if beta is None else beta), clock, technology.supply, technology,
            )  # fmt: skip

    def devices(self, technology: Technology) -> dict[str, DeviceArray]:
        """Every transistor by part, [size, 2 halves], and the diode that carries the threshold."""
        geometry = comparator_geometry(technology)
        sizes = {"pair_out": geometry.pair, "pair_rest": geometry.pair, "equaliser": geometry.equaliser}
        one = np.ones((self.size, len(HALVES)), dtype=np.int64)
        parts = {} if self.threshold_signal else {"diode": self.signal_devices(technology)["diode"]}
        for part, polarity in _TRANSISTORS.items():
            if part in _MIRRORS:
                parts[part] = DeviceArray(polarity, one * technology.latch_units, technology.unit)
            else:
                parts[part] = DeviceArray(polarity, one, sizes[part])
        return parts

    def currents(
        self, signals: Mapping[str, Signal], shifts: Shifts, technology: Technology
    ) -> dict[str, Array]:
        """What a chip's mismatch makes of the cells, [..., size, 2 halves].

        `win` and `lose` weigh the two rows and `threshold` is in A: a half says 1 where
        win I(win) > lose I(lose) + threshold. With a `threshold_signal` it weighs that row.
        """
        gains = {
            name: technology.latch_units * signals[name].gain_per_unit("p", shifts, technology)[..., None]
            for name in self.sources()
        }
        if self.threshold_signal:
            threshold = gains[self.threshold_signal]
        else:
            own = technology.latch_units * self.gain_per_unit("p", shifts, technology)
            threshold = (self.i_threshold * own)[..., None]
        order = [self.positive, self.negative]
        found = {
            "win": np.concatenate([gains[name] for name in order], axis=-1),
            "lose": np.concatenate([gains[name] for name in reversed(order)], axis=-1),
            "threshold": threshold * np.ones(len(HALVES)),
        }
        if shifts:
            for part in _MIRRORS:
                found[part] = found[part] * strength(shifts[f"{self.name}.{part}"], "p", technology)
            rest, out = (
                strength(shifts[f"{self.name}.{part}"], "n", technology) for part in ("pair_rest", "pair_out")
            )
            # The side whose transistor sinks more has to bring more: the ratio decides.
            found["win"] = found["win"] * (rest / out) ** comparator_geometry(technology).pair_weight
        return found

    def step(
        self, positive: Array, negative: Array, currents: Mapping[str, Array], threshold: Array | None = None
    ) -> Array:
        """The decisions, up less down, in -1, 0, 1; rows [..., batch, size] in A at their diodes.

        `threshold` is the row named by `threshold_signal`.
        """
        up, down = (
            [over_batch(currents[key][..., half]) for key in ("win", "lose", "threshold")]
            for half in range(len(HALVES))
        )
        beta = 1.0 if threshold is None else threshold
        says_up, says_down = _says(positive, negative, beta, *up), _says(negative, positive, beta, *down)
        return np.subtract(says_up, says_down)

    def supply_current(
        self, before: Array, decision: Array, positive: Array, negative: Array, beta: Array,
        clock: BankClock, supply: float, technology: Technology,
    ) -> Array:  # fmt: skip
        """Current from the supply (A), of nominal transistors: P, M and beta as they arrive in the cells.

        A decided half passes what its low node receives: the winning side's node is at the supply and takes
        nothing. The decision `before` holds until `pe` rises, then both sides of both halves flow until it
        has fallen. One node a half is charged every frame.
        """

        def held(decided: Array) -> Array:
            up = np.where(decided > 0, negative + beta, positive)
            return up + np.where(decided < 0, positive + beta, negative)

        full = 2 * (positive + negative + beta)
        charge = len(HALVES) * node_capacitance(technology) * supply
        mean = clock.offset * held(before) + clock.equalised * full
        mean = mean + (1 - clock.offset - clock.equalised) * held(decision)
        return (mean + charge / clock.frame_period).sum(-1)

    def clock_current(self, frame_period: float, supply: float, technology: Technology) -> float:
        """Current (A) that the clock's driver takes from the supply for the row."""
        return self.size * comparator_geometry(technology).clock_capacitance * supply / frame_period

    @property
    def bias_current(self) -> float:
        """Current of the reference branches (A)."""
        return float(self.i_threshold.sum())

    def check_clock(self, clock: BankClock, technology: Technology) -> None:
        """Raises MappingError if a decision may still be slewing when the strobe opens.

        A half that says 1 charges its node with at least beta. With a `threshold_signal` nothing is known
        here of how small it gets.
        """
        if self.threshold_signal:
            return
        j = int(np.argmin(self.i_threshold))
        smallest = smallest_threshold(clock, technology)
        if self.i_threshold[j] < smallest:
            needed = clock.evaluation * smallest / self.i_threshold[j]
            raise MappingError(
                f"{self.name}: unit {j}: a threshold of {self.i_threshold[j]:.3g} A takes {needed:.2g} s to "
                f"decide, but the clock leaves {clock.evaluation:.2g} s"
            )

    def ports(self) -> list[str]:
        """The threshold's gates, where it has diodes of its own, and the decisions."""
        own = [] if self.threshold_signal else super().ports()
        return own + self.decisions()

    def decisions(self) -> list[str]:
        """Nets of all decisions."""
        return [self.decision(j, half) for j in range(self.size) for half in HALVES]

    def decision(self, index: int, half: str) -> str:
        """Net of one decision, `half` being up or down."""
        return f"{self.name}_{index}_{half}"

    def subcircuit(self, signals: Mapping[str, Signal], shifts: Shifts, technology: Technology) -> SubCircuit:
        """The comparators as a SPICE cell."""
        from PySpice.Spice.Netlist import SubCircuit

        geometry, unit = comparator_geometry(technology), technology.unit
        taken = [gate(name, j) for j in range(self.size) for name in self.sources()]
        pe = clock_net(self.clock, "pe")
        cell = SubCircuit(self.name, "vdd", "vbias", *self.ports(), *taken, pe)
        cell.raw_spice = self._comments()
        sizes = {
            "W": f"{unit.w_um:g}u", "L": f"{unit.l_um:g}u", "U": technology.latch_units,
            "WP": f"{geometry.pair.w_um:g}u", "LP": f"{geometry.pair.l_um:g}u",
            "WE": f"{geometry.equaliser.w_um:g}u", "LE": f"{geometry.equaliser.l_um:g}u",
        }  # fmt: skip
        for j in range(self.size):
            if not self.threshold_signal:
                reference_current(cell, f"threshold_{j}", gate(self.name, j), "p", float(self.i_threshold[j]))
                transistor(
                    cell, f"diode_{j}", "p", gate(self.name, j), gate(self.name, j), rail("p", bias=True),
                    self.diode_units, shift(shifts, f"{self.name}.diode", j), technology,
                )  # fmt: skip
            rows = [gate(self.positive, j), gate(self.negative, j)]
            beta = gate(self.threshold_signal or self.name, j)
            for number, half in enumerate(HALVES):
                parameters: dict[str, object] = dict(sizes)
                if shifts:
                    for k, part in enumerate(_TRANSISTORS, start=1):
                        parameters[f"D{k}"] = repr(shift(shifts, f"{self.name}.{part}", (j, number)))
                nets = [rows[number], rows[1 - number], beta, pe, self.decision(j, half), "vdd"]
                cell.X(f"{half}_{j}", SUBCIRCUIT, *nets, **parameters)
        return cell

    def _comments(self) -> str:
        return "".join(
            f"* {self.decision(j, 'up')}: {self.positive}[{j}] > {self.negative}[{j}] + "
            + (
                f"{self.threshold_signal}[{j}]\n"
                if self.threshold_signal
                else f"{self.i_threshold[j]:.5g} A\n"
            )
            for j in range(self.size)
        )
