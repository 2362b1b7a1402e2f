"""The tasks a network is trained on: arrays of input sequences with one class each. One task, one module."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, RootModel

from cmru_hw.training.tasks.basic_motions import BasicMotions as BasicMotions
from cmru_hw.training.tasks.copy_first_input import CopyFirstInput as CopyFirstInput
from cmru_hw.training.tasks.digits import Digits as Digits
from cmru_hw.training.tasks.expressions import Expressions as Expressions
from cmru_hw.training.tasks.flip_flop import FlipFlop as FlipFlop
from cmru_hw.training.tasks.japanese_vowels import JapaneseVowels as JapaneseVowels
from cmru_hw.training.tasks.parity import Parity as Parity
from cmru_hw.training.tasks.shapes_1d import Shapes1D as Shapes1D
from cmru_hw.training.tasks.speech_commands import SpeechCommands as SpeechCommands
from cmru_hw.training.tasks.task import Split as Split
from cmru_hw.training.tasks.task import Task as Task
from cmru_hw.training.tasks.task import TaskOptions as TaskOptions

TASKS: dict[str, type[TaskOptions]] = {
    "japanese_vowels": JapaneseVowels,
    "basic_motions": BasicMotions,
    "digits": Digits,
    "speech_commands": SpeechCommands,
    "copy_first_input": CopyFirstInput,
    "flip_flop": FlipFlop,
    "parity": Parity,
    "shapes_1d": Shapes1D,
    "expressions": Expressions,
}
"""The options of each task."""

TASK_NAMES = tuple(TASKS)


class TaskConfig(
    RootModel[
        Annotated[
            JapaneseVowels
            | BasicMotions
            | Digits
            | SpeechCommands
            | CopyFirstInput
            | FlipFlop
            | Parity
            | Shapes1D
            | Expressions,
            Field(discriminator="name"),
        ]
    ]
):
    """Which task, with the options of that task: `TaskConfig(name="parity", length=50)`."""

    model_config = ConfigDict(frozen=True)

    @property
    def name(self) -> str:
        return self.root.name


def load_task(config: TaskConfig | TaskOptions, seed: int) -> Task:
    """The task of `config`. `seed` draws the generated data and the validation split."""
    return (config.root if isinstance(config, TaskConfig) else config).load(seed)
