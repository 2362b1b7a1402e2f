"""Remember the last pulse of each channel."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from cmru_hw.training.tasks.task import GeneratedOptions, Split, Task, of_length


class FlipFlop(GeneratedOptions):
    """Flip-flops set by pulses of +1 and reset by pulses of -1; the class is their joint state at the end.

    Each frame of each channel holds a pulse with probability `pulse_probability`, of either sign alike, and
    is else 0; Gaussian noise of standard deviation `noise_std` is on all frames. All flip-flops start reset.
    Bit k of the class is the state of channel k. After Sussillo and Barak 2013, doi 10.1162/NECO_a_00409.
    """

    name: Literal["flip_flop"] = "flip_flop"
    bits: int = Field(default=2, ge=1, le=8)
    length: int = Field(default=100, ge=1)
    pulse_probability: float = Field(default=0.05, gt=0.0, le=1.0)
    noise_std: float = Field(default=0.1, ge=0.0)

    def load(self, seed: int) -> Task:
        train, validation, test = self.generate(self._draw, seed)
        return Task(
            name=self.name,
            input_size=self.bits,
            num_classes=2**self.bits,
            class_names=tuple(f"{state:0{self.bits}b}" for state in range(2**self.bits)),
            train=train,
            validation=validation,
            test=test,
            frame=f"{self.bits} channels of sparse pulses of -1 and +1, noise of {self.noise_std:g}",
        )

    def _draw(self, size: int, random: np.random.Generator) -> Split:
        shape = (size, self.length, self.bits)
        pulses = np.sign(random.random(shape) - 0.5) * (random.random(shape) < self.pulse_probability)
        noise = self.noise_std * random.standard_normal(shape)
        when = np.where(pulses != 0, np.arange(self.length)[:, None], -1).argmax(1)
        last = np.take_along_axis(pulses, when[:, None], axis=1)[:, 0]
        y = ((last > 0) << np.arange(self.bits)).sum(1)
        return of_length((pulses + noise).astype(np.float32), y.astype(np.int64))
