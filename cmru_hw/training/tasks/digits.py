"""Handwritten digits, one pixel a frame."""

from __future__ import annotations

from typing import Literal

import numpy as np

from cmru_hw.config import packaged
from cmru_hw.training.tasks.task import DividedOptions, Task, of_length


class Digits(DividedOptions):
    """A handwritten digit of 8 x 8 pixels, row by row, one pixel a frame: T = 64, I = 1, ink standardised.

    Optical Recognition of Handwritten Digits (UCI, Alpaydin and Kaynak 1998, CC BY 4.0);
    see models/data/digits.md.
    """

    name: Literal["digits"] = "digits"

    def load(self, seed: int) -> Task:
        with np.load(packaged("models", "data", "digits.npz"), allow_pickle=False) as archive:
            images, y, test = (archive[key] for key in ("images", "y", "split"))
        ink = images.reshape(len(images), -1, 1).astype(np.float64)
        seen = ink[test == 0]
        x = ((ink - seen.mean()) / seen.std()).astype(np.float32)
        everything = of_length(x, y)
        train, validation = self.hold_out(everything.take(np.flatnonzero(test == 0)), seed)
        return Task(
            name=self.name,
            input_size=1,
            num_classes=10,
            class_names=tuple(str(digit) for digit in range(10)),
            train=train,
            validation=validation,
            test=everything.take(np.flatnonzero(test == 1)),
            frame="ink of one pixel, in reading order, standardised over the training set's pixels",
        )
