"""Free factors of an FQ-BMRU network: the same function, with weights that round better to whole units.

ReLU, latch and mirror are positively homogeneous, so each of these factors f > 0 leaves every decision as
it was, and is absorbed by currents that need not be whole: model dimension j (r_j), candidate row i with
its bias and thresholds (s_i), latch gain i against its output column (t_i), and all logits together (g).
"""

from __future__ import annotations

import numpy as np

from cmru_hw.primitives.device import Array

Weights = dict[str, Array]
FACTORS = 2.0 ** np.linspace(-0.5, 0.5, 97)
SWEEPS = 3


def unit_counts(weights: Array, units: int) -> Array:
    """Whole units nearest to each weight, as floats."""
    return np.rint(weights * units)


def rescale(weights: Weights, layers: int, units: int, largest_ratio: float) -> tuple[Weights, float]:
    """An equivalent network whose matrices lose less when rounded to `1/units`, and the logit factor g.

    `weights` has the state-dict names. A factor stays 1 where rounding loses nothing already, so a network
    trained on the grid comes back as it is. No factor pushes a weight beyond `largest_ratio`.
    """
    scaled = {name: value.astype(float).copy() for name, value in weights.items()}
    logit_factor = 1.0

    def best(vectors: list[Array], inverse: list[Array]) -> float:
        losses = np.zeros(len(FACTORS))
        for vector in vectors:
            losses += _losses(vector, FACTORS, units, largest_ratio)
        for vector in inverse:
            losses += _losses(vector, 1 / FACTORS, units, largest_ratio)
        middle = len(FACTORS) // 2
        return 1.0 if losses[middle] < 1e-9 else float(FACTORS[np.argmin(losses)])

    def times(name: str, index: tuple[int | slice, ...], factor: float) -> None:
        scaled[name][index] *= factor

    every = slice(None)
    for _ in range(SWEEPS):
        for j in range(len(scaled["projection.bias"])):
            into = [scaled["projection.weight"][j]]
            outof = [scaled["readout.weight"][:, j]]
            for layer in range(layers):
                into.append(scaled[f"layers.{layer}.output.weight"][j])
                outof.append(scaled[f"layers.{layer}.unit.candidate.weight"][:, j])
            r = best(into, outof)
            for name in ("projection", *(f"layers.{layer}.output" for layer in range(layers))):
                times(f"{name}.weight", (j, every), r)
                times(f"{name}.bias", (j,), r)
            for name in ("readout", *(f"layers.{layer}.unit.candidate" for layer in range(layers))):
                times(f"{name}.weight", (every, j), 1 / r)
        for layer in range(layers):
            unit = f"layers.{layer}.unit"
            for i in range(len(scaled[f"{unit}.gain"])):
                s = best([scaled[f"{unit}.candidate.weight"][i]], [])
                times(f"{unit}.candidate.weight", (i, every), s)
                for name in ("candidate.bias", "threshold_low", "width"):
                    times(f"{unit}.{name}", (i,), s)
                t = best([scaled[f"layers.{layer}.output.weight"][:, i]], [])
                times(f"layers.{layer}.output.weight", (every, i), t)
                times(f"{unit}.gain", (i,), 1 / t)
        g = best([scaled["readout.weight"].ravel()], [])
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
