"""A design as a PySpice circuit: one subcircuit a stage, one supply source a stage and kind of draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from PySpice.Spice.Netlist import Circuit

from cmru_hw.config import packaged
from cmru_hw.design import Design, Stage
from cmru_hw.primitives.clock import PHASES, BankClock, clock_net
from cmru_hw.primitives.device import Array, Shifts
from cmru_hw.primitives.mirror import Input
from cmru_hw.primitives.noise_source import Noise
from cmru_hw.primitives.signal import block_of, devices_of, gate, rail, source_net
from cmru_hw.technology import Technology

MODELS = "models.lib"
RAILS = {"vdd": "", "vbias": "_bias", "vlogic": "_logic"}
"""Supply rails of a stage, each with a source `V{stage}{suffix}` of its own."""


class Staged(Protocol):
    """What a circuit is made of: a design, a part of one, or a bench."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """In signal order."""

    @property
    def signals(self) -> Mapping[str, Stage]:
        """Those and what they take from, by name."""

    @property
    def technology(self) -> Technology:
        """The card at the circuit's supply."""

    @property
    def clocks(self) -> Mapping[str, BankClock]:
        """By name."""


def build(
    design: Design,
    currents: Mapping[str, Sequence[Array]],
    starts: Array,
    shifts: Shifts | None = None,
    noise: Mapping[str, Noise] | None = None,
) -> Circuit:
    """The circuit of a design, as `assemble` makes it."""
    facts = design.facts
    title = f"{facts.unit} on {facts.technology}, {facts.boundary} boundary"
    return assemble(design, title, currents, starts, shifts or {}, design.named(noise or {}))


def assemble(
    staged: Staged,
    title: str,
    currents: Mapping[str, Sequence[Array]],
    starts: Array,
    shifts: Shifts,
    noise: Mapping[str, Noise],
) -> Circuit:
    """A circuit driven by input currents.

    `currents[stage][i]` is the waveform of input `i` as [points, 2] of (s, A); frames begin at `starts`
    [T + 1] (s), the last being the end; `shifts` the threshold shifts of one chip, as `variation.draw` gives
    them, besides that of the technology's corner; `noise`, by stage, a source at every diode of the stage,
    `I{net}_noise`. Each stage's supply is a source a rail, `V{stage}`, `V{stage}_bias` (reference branches)
    and, where it has clocked logic, `V{stage}_logic`; an ammeter `V{net}` sits at every measured diode; a
    clock phase is `V{clock}_{phase}`.
    """
    volts, signals = staged.technology.supply, staged.signals
    shifts = _at_corner(staged, shifts)
    circuit = Circuit(title)
    circuit.raw_spice = "".join(f".include {name}\n" for name in (MODELS, *_cell_files(staged)))
    for stage in staged.stages:
        cell = stage.subcircuit(signals, shifts, staged.technology)
        circuit.subcircuit(cell)
        nets = _port_names(cell)
        circuit.X(stage.name, stage.name, *(f"{net}_{stage.name}" if net in RAILS else net for net in nets))
        for net in rails(stage):
            circuit.V(f"{stage.name}{RAILS[net]}", f"{net}_{stage.name}", circuit.gnd, volts)
        supply = f"vdd_{stage.name}"
        if stage.measured:
            side = supply if rail(stage.polarity) == "vdd" else circuit.gnd
            for j in range(stage.size):
                plus, minus = (side, source_net(stage.name, j))
                if stage.polarity == "n":
                    plus, minus = minus, plus
                circuit.V(source_net(stage.name, j), plus, minus, 0)
        if isinstance(stage, Input):
            for i, points in enumerate(currents[stage.name]):
                _drive(circuit, stage, i, points, supply)
    for name, added in noise.items():
        stage = signals[name]
        for j in range(stage.size):
            net = gate(name, j)
            ends = (f"vdd_{name}", net) if stage.polarity == "n" else (net, "0")
            circuit.raw_spice += added.source.spice(f"{net}_noise", *ends, pole=added.pole) + "\n"
    for net, points in _clock_waves(staged, starts):
        values = [(float(t), float(v)) for t, v in points]
        circuit.PieceWiseLinearVoltageSource(net, net, circuit.gnd, values=values)
    return circuit


def _clock_waves(staged: Staged, starts: Array) -> list[tuple[str, Array]]:
    """Net and points (s, V) of every clock phase."""
    clocks, volts = staged.clocks, staged.technology.supply
    return [
        (clock_net(clock, phase), clocks[clock].waveform(phase, starts, volts))
        for clock, phase in clock_phases(staged)
    ]


def corners(staged: Staged, currents: Mapping[str, Sequence[Array]], starts: Array) -> Array:
    """Times (s) at which the sources of `assemble` turn, from 0 on."""
    waves = [one for stage in staged.stages if isinstance(stage, Input) for one in currents[stage.name]]
    waves += [points for _, points in _clock_waves(staged, starts)]
    return np.unique(np.concatenate([np.zeros(1), *(points[:, 0] for points in waves)]))


def _at_corner(staged: Staged, shifts: Shifts) -> Shifts:
    """Shifts of one chip with those of the process corner, of every transistor."""
    technology = staged.technology
    corner = technology.corner_shift
    if not corner.n and not corner.p:
        return shifts
    return {
        name: corner.of(array.polarity) + shifts.get(name, np.zeros(array.units.shape))
        for name, array in devices_of(staged.stages, technology).items()
    }


def rails(stage: Stage) -> list[str]:
    """Supply rails of a stage."""
    return [net for net in RAILS if net != "vlogic" or stage.has_logic]


def clock_phases(staged: Staged) -> list[tuple[str, str]]:
    """Clock phases that some stage takes, as (clock, phase)."""
    taken = {net for stage in staged.stages for net in stage.clock_nets()}
    return [(clock, phase) for clock in staged.clocks for phase in PHASES if clock_net(clock, phase) in taken]


def includes(staged: Staged) -> dict[str, str]:
    """Files that the circuit includes, by the name it includes them under."""
    cells = _cell_files(staged)
    texts = {name: packaged("circuits", name).read_text(encoding="utf-8") for name in cells}
    return {MODELS: staged.technology.model_text, **texts}


def initial_voltages(staged: Staged) -> dict[str, float]:
    """`.ic` of every net that a stage starts from."""
    return {
        net: volts
        for stage in staged.stages
        for net, volts in stage.initial_voltages(staged.technology.supply).items()
    }


def ammeters(stage: Stage) -> list[str]:
    """Saved vectors that hold the currents of a measured stage."""
    return [f"i(v{source_net(stage.name, j)})" for j in range(stage.size)]


def supplies(staged: Staged) -> dict[str, str]:
    """Saved vectors of the supply currents, each with the "block/primitive" that it feeds."""
    return {
        f"i(v{stage.name}{RAILS[net]})": f"{block_of(stage.name)}/{'bias' if net == 'vbias' else stage.kind}"
        for stage in staged.stages
        for net in rails(stage)
    }


def clock_drives(staged: Staged) -> dict[str, str]:
    """Saved vectors of the clock drivers' currents, each with the "block/clock" that it drives."""
    return {
        f"i(v{clock_net(clock, phase)})": f"{block_of(clock)}/clock" for clock, phase in clock_phases(staged)
    }


def waveform(values: Array, starts: Array, ramp: float) -> Array:
    """Points (s, A) of an input that moves to `values[t]` within `ramp` after `starts[t]`."""
    points = [(0.0, values[0])]
    for before, value, start in zip(values[:-1], values[1:], starts[1:], strict=True):
        if value != before:
            points += [(start, before), (start + ramp, value)]
    return np.array(points)


def _cell_files(staged: Staged) -> list[str]:
    return list(dict.fromkeys(stage.cell_file for stage in staged.stages if stage.cell_file))


def _drive(circuit: Circuit, stage: Input, i: int, points: Array, supply: str) -> None:
    nets = (supply, gate(stage.name, i)) if stage.polarity == "n" else (gate(stage.name, i), circuit.gnd)
    name = f"in_{stage.name}_{i}"
    if len(points) == 1:
        circuit.I(name, *nets, repr(float(points[0][1])))
    else:
        circuit.PieceWiseLinearCurrentSource(name, *nets, values=[(float(t), float(a)) for t, a in points])


def _port_names(cell: object) -> list[str]:
    return [str(node) for node in cell._external_nodes]  # type: ignore[attr-defined]
