"""What a task is: three sets of sequences with one class each, and the options that all tasks share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from cmru_hw.config import Strict, packaged
from cmru_hw.errors import ConfigError


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


class TaskOptions(Strict, ABC):
    """The options of every task; a task adds its `name`, its own options and `load`."""

    name: str

    @abstractmethod
    def load(self, seed: int) -> Task:
        """The task. `seed` draws generated data, the validation split and what else there is to draw."""


class DividedOptions(TaskOptions):
    """The options of tasks without a validation set of their own."""

    validation_fraction: float = Field(default=0.0, ge=0.0, le=0.5)
    """Share of each class of the training set that is held out to choose the best weights."""

    def hold_out(self, train: Split, seed: int) -> tuple[Split, Split | None]:
        """Split off `validation_fraction` of each class, drawn by `seed`."""
        if self.validation_fraction == 0:
            return train, None
        random = np.random.default_rng([seed, 2])
        held = np.zeros(len(train), dtype=bool)
        for label in np.unique(train.y):
            members = random.permutation(np.flatnonzero(train.y == label))
            held[members[: round(self.validation_fraction * len(members))]] = True
        if not held.any():
            share = f"{self.validation_fraction:g} of {len(train)} sequences"
            raise ConfigError(f"task.validation_fraction: {share} holds out none")
        return train.take(np.flatnonzero(~held)), train.take(np.flatnonzero(held))


class GeneratedOptions(DividedOptions):
    """The options of tasks whose sequences are generated."""

    train_size: int = Field(default=4096, ge=1)
    test_size: int = Field(default=1024, ge=1)

    def generate(
        self, draw: Callable[[int, np.random.Generator], Split], seed: int
    ) -> tuple[Split, Split | None, Split]:
        """Training, validation and test set; `draw(size, random)` makes the sequences of one set."""
        train = draw(self.train_size, np.random.default_rng([seed, 0]))
        return *self.hold_out(train, seed), draw(self.test_size, np.random.default_rng([seed, 1]))


def of_length(x: np.ndarray, y: np.ndarray) -> Split:
    """Sequences that are all as long as the array."""
    return Split(x, y, np.full(len(x), x.shape[1], dtype=np.int64))


def packaged_splits(file: str) -> tuple[Split, Split]:
    """Training and test set of an archive in models/data with x, y, lengths and split (0 train, 1 test).

    Each channel is standardised over the frames of the whole training set, validation part included.
    """
    path: Path = packaged("models", "data", file)
    with np.load(path, allow_pickle=False) as archive:
        raw, y, lengths, test = (archive[key] for key in ("x", "y", "lengths", "split"))
    valid = np.arange(raw.shape[1]) < lengths[:, None]
    frames = raw[(test == 0)[:, None] & valid].astype(np.float64)
    x = np.where(valid[..., None], (raw - frames.mean(0)) / frames.std(0), 0.0).astype(np.float32)
    everything = Split(x, y, lengths)
    return everything.take(np.flatnonzero(test == 0)), everything.take(np.flatnonzero(test == 1))
