"""Remember the first frame."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from cmru_hw.training.tasks.task import GeneratedOptions, Split, Task, of_length


class CopyFirstInput(GeneratedOptions):
    """The first frame is the class as a one-hot vector, and all later frames are noise.

    x[0] = e_class (exactly, no noise on it); x[t] = noise_std N(0, 1) for 0 < t < length.
    """

    name: Literal["copy_first_input"] = "copy_first_input"
    length: int = Field(default=150, ge=2)
    classes: int = Field(default=8, ge=2)
    noise_std: float = Field(default=0.1, ge=0.0)

    def load(self, seed: int) -> Task:
        train, validation, test = self.generate(self._draw, seed)
        return Task(
            name=self.name,
            input_size=self.classes,
            num_classes=self.classes,
            class_names=tuple(f"input {number}" for number in range(self.classes)),
            train=train,
            validation=validation,
            test=test,
            frame=f"first frame one-hot, then Gaussian noise of standard deviation {self.noise_std:g}",
        )

    def _draw(self, size: int, random: np.random.Generator) -> Split:
        y = random.integers(self.classes, size=size)
        x = random.standard_normal((size, self.length, self.classes), dtype=np.float32)
        x *= np.float32(self.noise_std)
        x[:, 0] = np.eye(self.classes, dtype=np.float32)[y]
        return of_length(x, y)
