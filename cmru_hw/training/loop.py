"""The training loop as a state that moves one step at a time and can be written down."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from cmru_hw.errors import TrainingError
from cmru_hw.training.abilities import Projected, anneals, pool_with_gradient
from cmru_hw.training.checkpoint import Record, optimizer_tensors, restore_optimizer
from cmru_hw.training.config import HardwareNoiseConfig, QuantizationConfig, TrainingConfig
from cmru_hw.training.evaluation import Evaluation, device_of, evaluate, to_tensors
from cmru_hw.training.hardware import Hardware
from cmru_hw.training.margin import margin_penalty, raise_thresholds, shortfall
from cmru_hw.training.noise import perturb, set_candidate_noise, set_packet_asymmetry
from cmru_hw.training.quantization import bake, fake_hold, fake_quantize, matrix_names, state_names
from cmru_hw.training.tasks import Split, Task

FINAL_RATE = 0.01
"""The cosine's end, as a share of the learning rate."""


@dataclass
class Best:
    """The weights with the best validation accuracy so far; ties go to the lower loss."""

    step: int
    accuracy: float
    loss: float
    weights: dict[str, Tensor]


class TrainingLoop:
    """The state of a run after `step` steps, and how it moves."""

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        config: TrainingConfig,
        prepare: Callable[[nn.Module], None] | None,
        hardware: Hardware | None = None,
    ) -> None:
        self.hardware = hardware
        self.network, self.task, self.config, self.prepare = network, task, config, prepare
        self.names = [name for name, _ in network.named_parameters()]
        self.matrices, self.starts = matrix_names(network), state_names(network)
        self.optimizer = self._new_optimizer()
        set_candidate_noise(network, config.candidate_noise)
        set_packet_asymmetry(network, config.packet_asymmetry)
        self.step = 0
        self.ends = [config.steps, config.total_steps]  # of the main phase and the quantised one
        self.stale = 0  # evaluations since the best of this phase
        self.best: Best | None = None
        self.history: list[Record] = []
        self.losses: list[float] = []
        self.hits: list[float] = []
        self.seconds = 0.0
        self.status = ""

    @property
    def finished(self) -> bool:
        """Whether both phases are done."""
        return self.step == self.ends[1]

    def advance(self) -> None:
        """One step, and the evaluation that is due after it."""
        began = time.perf_counter()
        if self.step == self.ends[0]:
            self._enter_quantized_phase()
        seeds = np.random.SeedSequence([self.config.seed, 3, self.step])
        _seed(int(seeds.generate_state(1)[0]), device_of(self.network))
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self._set_epsilon()
        self._descend(self._batch())
        self.step += 1
        if self.step in self.ends or self.step % self.config.evaluate_every == 0:
            self.history.append(self._record())
            self._end_early()
        self.seconds += time.perf_counter() - began

    def finish(self) -> None:
        """Leave the chosen weights in the network, rounded if they are to be, and nothing switched on."""
        self._restore_best()
        self._set_epsilon()
        set_candidate_noise(self.network, 0.0)
        set_packet_asymmetry(self.network, 0.0)
        if quantization := self.config.quantization:
            bake(self.network, quantization.units, quantization.max_ratio)
        self.network.eval()

    def state(self, identity: Record) -> tuple[dict[str, Tensor], Record]:
        """Tensors and record of a checkpoint."""
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer, self.names)
        best = None
        if self.best is not None:
            tensors |= {f"best/{name}": value for name, value in self.best.weights.items()}
            best = {"step": self.best.step, "accuracy": self.best.accuracy, "loss": self.best.loss}
        record = {"run": identity, "step": self.step, "best": best, "history": self.history}
        record |= {"ends": self.ends, "stale": self.stale}
        record |= {"losses": self.losses, "hits": self.hits, "seconds": self.seconds}
        return tensors, record

    def restore(self, tensors: dict[str, Tensor], record: Record) -> None:
        """Become what `state` described."""
        self.network.load_state_dict(_under("network/", tensors))
        self.step, self.ends, self.stale = record["step"], record["ends"], record["stale"]
        restore_optimizer(self.optimizer, self.names, tensors)
        if record["best"] is not None:
            self.best = Best(**record["best"], weights=_under("best/", tensors))
        self.history, self.seconds = record["history"], record["seconds"]
        self.losses, self.hits = record["losses"], record["hits"]

    def _descend(self, batch: Split) -> None:
        """One optimiser step on a batch, under this step's noise."""
        x, y, lengths = to_tensors(batch, device_of(self.network))
        self.network.train()
        self.optimizer.zero_grad()
        with pool_with_gradient(self.network):
            scores, penalty = self._noisy_scores(x, lengths)
        smoothing = self.config.label_smoothing
        loss = nn.functional.cross_entropy(scores, y, label_smoothing=smoothing) + penalty
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            raise TrainingError(
                f"step {self.step}: loss {loss.item()}, gradient norm {norm.item()}: not finite; "
                "lower the learning rate or look at the data"
            )
        self.optimizer.step()
        self._project()
        self.losses.append(loss.item())
        self.hits.append(float((scores.argmax(1) == y).float().mean()))

    def _noisy_scores(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and the penalty on small margins."""
        parameters: dict[str, Tensor] = dict(self.network.named_parameters())
        if (quantization := self._quantization()) is not None:
            for name in self.matrices:
                parameters[name] = fake_quantize(parameters[name], quantization.units, quantization.max_ratio)
            for name, cell in self.starts.items():
                parameters[name] = fake_hold(parameters[name], cell)
        if self.hardware is not None and (noise := self.config.hardware_noise) is not None:
            return self._on_chips(self.hardware, noise, parameters, x, lengths)
        parameters = perturb(parameters, self.config.weight_noise)
        with margin_penalty(self.network, self.config.margin, lengths, self.step) as penalty:
            scores: Tensor = functional_call(self.network, parameters, (x, lengths))
        return scores, penalty()

    def _on_chips(
        self, hardware: Hardware, noise: HardwareNoiseConfig, parameters: dict[str, Tensor], x: Tensor,
        lengths: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The same, each share of the batch on a chip of its own."""
        celsius = None
        if noise.temperature_celsius is not None:
            low, high = noise.temperature_celsius
            celsius = low + (high - low) * float(torch.rand(()))
        deviates = noise.strength(self.step) * hardware.deviates(noise.chips)
        chips = hardware.draw(parameters, deviates, celsius=celsius)
        scores, margins, _ = hardware.run(x, lengths, parameters, chips, noise.branch_noise)
        config = self.config.margin
        if config is None:
            return scores, scores.new_zeros(())
        short = torch.stack([shortfall(margin, config.distance, lengths) for margin in margins])
        return scores, config.weight_at(self.step) * short.mean()

    def _project(self) -> None:
        limits = [self.config.weight_limit, q.max_ratio if (q := self._quantization()) else None]
        limit = min((value for value in limits if value is not None), default=None)
        if limit is not None:
            with torch.no_grad():
                for name in self.matrices:
                    self.network.get_parameter(name).clamp_(-limit, limit)
        if isinstance(self.network, Projected):
            self.network.project_()
        if self.config.threshold_floor > 0:
            raise_thresholds(self.network, self.config.threshold_floor)

    def _record(self) -> Record:
        """The history's next line; the weights are kept if they are the best so far."""
        epsilon = self._set_epsilon()
        validation = self._validate()
        row: Record = {
            "step": self.step,
            "loss": float(np.mean(self.losses)),
            "batch_accuracy": float(np.mean(self.hits)),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "epsilon": epsilon,
            "validation_accuracy": validation.accuracy if validation else None,
            "validation_loss": validation.loss if validation else None,
        }
        self.losses, self.hits = [], []
        self.status = f"loss {row['loss']:.3f}"
        if validation is None:
            return row
        self.status += f", validation {validation.accuracy:.3f}"
        if epsilon > 0 or not self._is_annealed():
            return row
        better = self.best is None or (validation.accuracy, -validation.loss) > (
            self.best.accuracy,
            -self.best.loss,
        )
        self.stale = 0 if better else self.stale + 1
        if better:
            weights = {name: value.clone() for name, value in self.network.state_dict().items()}
            self.best = Best(self.step, validation.accuracy, validation.loss, weights)
        return row

    def _end_early(self) -> None:
        """End a phase that has not improved for long."""
        early = self.config.early_stopping
        if early is not None and self.stale >= early.patience:
            later = 0 if self.step > self.ends[0] else self.ends[1] - self.ends[0]
            self.ends = [min(self.step, self.ends[0]), self.step + later]

    def _is_annealed(self) -> bool:
        """Whether chips have all their errors and margins all their weight: until then none is kept."""
        noise, margin = self.config.hardware_noise, self.config.margin
        loud = noise is None or self.step > noise.anneal
        return loud and (margin is None or self.step > margin.hold + margin.anneal)

    def _validate(self) -> Evaluation | None:
        if self.task.validation is None:
            return None
        if (quantization := self._quantization(of_step=self.step - 1)) is None:
            return evaluate(self.network, self.task.validation)
        baked = copy.deepcopy(self.network)
        bake(baked, quantization.units, quantization.max_ratio)
        return evaluate(baked, self.task.validation)

    def _enter_quantized_phase(self) -> None:
        self._restore_best()
        if self.prepare is not None:
            self.prepare(self.network)
        self.best, self.stale = None, 0
        self.optimizer = self._new_optimizer()

    def _set_epsilon(self) -> float:
        """Epsilon after the steps done; 0 for a network that has none."""
        if not anneals(self.network):
            return 0.0
        epsilon = self.config.epsilon(self.step)
        self.network.set_epsilon(epsilon)
        return epsilon

    def _restore_best(self) -> None:
        if self.best is not None:
            self.network.load_state_dict(self.best.weights)

    def _quantization(self, of_step: int | None = None) -> QuantizationConfig | None:
        """The quantisation of a step, this one by default; None in the main phase."""
        step = self.step if of_step is None else of_step
        return self.config.quantization if step >= self.ends[0] else None

    def _learning_rate(self) -> float:
        q = self._quantization()
        peak, done, length = (
            (q.learning_rate, self.step - self.ends[0], q.steps)
            if q
            else (self.config.learning_rate, self.step, self.config.steps)
        )
        return peak * (FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * done / length)) / 2)

    def _batch(self) -> Split:
        """The step's share of its epoch's permutation of the training set."""
        size = min(self.config.batch_size, len(self.task.train))
        epoch, position = divmod(self.step, len(self.task.train) // size)
        order = np.random.default_rng([self.config.seed, 4, epoch]).permutation(len(self.task.train))
        return self.task.train.take(order[position * size : (position + 1) * size])

    def _new_optimizer(self) -> torch.optim.AdamW:
        c = self.config
        return torch.optim.AdamW(
            self.network.parameters(), lr=c.learning_rate, betas=c.betas, weight_decay=c.weight_decay,
            fused=True,
        )  # fmt: skip


def _seed(seed: int, device: torch.device) -> None:
    """On a CPU without asking every accelerator, which takes longer than drawing the noise."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
