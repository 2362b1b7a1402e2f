"""All that a co-design run measured, and the numbers drawn from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmru_hw.analysis.agreement import Agreement, Trained
from cmru_hw.analysis.power import power
from cmru_hw.analysis.robustness import Robustness
from cmru_hw.design import Design
from cmru_hw.mapping import MappingReport
from cmru_hw.primitives.device import Array
from cmru_hw.primitives.signal import block_of
from cmru_hw.result import Result
from cmru_hw.spice.latch_bench import Hysteresis
from cmru_hw.stimulus import Stimulus


@dataclass(frozen=True, eq=False)
class Findings:
    """All that a co-design run measured."""

    task: str
    labels: NDArray[np.int64]
    class_names: list[str]
    parameters: int
    design: Design
    mapping: MappingReport
    stimulus: Stimulus  # the whole test set
    chosen: list[int]  # the inputs of it that went through SPICE
    spice_stimulus: Stimulus
    trained: Trained
    behavioral: Result
    some_behavioral: Result  # of the chosen inputs
    spice: Result
    agreements: dict[str, Agreement]
    accuracies: Array
    robustness: Robustness
    corners: dict[str, Any]  # of the nominal circuit, as `Corners` sums up
    hysteresis: Hysteresis | None  # of the first 9T latch, where there is one

    def metrics(self) -> dict[str, Any]:
        """`metrics.json`."""
        labels = self.labels
        behavioral, spice = (
            power(self.some_behavioral, self.spice_stimulus),
            power(self.spice, self.spice_stimulus),
        )
        between = self.agreements["behavioral_spice"]
        return {
            "task": self.task,
            "unit": self.design.facts.unit,
            "technology": self.design.facts.technology,
            "parameters": self.parameters,
            "transistors": self.design.transistors,
            "area_m2": self.design.area,
            "area_breakdown": self._parts(),
            "accuracy": {
                "software": float((self.trained.decision == labels).mean()),
                "behavioral": float((self.behavioral.decision == labels).mean()),
                "spice": float((self.spice.decision == labels[self.chosen]).mean()),
            },
            "accuracy_on_spice_inputs": {
                "software": float((self.trained.decision == labels)[self.chosen].mean()),
                "behavioral": float((self.some_behavioral.decision == labels[self.chosen]).mean()),
            },
            "agreement": {
                "inputs": between.inputs,
                "decisions": between.decisions,
                "states": between.states,
                "decision_fraction": between.decision_fraction,
                "state_fraction": between.state_fraction,
                "trained_behavioral": {
                    "inputs": self.agreements["trained_behavioral"].inputs,
                    "decision_fraction": self.agreements["trained_behavioral"].decision_fraction,
                    "state_fraction": self.agreements["trained_behavioral"].state_fraction,
                },
            },
            "power_w": {
                "behavioral": behavioral["power_w"],
                "spice": spice["power_w"],
                "breakdown": {"behavioral": behavioral["breakdown"], "spice": spice["breakdown"]},
            },
            "energy_per_inference_j": spice["energy_per_inference_j"],
            "robustness": self.robustness.to_json(),
            "corners": {key: self.corners[key] for key in ("conditions", "worst", "refused")},
        }

    def _parts(self) -> dict[str, dict[str, float]]:
        """Unit transistors and area (m^2) by "block/primitive"."""
        found: dict[str, dict[str, float]] = {}
        for name, array in self.design.devices().items():
            stage = self.design.signals[name.partition(".")[0]]
            part = found.setdefault(
                f"{block_of(stage.name)}/{stage.kind}", {"transistors": 0, "area_m2": 0.0}
            )
            part["transistors"] += array.count
            part["area_m2"] += array.area
        return found
