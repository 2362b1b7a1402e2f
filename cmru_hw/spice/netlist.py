"""A design as a PySpice circuit: one subcircuit a stage, one supply source a stage and kind of draw."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PySpice.Spice.Netlist import Circuit

from cmru_hw.design import Design, Stage
from cmru_hw.primitives.device import Array, Shifts
from cmru_hw.primitives.latch import SUBCIRCUIT, subcircuit_file
from cmru_hw.primitives.mirror import Input, gate, rail, source_net

MODELS = "models.lib"
CELLS = f"{SUBCIRCUIT}.sub"


def build(design: Design, currents: dict[str, list[Array]], shifts: Shifts | None = None) -> Circuit:
    """The circuit of a design driven by input currents.

    `currents[stage][i]` is the waveform of input `i` as [points, 2] of (s, A); `shifts` the threshold
    shifts of one chip, as `variation.draw` gives them. Each stage's supply is two sources, `V{stage}` and
    `V{stage}_bias` (reference branches); an ammeter `V{net}` sits at every measured diode.
    """
    facts, technology = design.facts, design.technology
    circuit = Circuit(f"{facts.unit} on {facts.technology}, {facts.boundary} boundary")
    circuit.raw_spice = f".include {MODELS}\n.include {CELLS}\n"
    for stage in design.stages:
        cell = stage.subcircuit(design.signals, shifts or {}, technology)
        circuit.subcircuit(cell)
        local = {"vdd": f"vdd_{stage.name}", "vbias": f"vbias_{stage.name}"}
        nets = [local.get(net, net) for net in _port_names(cell)]
        circuit.X(stage.name, stage.name, *nets)
        circuit.V(stage.name, local["vdd"], circuit.gnd, facts.supply)
        circuit.V(f"{stage.name}_bias", local["vbias"], circuit.gnd, facts.supply)
        if stage.measured:
            side = local["vdd"] if rail(stage.polarity) == "vdd" else circuit.gnd
            for j in range(stage.size):
                plus, minus = (side, source_net(stage.name, j))
                if stage.polarity == "n":
                    plus, minus = minus, plus
                circuit.V(source_net(stage.name, j), plus, minus, 0)
        if isinstance(stage, Input):
            for i, points in enumerate(currents[stage.name]):
                _drive(circuit, stage, i, points, local["vdd"])
    return circuit


def includes(design: Design) -> dict[str, str]:
    """Files that the circuit includes, by the name it includes them under."""
    return {MODELS: design.technology.model_text, CELLS: subcircuit_file().read_text(encoding="utf-8")}


def initial_voltages(design: Design) -> dict[str, float]:
    """`.ic` of every latch: v0 at the rail of its initial bit."""
    return {
        latch.stored(j): design.facts.supply * float(bit)
        for latch in design.latches
        for j, bit in enumerate(latch.initial_state)
    }


def ammeters(stage: Stage) -> list[str]:
    """Saved vectors that hold the currents of a measured stage."""
    return [f"i(v{source_net(stage.name, j)})" for j in range(stage.size)]


def supplies(design: Design) -> dict[str, tuple[str, str]]:
    """Saved vectors of the supply currents by stage: (the stage's own, its reference branches')."""
    return {stage.name: (f"i(v{stage.name})", f"i(v{stage.name}_bias)") for stage in design.stages}


def waveform(values: Array, starts: Array, ramp: float) -> Array:
    """Points (s, A) of an input that moves to `values[t]` within `ramp` after `starts[t]`."""
    points = [(0.0, values[0])]
    for before, value, start in zip(values[:-1], values[1:], starts[1:], strict=True):
        if value != before:
            points += [(start, before), (start + ramp, value)]
    return np.array(points)


def _drive(circuit: Circuit, stage: Input, i: int, points: Array, supply: str) -> None:
    nets = (supply, gate(stage.name, i)) if stage.polarity == "n" else (gate(stage.name, i), circuit.gnd)
    name = f"in_{stage.name}_{i}"
    if len(points) == 1:
        circuit.I(name, *nets, repr(float(points[0][1])))
    else:
        circuit.PieceWiseLinearCurrentSource(name, *nets, values=[(float(t), float(a)) for t, a in points])


def _port_names(cell: object) -> Iterable[str]:
    return [str(node) for node in cell._external_nodes]  # type: ignore[attr-defined]
