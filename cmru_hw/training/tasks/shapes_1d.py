"""Ten shapes of one dimension, deformed."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from cmru_hw.training.tasks.task import GeneratedOptions, Split, Task, of_length

SHAPES: dict[str, tuple[float, ...]] = {
    "hill": (0.0, 0.5, 1.0, 0.5, 0.0),
    "valley": (0.0, -0.5, -1.0, -0.5, 0.0),
    "two hills": (0.0, 1.0, 0.0, 1.0, 0.0),
    "ramp up": (0.0, 0.25, 0.5, 0.75, 1.0),
    "ramp down": (1.0, 0.75, 0.5, 0.25, 0.0),
    "table": (0.0, 1.0, 1.0, 1.0, 0.0),
    "wave": (0.0, 1.0, 0.0, -1.0, 0.0),
    "wave back": (0.0, -1.0, 0.0, 1.0, 0.0),
    "early spike": (0.0, 1.0, 0.0, 0.0, -0.5),
    "late spike": (-0.5, 0.0, 0.0, 1.0, 0.0),
}
"""Values at five equidistant points, straight lines between them; 0 before and behind."""


class Shapes1D(GeneratedOptions):
    """Which of ten shapes is hidden in a sequence: scaled, stretched, shifted, sheared and in noise.

    x[t] = a shape((t - start) / width) + b (t / (length - 1) - 1/2) + noise_std N(0, 1), with `a` uniform in
    0.75 .. 1.25, `width` in 0.4 .. 0.7 of the length, `start` such that the shape is inside, and the shear
    `b` uniform in -shear .. shear. The idea is that of MNIST-1D (Greydanus and Kobak, arXiv 2011.14439);
    shapes and deformations are our own.
    """

    name: Literal["shapes_1d"] = "shapes_1d"
    length: int = Field(default=40, ge=10)
    shear: float = Field(default=0.3, ge=0.0)
    noise_std: float = Field(default=0.1, ge=0.0)

    def load(self, seed: int) -> Task:
        train, validation, test = self.generate(self._draw, seed)
        return Task(
            name=self.name,
            input_size=1,
            num_classes=len(SHAPES),
            class_names=tuple(SHAPES),
            train=train,
            validation=validation,
            test=test,
            frame=f"one value, noise of {self.noise_std:g}",
        )

    def _draw(self, size: int, random: np.random.Generator) -> Split:
        y = random.integers(len(SHAPES), size=size)
        scale = random.uniform(0.75, 1.25, size)
        width = random.uniform(0.4, 0.7, size) * (self.length - 1)
        start = random.uniform(0.0, self.length - 1 - width)
        shear = random.uniform(-self.shear, self.shear, size)
        t = np.arange(self.length)
        place = (t - start[:, None]) / width[:, None]
        points = np.array(list(SHAPES.values()))
        knots = np.linspace(0, 1, points.shape[1])
        x = np.stack([np.interp(u, knots, points[k], left=0, right=0) for u, k in zip(place, y, strict=True)])
        x = scale[:, None] * x + shear[:, None] * (t / (self.length - 1) - 0.5)
        x += self.noise_std * random.standard_normal(x.shape)
        return of_length(x[..., None].astype(np.float32), y)
