"""The units that studies put side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """A unit with its options, as people call it; `annealed`: trained with epsilon from 1 to 0."""

    title: str
    unit: str
    options: Mapping[str, Any] = field(default_factory=dict)
    annealed: bool = False

    def section(self, size: int, **others: Any) -> dict[str, Any]:
        """The `network` section of one layer of `size` units between as many values."""
        sizes = {"model_size": size, "hidden_size": size, "num_layers": 1}
        return {"unit": self.unit, **sizes, **self.options, **others}

    def schedule(self, hold: int, anneal: int) -> tuple[int, int]:
        """`training.epsilon_hold` and `epsilon_anneal`: these if it is annealed, else none."""
        return (hold, anneal) if self.annealed else (0, 0)


UNITS: dict[str, Variant] = {
    "bmru": Variant("BMRU", "bmru"),
    "annealed_bmru": Variant("BMRU, annealed", "bmru", annealed=True),
    "cmru": Variant("CMRU", "cmru"),
    "alpha_cmru": Variant("alphaCMRU", "alpha_cmru"),
    "fq_bmru": Variant("FQ-BMRU", "fq_bmru"),
    "annealed_fq_bmru": Variant("FQ-BMRU, annealed", "fq_bmru", annealed=True),
    "lru": Variant("LRU", "lru"),
    "min_gru": Variant("minGRU", "min_gru"),
}

PUBLISHED: dict[str, Variant] = {
    "published_bmru": Variant("BMRU, as published", "bmru", {"input_dependent_threshold": True}),
    "published_cmru": Variant("CMRU, as published", "cmru", {"input_dependent_threshold": True}),
}
"""With the threshold |W_b x + b_b| of arXiv 2601.09495 and 2605.11855; that of the others is |b_b|."""
