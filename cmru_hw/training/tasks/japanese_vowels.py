"""Speaker of an utterance."""

from __future__ import annotations

from typing import Literal

from cmru_hw.training.tasks.task import DividedOptions, Task, packaged_splits


class JapaneseVowels(DividedOptions):
    """Which of nine speakers says a vowel pair: Kudo, Toyama and Shimbo 1999 (UCI, CC BY 4.0).

    See models/data/japanese_vowels.md.
    """

    name: Literal["japanese_vowels"] = "japanese_vowels"

    def load(self, seed: int) -> Task:
        everything, test = packaged_splits("japanese_vowels.npz")
        train, validation = self.hold_out(everything, seed)
        return Task(
            name=self.name,
            input_size=12,
            num_classes=9,
            class_names=tuple(f"speaker {number}" for number in range(1, 10)),
            train=train,
            validation=validation,
            test=test,
            frame="12 LPC cepstrum coefficients, each standardised over the training set's frames",
        )
