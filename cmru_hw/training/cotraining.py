"""Weights and sizes trained together: the task's loss on mismatched chips, and what area and power cost.

    loss = cross entropy of chips + margin penalty + lambda_area area / A_0 + lambda_power power / P_0

A_0 and P_0 are those of the circuit to start from. First everything moves, rounding being a random error of
up to half a unit; then sizes are rounded and weights go on, in whole units, with the same loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cmru_hw.errors import TrainingError
from cmru_hw.nn.network import Network
from cmru_hw.training.config import MarginConfig
from cmru_hw.training.cost import Cost
from cmru_hw.training.evaluation import to_tensors
from cmru_hw.training.hardware import Hardware
from cmru_hw.training.margin import shortfall
from cmru_hw.training.quantization import fake_hold, matrix_names, state_names
from cmru_hw.training.sizes import TrainableSizes
from cmru_hw.training.tasks import Split


@dataclass(frozen=True)
class Descent:
    """How a co-training runs. `cost_area` and `cost_power` are the lambdas, `scale` a factor on sigmas."""

    steps: int
    finish_steps: int
    learning_rate: float
    size_learning_rate: float
    batch_size: int
    chips: int
    scale: float
    cost_area: float
    cost_power: float
    max_ratio: float
    margin: MarginConfig | None
    seed: int


def train_with_sizes(
    network: Network,
    sizes: TrainableSizes,
    reference: tuple[float, float],
    train: Split,
    descent: Descent,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Train `network`, which `sizes` are of, and with `descent.steps` > 0 the sizes, in place.

    `reference` are A_0 (m^2) and P_0 (W). The network ends with whole units on the grid of the sizes, which
    end round. Randomness follows from the seed; torch's generator is left alone. Raises TrainingError for a
    loss that is not finite.
    """
    run = _Run(network, sizes, reference, train, descent)
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(descent.seed)
        groups = [{"params": list(sizes.parameters()), "lr": descent.size_learning_rate, "weight_decay": 0.0}]
        run.descend(descent.steps, groups, moving=True, progress=progress)
        sizes.round_()
        run.descend(descent.finish_steps, [], moving=False, progress=progress)
    sizes.bake(network, descent.max_ratio)
    for name, cell in state_names(network).items():
        with torch.no_grad():
            network.get_parameter(name).copy_(cell.holdable(network.get_parameter(name)))
    network.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, and their sums then depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Run:
    def __init__(
        self,
        network: Network,
        sizes: TrainableSizes,
        reference: tuple[float, float],
        train: Split,
        descent: Descent,
    ) -> None:
        self.network, self.sizes, self.reference = network, sizes, reference
        self.train, self.descent = train, descent
        self.hardware: Hardware = sizes.hardware
        self.cost, self.starts = Cost(self.hardware), state_names(network)
        self.random = np.random.default_rng([descent.seed, 1])
        self.done = 0

    def descend(
        self,
        steps: int,
        groups: list[dict[str, object]],
        moving: bool,
        progress: Callable[[int], None] | None,
    ) -> None:
        """Steps of AdamW along a cosine; the sizes are among its parameters where they are `moving`."""
        if not steps:
            return
        own = {"params": list(self.network.parameters()), "lr": self.descent.learning_rate}
        optimizer = torch.optim.AdamW([own, *groups], betas=(0.9, 0.99), weight_decay=1e-4)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, steps, 0.01 * self.descent.learning_rate
        )
        self.network.train()
        for _ in range(steps):
            optimizer.zero_grad()
            loss = self.loss(moving)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"optimize: step {self.done}: loss {loss.item()}; lower the learning rates"
                )
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            optimizer.step()
            cosine.step()
            self.network.project_()
            self.sizes.project_()
            with torch.no_grad():
                for name in matrix_names(self.network):
                    self.network.get_parameter(name).clamp_(-self.descent.max_ratio, self.descent.max_ratio)
            self.done += 1
            if progress:
                progress(self.done)

    def loss(self, moving: bool) -> Tensor:
        """Of one batch, shared out over chips."""
        descent, hardware, mismatch = self.descent, self.hardware, self.hardware.mismatch
        batch = self.train.take(self.random.permutation(len(self.train))[: descent.batch_size])
        x, y, lengths = to_tensors(batch, torch.device("cpu"))
        parameters: dict[str, Tensor] = dict(self.network.named_parameters())
        for name, cell in self.starts.items():
            parameters[name] = fake_hold(parameters[name], cell)
        sizes, current = self.sizes.sizes(), self.sizes.unit_current
        if not moving:
            sizes, current = sizes.detached(), current.detach()
        dither = torch.rand(mismatch.weights) - 0.5 if moving else None
        chips = hardware.draw(
            parameters, descent.scale * hardware.deviates(descent.chips), sizes, dither=dither
        )
        scores, margins, _ = hardware.run(x, lengths, parameters, chips)
        loss = nn.functional.cross_entropy(scores, y)
        if descent.margin is not None:
            short = [shortfall(margin, descent.margin.distance, lengths) for margin in margins]
            loss = loss + descent.margin.weight * torch.stack(short).mean()
        if descent.cost_area:
            loss = loss + descent.cost_area * self.cost.area(parameters, sizes) / self.reference[0]
        if descent.cost_power:
            power = self.cost.power(parameters, sizes, current, x, lengths)
            loss = loss + descent.cost_power * power / self.reference[1]
        return loss
