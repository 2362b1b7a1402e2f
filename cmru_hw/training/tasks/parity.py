"""Count events modulo 2."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from cmru_hw.training.tasks.task import GeneratedOptions, Split, Task, of_length


class Parity(GeneratedOptions):
    """The class is the number of events modulo 2.

    A sequence has 0 to `events` events, each number as likely as any other, at distinct frames drawn
    alike. A frame is 1 where there is an event and 0 elsewhere, plus Gaussian noise of standard deviation
    `noise_std`. To know the class, a network has to keep one bit that each event turns over.
    """

    name: Literal["parity"] = "parity"
    length: int = Field(default=100, ge=1)
    events: int = Field(default=7, ge=1)
    noise_std: float = Field(default=0.1, ge=0.0)

    @model_validator(mode="after")
    def _events_fit(self) -> Self:
        if self.events > self.length:
            raise ValueError(f"events must be at most length ({self.length}), got {self.events}")
        return self

    def load(self, seed: int) -> Task:
        train, validation, test = self.generate(self._draw, seed)
        return Task(
            name=self.name,
            input_size=1,
            num_classes=2,
            class_names=("even", "odd"),
            train=train,
            validation=validation,
            test=test,
            frame=f"1 at an event and 0 elsewhere, noise of {self.noise_std:g}",
        )

    def _draw(self, size: int, random: np.random.Generator) -> Split:
        count = random.integers(self.events + 1, size=size)
        rank = random.random((size, self.length)).argsort(1).argsort(1)
        events = rank < count[:, None]
        x = events + self.noise_std * random.standard_normal(events.shape)
        return of_length(x[..., None].astype(np.float32), count % 2)
