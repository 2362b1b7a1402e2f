"""Sequences too long to hold, frame by frame into a network that carries its state along."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cmru_hw.farm import Arrays
from cmru_hw.nn.cell import Cell
from cmru_hw.nn.network import Network
from cmru_hw.nn.threshold_cell import ThresholdCell
from cmru_hw.studies.trial import Trial
from cmru_hw.training.tasks import CopyFirstInput, TaskConfig

PIECE = 50
"""Frames made and taken at a time; lengths asked for are whole multiples."""


def copy_first_pieces(config: CopyFirstInput, y: np.ndarray, frames: int, seed: int) -> Iterator[np.ndarray]:
    """Sequences of the task copy_first_input of classes `y` [B], as pieces [B, PIECE, classes] in float32.

    Piece k is drawn by (seed, 5, k), so a longer sequence begins like a shorter one.
    """
    for piece in range(frames // PIECE):
        random = np.random.default_rng([seed, 5, piece])
        x = random.standard_normal((len(y), PIECE, config.classes), dtype=np.float32)
        x *= np.float32(config.noise_std)
        if piece == 0:
            x[:, 0] = np.eye(config.classes, dtype=np.float32)[y]
        yield x


def copy_first_input(trial: Trial) -> CopyFirstInput:
    """The options of a trial's task. Raises ValueError if it is another task."""
    options = trial.task.root if isinstance(trial.task, TaskConfig) else trial.task
    if not isinstance(options, CopyFirstInput):
        raise ValueError(f"task must be copy_first_input, got {options.name}")
    return options


@dataclass(frozen=True)
class Endurance:
    """Accuracy of a trained network on `sequences` of copy_first_input, after each of `lengths` frames.

    `noise_std` takes the place of the task's. `state_noise` is the standard deviation of Gaussian noise on
    every state after every frame, over the rms of the states after the first one, where a unit that has
    levels then puts its state back to the nearest (`holdable`), as the latches that hold it do.
    """

    trial: Trial
    weights: Arrays
    lengths: tuple[int, ...]
    sequences: int
    noise_std: float
    state_noise: float = 0.0
    seed: int = 0

    def run(self) -> Arrays:
        """`accuracy`, by length."""
        network = self.trial.trained(self.weights)
        task = copy_first_input(self.trial).model_copy(update={"noise_std": self.noise_std})
        y = np.random.default_rng([self.seed, 6]).integers(task.classes, size=self.sequences)
        states: list[Tensor] | None = None
        accuracies = []
        random = torch.Generator().manual_seed(self.seed)
        scale = 0.0
        with torch.no_grad():
            for k, piece in enumerate(copy_first_pieces(task, y, max(self.lengths), self.seed)):
                x = torch.from_numpy(piece)
                if self.state_noise == 0:
                    logits, states = network.resume(x, states)
                else:
                    for frame in x.split(1, dim=1):
                        logits, states = network.resume(frame, states)
                        scale = scale or self.state_noise * rms(states)
                        states = disturbed(network, states, scale, random)
                if (k + 1) * PIECE in self.lengths:
                    accuracies.append(float(np.mean(logits.argmax(1).numpy() == y)))
        return {"accuracy": np.array(accuracies)}


def rms(states: Sequence[Tensor]) -> float:
    """Root of the mean square of all states."""
    return float(torch.cat([state.abs().flatten() for state in states]).square().mean().sqrt())


def disturbed(network: Network, states: list[Tensor], std: float, random: torch.Generator) -> list[Tensor]:
    """States with noise of this standard deviation, put back to the levels of units that have some."""

    def restored(unit: Cell, state: Tensor) -> Tensor:
        noise = torch.randn(state.shape, generator=random, dtype=state.dtype)
        state = state + std * noise
        return unit.holdable(state) if isinstance(unit, ThresholdCell) else state

    return [restored(unit, state) for unit, state in zip(network.units, states, strict=True)]
