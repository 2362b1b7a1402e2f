"""What a design draws: time average of supply current times voltage, reference branches included."""

from __future__ import annotations

from typing import Any

import numpy as np

from cmru_hw.result import Result
from cmru_hw.stimulus import Stimulus


def power(result: Result, stimulus: Stimulus) -> dict[str, Any]:
    """Mean power over the inputs (W), by "block/primitive", and energy of one inference (J)."""
    seconds = stimulus.starts[stimulus.lengths]
    breakdown = {key: float(np.mean(watts)) for key, watts in result.breakdown.items() if np.any(watts)}
    return {
        "power_w": float(np.mean(result.supply_power)),
        "energy_per_inference_j": float(np.mean(result.supply_power * seconds)),
        "breakdown": breakdown,
    }
