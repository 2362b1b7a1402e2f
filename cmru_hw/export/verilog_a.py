"""Verilog-A models of the cells that hold a state, and their calibrated parameters for every unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cmru_hw.design import Design
from cmru_hw.primitives.integrator import Integrator, integrator_geometry
from cmru_hw.primitives.latch import Latch
from cmru_hw.primitives.latch_bank import LatchBank

Rows = list[dict[str, Any]]


def parameters(design: Design) -> dict[str, Rows]:
    """By model, `latch` for `latch.va`: a row of its module's parameters (SI units) for every unit in use."""
    found: dict[str, Rows] = {}
    for stage in design.stages:
        for kind, (model, rows) in _MODELS.items():
            if isinstance(stage, kind):
                found.setdefault(model, []).extend(rows(stage, design))
    return found


def _latch(stage: Latch, design: Design) -> Rows:
    """As seen at the candidate's diode."""
    currents = stage.currents(design.signals, {}, design.technology)
    up, down = stage.thresholds(currents, {})
    return [
        {"instance": f"{stage.name}_{j}", "up": float(up[j]), "down": max(float(down[j]), 0.0),
         "gain": float(currents["gain"][j]), "capacitance": stage.capacitance,
         "supply": design.facts.supply, "starts": int(stage.initial_state[j] > 0)}
        for j in range(stage.size)
    ]  # fmt: skip


def _latch_bank(stage: LatchBank, design: Design) -> Rows:
    outputs = stage.currents(design.signals, {}, design.technology)["outputs"]
    starts = stage.is_set(stage.initial_state).sum(axis=-1)
    return [
        {"instance": f"{stage.name}_{j}", "latches": stage.latches, "step": float(outputs[j, 1]),
         "starts": int(starts[j]), "supply": design.facts.supply}
        for j in range(stage.size)
    ]  # fmt: skip


def _integrator(stage: Integrator, design: Design) -> Rows:
    """The time constant of a copy is C n U_T / I at `middle`."""
    technology, capacitance = design.technology, integrator_geometry(design.technology).capacitance
    currents = stage.currents(design.signals, {}, technology)
    tau = capacitance * technology.slope_factor.n * technology.thermal_voltage / stage.i_middle
    droop = -np.log(stage.kept(1.0, technology))
    rows = []
    for j in range(stage.size):
        measured = {key: float(currents[key][j]) for key in ("low", "high", "start")}
        errors = {f"error_{k}": float(value) for k, value in enumerate(currents["error"][j])}
        rows.append(
            {"instance": f"{stage.name}_{j}", "middle": float(stage.i_middle[j]),
             "rails": float(stage.rails[j])} | measured
            | {"packet": float(stage.i_packet[j]), "gain_up": float(currents["up"][j]),
               "gain_down": float(currents["down"][j])} | errors
            | {"droop": float(droop), "rest": float(currents["rest"][j] / stage.i_middle[j]),
               "tau": float(tau[j]), "charge": capacitance,
               "supply": design.facts.supply}
        )  # fmt: skip
    return rows


_MODELS: dict[type, tuple[str, Callable[[Any, Design], Rows]]] = {
    Latch: ("latch", _latch),
    LatchBank: ("latch_bank", _latch_bank),
    Integrator: ("integrator", _integrator),
}
