"""Free factors of a network: the same function, with weights that round better to whole units.

ReLU, comparator and mirror are positively homogeneous, so each of these factors f > 0 leaves every decision
as it was, and is absorbed by currents that need not be whole: model dimension j (r_j), candidate row i with
its bias and thresholds (s_i), gain i against its output column (t_i), and all logits together (g). The
alphaCMRU has no gain, and rails that all its states share, so no t_i.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cmru_hw.primitives.device import Array

if TYPE_CHECKING:
    from cmru_hw.nn.network_config import NetworkConfig

Weights = dict[str, Array]
Index = tuple[int | slice, ...]
Place = tuple[str, Index]
"""A matrix and which of its weights."""
RECURRENT_UNITS = ("fq_bmru", "bmru", "cmru", "alpha_cmru")
CANDIDATE_CURRENTS = ("candidate.bias", "threshold_low", "width", "threshold", "threshold.bias")
"""What is compared with a row of W_c x; a threshold that depends on the input has a row of its own."""
FACTORS = 2.0 ** np.linspace(-0.5, 0.5, 97)
SWEEPS = 3


def unit_counts(weights: Array, units: int) -> Array:
    """Whole units nearest to each weight, as floats."""
    return np.rint(weights * units)


def has_free_factors(config: NetworkConfig) -> bool:
    """Whether `rescale` leaves such a network the same function: its units, and nothing but them."""
    return config.unit in RECURRENT_UNITS and config.norm == "none" and not config.glu


def rescale(
    weights: Weights, layers: int, units: Mapping[str, int], largest_ratio: float
) -> tuple[Weights, float]:
    """An equivalent network whose matrices lose less when rounded to `1/units`, and the logit factor g.

    `units` are those that make a weight of 1, by matrix ("projection"). `weights` has the state-dict names of
    one of `RECURRENT_UNITS`. A factor stays 1 where rounding loses nothing already, so a network trained on
    the grid comes back as it is. No factor pushes a weight beyond `largest_ratio`.
    """
    scaled = {name: value.astype(float).copy() for name, value in weights.items()}
    logit_factor = 1.0

    def best(rows: list[Place], inverse: list[Place]) -> float:
        losses = np.zeros(len(FACTORS))
        for places, factors in ((rows, FACTORS), (inverse, 1 / FACTORS)):
            for name, index in places:
                vector = scaled[f"{name}.weight"][index].ravel()
                losses += _losses(vector, factors, units[name], largest_ratio)
        middle = len(FACTORS) // 2
        return 1.0 if losses[middle] < 1e-9 else float(FACTORS[np.argmin(losses)])

    def times(name: str, index: Index, factor: float) -> None:
        scaled[name][index] *= factor

    def matrices(layer: int, *parts: str) -> list[str]:
        names = [f"layers.{layer}.unit.{part}" for part in parts]
        return [name for name in names if f"{name}.weight" in scaled]

    every = slice(None)
    compared = [matrices(layer, "candidate", "threshold") for layer in range(layers)]
    fed = [name for layer in range(layers) for name in matrices(layer, "candidate", "threshold", "amplitude")]
    for _ in range(SWEEPS):
        for j in range(len(scaled["projection.bias"])):
            into = ("projection", *(f"layers.{layer}.output" for layer in range(layers)))
            outof = ("readout", *fed)
            r = best([(name, (j, every)) for name in into], [(name, (every, j)) for name in outof])
            for name in into:
                times(f"{name}.weight", (j, every), r)
                times(f"{name}.bias", (j,), r)
            for name in outof:
                times(f"{name}.weight", (every, j), 1 / r)
        for layer in range(layers):
            unit = f"layers.{layer}.unit"
            currents = [f"{unit}.{name}" for name in CANDIDATE_CURRENTS if f"{unit}.{name}" in scaled]
            for i in range(len(scaled[f"{unit}.candidate.bias"])):
                s = best([(name, (i, every)) for name in compared[layer]], [])
                for name in compared[layer]:
                    times(f"{name}.weight", (i, every), s)
                for name in currents:
                    times(name, (i,), s)
                if f"{unit}.gain" in scaled:
                    t = best([(f"layers.{layer}.output", (every, i))], [])
                    times(f"layers.{layer}.output.weight", (every, i), t)
                    times(f"{unit}.gain", (i,), 1 / t)
        g = best([("readout", (every, every))], [])
        scaled["readout.weight"] *= g
        scaled["readout.bias"] *= g
        logit_factor *= g
    return scaled, logit_factor


def _losses(vector: Array, factors: Array, units: int, largest_ratio: float) -> Array:
    """Squared rounding error of `factor * vector`, relative to its square, for each factor."""
    total = float(np.square(vector).sum())
    if total == 0.0:
        return np.zeros(len(factors))
    scaled = factors[:, None] * vector
    error = np.square(unit_counts(scaled, units) / units - scaled).sum(1) / (factors**2 * total)
    too_large = (np.abs(scaled) > largest_ratio).any(1) & (factors > 1)
    return np.where(too_large, np.inf, error)
