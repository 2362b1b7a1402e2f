"""The clock of comparators and latch banks: two phases that never overlap, a parity phase, a reset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cmru_hw.errors import MappingError
from cmru_hw.primitives.device import Array

PHASES = ("pe", "ph", "p1", "rst")


def clock_net(clock: str, phase: str) -> str:
    """Net of a clock phase."""
    return f"{clock}_{phase}"


@dataclass(frozen=True, kw_only=True)
class BankClock:
    """The clock of one layer's comparators and banks.

    Times are fractions of `frame_period` but for the edges; a longer frame waits at its end.

    From `offset` on and for `span`: `pe` equalises the comparators and decides as it falls; `ph` freezes the
    parity; `p1`, enclosed by it, strobes. `rst` is high from power-up to `offset` of the first frame.

    >>> BankClock.for_layer(10e-3, layer=1, layers=2).decides
    0.610...
    """

    frame_period: float  # s, of the shortest frame
    offset: float
    span: float
    fall: float = 60e-6  # s, of pe
    edge: float = 1e-6  # s, of all others

    PE_FALL: ClassVar[float] = 0.16  # of the span
    PH_RISE: ClassVar[float] = 0.52
    P1_RISE: ClassVar[float] = 0.60
    P1_FALL: ClassVar[float] = 0.90
    SETTLE: ClassVar[float] = 0.57  # of the span, at least: time for currents before a layer, after the last
    LONGEST: ClassVar[float] = 4e-3  # s: a longer span would only take from the time that currents have
    PIECES: ClassVar[int] = 30  # of pe's fall
    AFTER: ClassVar[tuple[float, ...]] = (
        1,
        2,
        3,
        4,
        5,
        6,
        8,
        10,
        14,
        20,
        30,
        50,
        80,
    )  # points after it, in pieces
    EDGE_PIECES: ClassVar[int] = 8
    """Corners on the way, where ngspice stops: with steps as long as the edge at a reltol of 1e-3, a bank
    on sky130 set two units at once in one of a thousand frames. They must be further apart than `job.CORNER`
    of a step."""
    SHORTEST: ClassVar[float] = 0.6e-3  # s: the span at which the bank was counted in ngspice

    def __post_init__(self) -> None:
        if not 0 < self.offset < self.offset + self.span <= 1:
            raise MappingError(
                f"clock: offset and span must lie within the frame, got {self.offset:g} and {self.span:g}"
            )
        if self.span * self.frame_period < self.SHORTEST:
            raise MappingError(
                f"clock: a decision and a strobe take {self.SHORTEST:g} s, but a frame of "
                f"{self.frame_period:g} s leaves {self.span * self.frame_period:.3g} s"
            )

    @classmethod
    def for_layer(
        cls, frame_period: float, layer: int = 0, layers: int = 1, copying: bool = False
    ) -> BankClock:
        """Layers one after another in a frame, each decided when the one before has settled.

        All currents get the same time to settle. With `copying`, of integrators, which copy a current during
        the strobe, the span has no upper limit.
        """
        if not 0 <= layer < layers:
            raise MappingError(f"clock: layer must be within 0 and {layers - 1}, got {layer}")
        decides = cls.P1_RISE - cls.PE_FALL
        span = 1 / ((layers + 1) * cls.SETTLE + layers * decides)
        if not copying:
            span = min(span, cls.LONGEST / frame_period)
        settle = (1 - layers * decides * span) / (layers + 1)
        start = settle + layer * (settle + decides * span) - cls.PE_FALL * span
        return cls(frame_period=frame_period, offset=start, span=span)

    @property
    def decides(self) -> float:
        """When `pe` begins to fall: what the comparator sees then counts."""
        return self.offset + self.PE_FALL * self.span

    @property
    def strobes(self) -> float:
        """When `p1` rises: the state moves."""
        return self.offset + self.P1_RISE * self.span

    @property
    def strobe(self) -> float:
        """How long `p1` is high (s)."""
        return (self.P1_FALL - self.P1_RISE) * self.span * self.frame_period

    @property
    def equalised(self) -> float:
        """Share of the frame in which pe shorts the comparators' pairs; it lets go halfway down."""
        return self.PE_FALL * self.span + 0.5 * self.fall / self.frame_period

    @property
    def evaluation(self) -> float:
        """Time (s) from the end of pe's fall to the strobe, in which the comparator regenerates."""
        return (self.strobes - self.decides) * self.frame_period - self.fall

    def waveform(self, phase: str, starts: Array, supply: float) -> Array:
        """Points (s, V) of a phase over frames that begin at `starts` [T + 1], the last being the end.

        Edges come in `EDGE_PIECES`. The fall of pe comes in `PIECES`, with points `AFTER` it, so that the
        simulator takes no step across the regeneration: an implicit method with a step longer than a pair's
        time constant would hold it at its metastable point. A pair that decides late has less current and a
        longer time constant.
        Raises MappingError if a frame is shorter than the clock's.
        """
        shortest = float(np.diff(starts).min())
        if shortest < self.frame_period * (1 - 1e-9):
            raise MappingError(
                f"clock: made for frames of {self.frame_period:g} s or more, got one of {shortest:g} s"
            )
        if phase == "rst":
            end = float(starts[0]) + self.offset * self.frame_period
            return np.array([(0.0, supply), (end - self.edge, supply), (end, 0.0)])
        rise, fall = {
            "pe": (0.0, self.PE_FALL),
            "ph": (self.PH_RISE, 1.0),
            "p1": (self.P1_RISE, self.P1_FALL),
        }[phase]
        points = [(0.0, 0.0)]
        for start in starts[:-1]:
            up, down = (start + (self.offset + at * self.span) * self.frame_period for at in (rise, fall))
            points += [*self._moved(up, 0.0, supply), (down, supply)]
            if phase == "pe":
                pieces = [*range(1, self.PIECES + 1), *(self.PIECES + after for after in self.AFTER)]
                steps = np.array(pieces) / self.PIECES
                points += [(down + at * self.fall, supply * max(1.0 - at, 0.0)) for at in steps]
            else:
                points += self._moved(down, supply, 0.0)[1:]
        return np.array(points)

    def _moved(self, at: float, before: float, after: float) -> list[tuple[float, float]]:
        """Points of an edge."""
        shares = np.linspace(0.0, 1.0, self.EDGE_PIECES + 1)
        return [(at + share * self.edge, before + share * (after - before)) for share in shares]
