"""The circuit's own noise against bandwidth, by smaller capacitances, and against the unit current."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cmru_hw.analysis.robustness.analysis import Analysis, Results
from cmru_hw.analysis.robustness.lot import Lot, Task
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.config import validate
from cmru_hw.design import Design
from cmru_hw.errors import ConfigError, MappingError
from cmru_hw.farm import Arrays
from cmru_hw.mapping import MappingConfig, map_folder
from cmru_hw.nn.network import load_network
from cmru_hw.technology import load_technology

BANDWIDTHS = (1.0, 10.0, 100.0, 1e3, 1e4)
UNIT_CURRENTS = (1e-10, 2e-10, 5e-10, 1e-9, 2e-9)  # A
DRAWS = 10


@dataclass(frozen=True, eq=False)
class Noisy(Task):
    """Seeded draws of noise in the nominal circuit; nodes have the capacitance over `bandwidth`.

    With `design`, of that one instead of the lot's.
    """

    draws: int
    bandwidth: float
    design: Design | None = None

    def run(self, lot: Lot) -> Arrays:
        """`silent`, the accuracy without noise, and `accuracy` [draws]."""
        design = self.design or lot.design

        def accuracy(seed: int, noise: bool) -> float:
            model = BehavioralModel(
                design, seed=seed, intrinsic=noise, capacitance=1 / self.bandwidth if noise else 1.0
            )
            return float((model.decisions(lot.stimulus) == lot.labels).mean())

        noisy = [accuracy(lot.seed + draw, True) for draw in range(self.draws)]
        return {"silent": np.array(accuracy(0, False)), "accuracy": np.array(noisy)}


@dataclass(frozen=True)
class NoiseSweeps(Analysis):
    """Bandwidths of the design, and unit currents at which the network in `folder` is mapped anew."""

    name: ClassVar[str] = "noise"
    lot: Lot
    folder: Path
    draws: int = DRAWS
    bandwidths: Sequence[float] = BANDWIDTHS
    unit_currents: Sequence[float] = UNIT_CURRENTS

    @cached_property
    def _mapped(self) -> dict[float, Design | str]:
        """Designs by unit current, or why there is none."""
        try:
            choices, network = _choices(self.folder), load_network(self.folder)
        except ConfigError as error:
            return dict.fromkeys(self.unit_currents, str(error))
        facts = self.lot.design.facts
        found: dict[float, Design | str] = {}
        for amperes in self.unit_currents:
            changed = choices.model_copy(update={"unit_current": amperes})
            try:
                card = load_technology(facts.technology)
                design, _ = map_folder(self.folder, network, card, changed)
                found[amperes] = design.at(facts.temperature_celsius, facts.supply, facts.corner)
            except MappingError as error:
                found[amperes] = str(error)
        return found

    def tasks(self) -> dict[str, Task]:
        """A task a point."""
        found: dict[str, Task] = {
            f"{self.name}_{self.draws}_bandwidth_{factor:g}x": Noisy(self.draws, factor)
            for factor in self.bandwidths
        }
        for amperes, design in self._mapped.items():
            if isinstance(design, Design):
                key = f"{self.name}_{self.draws}_unit_{amperes:g}A_{design.fingerprint}"
                found[key] = Noisy(self.draws, 1.0, design)
        return found

    def summary(self, results: Results) -> dict[str, Any]:
        """`bandwidth` and `unit_current`: points; `skipped` unit currents with the reason."""

        def point(said: dict[str, float], result: Arrays) -> dict[str, Any]:
            return {
                **said,
                "silent_accuracy": float(result["silent"]),
                "mean_accuracy": float(result["accuracy"].mean()),
                "std_accuracy": float(result["accuracy"].std()),
            }

        prefix = f"{self.name}_{self.draws}"
        return {
            "draws": self.draws,
            "bandwidth": [
                point({"factor": factor}, results[f"{prefix}_bandwidth_{factor:g}x"])
                for factor in self.bandwidths
            ],
            "unit_current": [
                point({"amperes": amperes}, results[f"{prefix}_unit_{amperes:g}A_{design.fingerprint}"])
                for amperes, design in self._mapped.items()
                if isinstance(design, Design)
            ],
            "skipped": [
                {"amperes": amperes, "reason": reason}
                for amperes, reason in self._mapped.items()
                if isinstance(reason, str)
            ],
        }


def _choices(folder: Path) -> MappingConfig:
    """How the design in a folder was mapped. Raises ConfigError where that is not known."""
    path = folder / "mapping.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        choices = content["choices"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: does not say how the design was mapped ({error}); map it again"
        ) from error
    return validate(MappingConfig, choices, f"{path}: choices")
