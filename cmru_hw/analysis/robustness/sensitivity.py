"""Which transistors matter: each alone is shifted by three sigma to either side.

    g_i = (m(+3 sigma_i) - m(-3 sigma_i)) / 6,       var(m) = sum_i g_i^2   as far as m is linear

m is the margin of the decision, averaged over the inputs. What the sum explains of the variance that the
Monte Carlo has says how far the ranking can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.stats import chi2

from cmru_hw.analysis.robustness.analysis import Analysis, Results, keyed, under
from cmru_hw.analysis.robustness.lot import Lot, Task, joined
from cmru_hw.analysis.robustness.mismatch import NOMINAL, Mismatch
from cmru_hw.farm import Arrays, chunks
from cmru_hw.primitives.device import Array
from cmru_hw.variation import Transistors

SIGMAS = 3.0
SHOWN = 20
CHIPS_A_JOB = 100


@dataclass(frozen=True)
class Shifted(Task):
    """Chips with one shifted transistor each: number 2 i is transistor i at -3 sigma, 2 i + 1 at +3 sigma."""

    numbers: range

    def run(self, lot: Lot) -> Arrays:
        """Their `accuracy` and mean `margin`, [chips]."""
        every = Transistors.of(lot.design, lot.sigma_scale)

        def drawn(few: range) -> dict[str, Array]:
            deviates = np.zeros((len(few), len(every)))
            for row, number in enumerate(few):
                deviates[row, number // 2] = SIGMAS if number % 2 else -SIGMAS
            return every.shifts(deviates)

        return lot.judge(self.numbers, drawn)


@dataclass(frozen=True)
class Sensitivity(Analysis):
    """Every transistor of the design, ranked; the chips of the Monte Carlo tell what is explained."""

    name: ClassVar[str] = "sensitivity"
    mismatch: Mismatch

    def tasks(self) -> dict[str, Task]:
        """Two chips a transistor, and those of the Monte Carlo."""
        lot = self.mismatch.lot
        numbers = range(2 * len(Transistors.of(lot.design)))
        own = {key: Shifted(few) for key, few in chunks(numbers, CHIPS_A_JOB, "parts").items()}
        return {**keyed(self.name, own), **self.mismatch.tasks()}

    def summary(self, results: Results) -> dict[str, Any]:
        """Transistors and groups of them by share of the margin's variance, and those that cost most."""
        every = Transistors.of(self.mismatch.lot.design, self.mismatch.lot.sigma_scale)
        own = under(self.name, results)
        accuracy, margin = (joined(own, key).reshape(-1, 2) for key in ("accuracy", "margin"))
        slope = (margin[:, 1] - margin[:, 0]) / (2 * SIGMAS)
        linear = float((slope**2).sum())
        shares = slope**2 / linear if linear else np.zeros(len(every))
        nominal = float(results[NOMINAL]["accuracy"][0])
        names, parts = every.names, every.part_of

        def one(i: int) -> dict[str, Any]:
            return {
                "transistor": names[i],
                "sigma_v": float(every.sigma[i]),
                "margin_a_sigma": float(slope[i]),
                "variance_share": float(shares[i]),
                "accuracy": accuracy[i].tolist(),
            }

        by_margin = np.argsort(-shares, kind="stable")[:SHOWN]
        lost = nominal - accuracy.min(axis=1)
        by_accuracy = np.lexsort((-shares, -lost))[:SHOWN]
        return {
            "transistors": len(every),
            "sigmas": SIGMAS,
            "nominal_accuracy": nominal,
            "by_margin": [one(int(i)) for i in by_margin],
            "by_accuracy": [one(int(i)) for i in by_accuracy if lost[i] > 0],
            "parts": _summed(parts, shares)[:SHOWN],
            "stages": _summed([part.partition(".")[0] for part in parts], shares),
            "explained": _explained(linear, joined(under("chips", results), "margin")),
        }


def _summed(groups: Sequence[str], shares: Array) -> list[dict[str, Any]]:
    """Groups by their share, largest first."""
    totals: dict[str, float] = {}
    for group, share in zip(groups, shares, strict=True):
        totals[group] = totals.get(group, 0.0) + float(share)
    ranked = sorted(totals.items(), key=lambda item: -item[1])
    return [{"name": name, "variance_share": total} for name, total in ranked]


def _explained(linear: float, margins: Array) -> dict[str, Any]:
    """The sum over the Monte Carlo's variance, with the 95 % interval that its number of chips leaves."""
    freedom = len(margins) - 1
    variance = float(margins.var(ddof=1)) if freedom else 0.0
    share = linear / variance if variance else None
    bounds = [share * float(chi2.ppf(q, freedom)) / freedom for q in (0.025, 0.975)] if share else None
    return {
        "linear_variance": linear,
        "monte_carlo_variance": variance,
        "share": share,
        "share_ci95": bounds,
    }
