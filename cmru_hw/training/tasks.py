"""The tasks a network is trained on: arrays of input sequences with one class each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from pydantic import Field, model_validator

from cmru_hw.config import Strict, packaged
from cmru_hw.errors import ConfigError

TaskName = Literal["japanese_vowels", "copy_first_input"]
TASK_NAMES: tuple[str, ...] = get_args(TaskName)


class TaskConfig(Strict):
    """Which task, and the options of the generated ones."""

    name: TaskName
    validation_fraction: float = Field(default=0.0, ge=0.0, le=0.5)
    """Share of each class of the training set that is held out to choose the best weights."""

    length: int = Field(default=150, ge=2)
    classes: int = Field(default=8, ge=2)
    train_size: int = Field(default=4096, ge=1)
    test_size: int = Field(default=1024, ge=1)
    noise_std: float = Field(default=0.1, ge=0.0)

    @model_validator(mode="after")
    def _options_belong_to_task(self) -> TaskConfig:
        if self.name == "japanese_vowels":
            for option in ("length", "classes", "train_size", "test_size", "noise_std"):
                if getattr(self, option) != type(self).model_fields[option].default:
                    raise ValueError(f"{option} is an option of copy_first_input, not of {self.name}")
        return self


@dataclass(frozen=True)
class Split:
    """Sequences `x [B, T, I]` (float32, zeros behind the end), classes `y [B]`, frames `lengths [B]`."""

    x: np.ndarray
    y: np.ndarray
    lengths: np.ndarray

    def __post_init__(self) -> None:
        if self.x.ndim != 3 or self.y.shape != self.x.shape[:1] or self.lengths.shape != self.x.shape[:1]:
            shapes = f"{self.x.shape}, {self.y.shape} and {self.lengths.shape}"
            raise ConfigError(f"a split holds x [B,T,I], y [B] and lengths [B], got shapes {shapes}")
        if len(self) and (self.lengths.min() < 1 or self.lengths.max() > self.x.shape[1]):
            found = f"{self.lengths.min()} to {self.lengths.max()}"
            raise ConfigError(f"lengths must be 1 to {self.x.shape[1]} frames, got {found}")

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: np.ndarray) -> Split:
        """The sequences at `index`, cut to the longest of them."""
        lengths = self.lengths[index]
        return Split(self.x[index, : lengths.max(initial=1)], self.y[index], lengths)


@dataclass(frozen=True)
class Task:
    """A data set: `frame` says what one input vector is, in words, for reports."""

    name: str
    input_size: int
    num_classes: int
    class_names: tuple[str, ...]
    train: Split
    validation: Split | None
    test: Split
    frame: str


def load_task(config: TaskConfig, seed: int) -> Task:
    """The task of `config`. `seed` draws the generated data and the validation split."""
    if config.name not in _LOADERS:
        raise ConfigError(f"task: unknown name {config.name!r}; known: {', '.join(TASK_NAMES)}")
    return _LOADERS[config.name](config, seed)


def _japanese_vowels(config: TaskConfig, seed: int) -> Task:
    """Speaker of an utterance: Kudo, Toyama and Shimbo 1999 (UCI, CC BY 4.0); see models/data.

    Each cepstrum is standardised over the frames of the whole training set, validation part included.
    """
    with np.load(packaged("models", "data", "japanese_vowels.npz"), allow_pickle=False) as archive:
        raw, y, lengths, test = (archive[key] for key in ("x", "y", "lengths", "split"))
    valid = np.arange(raw.shape[1]) < lengths[:, None]
    frames = raw[(test == 0)[:, None] & valid].astype(np.float64)
    x = np.where(valid[..., None], (raw - frames.mean(0)) / frames.std(0), 0.0).astype(np.float32)
    everything = Split(x, y, lengths)
    train, validation = _hold_out(everything.take(np.flatnonzero(test == 0)), config, seed)
    return Task(
        name=config.name,
        input_size=x.shape[2],
        num_classes=9,
        class_names=tuple(f"speaker {number}" for number in range(1, 10)),
        train=train,
        validation=validation,
        test=everything.take(np.flatnonzero(test == 1)),
        frame="12 LPC cepstrum coefficients, each standardised over the training set's frames",
    )


def _copy_first_input(config: TaskConfig, seed: int) -> Task:
    """Remember the first frame: it is the class as a one-hot vector, and all later frames are noise.

    x[0] = e_class (exactly, no noise on it); x[t] = noise_std N(0, 1) for 0 < t < length.
    """

    def generate(size: int, stream: int) -> Split:
        random = np.random.default_rng([seed, stream])
        y = random.integers(config.classes, size=size)
        x = random.standard_normal((size, config.length, config.classes), dtype=np.float32)
        x *= np.float32(config.noise_std)
        x[:, 0] = np.eye(config.classes, dtype=np.float32)[y]
        return Split(x, y, np.full(size, config.length, dtype=np.int64))

    train, validation = _hold_out(generate(config.train_size, 0), config, seed)
    return Task(
        name=config.name,
        input_size=config.classes,
        num_classes=config.classes,
        class_names=tuple(f"input {number}" for number in range(config.classes)),
        train=train,
        validation=validation,
        test=generate(config.test_size, 1),
        frame=f"first frame one-hot, then Gaussian noise of standard deviation {config.noise_std:g}",
    )


def _hold_out(train: Split, config: TaskConfig, seed: int) -> tuple[Split, Split | None]:
    """Split off `validation_fraction` of each class, drawn by `seed`."""
    if config.validation_fraction == 0:
        return train, None
    random = np.random.default_rng([seed, 2])
    held = np.zeros(len(train), dtype=bool)
    for label in np.unique(train.y):
        members = random.permutation(np.flatnonzero(train.y == label))
        held[members[: round(config.validation_fraction * len(members))]] = True
    if not held.any():
        share = f"{config.validation_fraction:g} of {len(train)} sequences"
        raise ConfigError(f"task.validation_fraction: {share} holds out none")
    return train.take(np.flatnonzero(~held)), train.take(np.flatnonzero(held))


_LOADERS: dict[str, Callable[[TaskConfig, int], Task]] = {
    "japanese_vowels": _japanese_vowels,
    "copy_first_input": _copy_first_input,
}
