"""What somebody with a smart watch does."""

from __future__ import annotations

from typing import Literal

from cmru_hw.training.tasks.task import DividedOptions, Task, packaged_splits


class BasicMotions(DividedOptions):
    """Standing, running, walking or badminton from a smart watch, 100 frames of 0.1 s.

    BasicMotions of the UEA archive (Bagnall et al., arXiv 1811.00075); see models/data/basic_motions.md.
    """

    name: Literal["basic_motions"] = "basic_motions"

    def load(self, seed: int) -> Task:
        everything, test = packaged_splits("basic_motions.npz")
        train, validation = self.hold_out(everything, seed)
        return Task(
            name=self.name,
            input_size=6,
            num_classes=4,
            class_names=("standing", "running", "walking", "badminton"),
            train=train,
            validation=validation,
            test=test,
            frame="3 axes of acceleration, 3 of rotation, each standardised over the training set's frames",
        )
