"""Training: any `nn.Module` with forward(x [B, T, I], lengths [B]) -> scores [B, C] on a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import nn

from cmru_hw.console import progress_bar
from cmru_hw.errors import ConfigError
from cmru_hw.memory import keep_freed_memory
from cmru_hw.nn.network import Network
from cmru_hw.technology import Technology
from cmru_hw.training.abilities import anneals
from cmru_hw.training.checkpoint import load_checkpoint, refuse_other_run, save_checkpoint
from cmru_hw.training.circuit import Planned
from cmru_hw.training.config import TrainingConfig
from cmru_hw.training.evaluation import device_of
from cmru_hw.training.hardware import Hardware
from cmru_hw.training.interrupt import delayed_interrupt
from cmru_hw.training.log import event_writer, open_log
from cmru_hw.training.loop import TrainingLoop
from cmru_hw.training.results import (
    TrainingResult,
    read_finished,
    run_identity,
    summarize,
    write_finished,
)
from cmru_hw.training.tasks import Task

CHECKPOINT = "checkpoint.safetensors"


def train(
    network: nn.Module,
    task: Task,
    config: TrainingConfig,
    run: Path | None = None,
    *,
    resume: bool = True,
    progress: bool = False,
    prepare: Callable[[nn.Module], None] | None = None,
    planned: Planned | None = None,
    technology: Technology | None = None,
    tensorboard: bool = False,
) -> TrainingResult:
    """Train `network` in place and return what happened; the weights left are the chosen ones.

    With a validation split, the best weights by validation accuracy at epsilon 0 are chosen, else the last
    ones; the test split is only reported. `prepare` may rescale the network between the main phase and the
    quantised one. `planned` and `technology` are what `hardware_noise` draws chips of. With a folder `run`,
    checkpoints are written there, a stopped run goes on bit by bit as if it had not stopped (unless `resume`
    is false), and a finished one is only read back. `history.csv` grows with every evaluation, and so do
    events for TensorBoard if wanted.

    The network is trained on `config.device` and comes back to where it was; a run stopped on one device may
    go on on another. All randomness of a step follows from (config.seed, step); the global generators are
    left alone.
    Raises TrainingError for a loss that is not finite or a checkpoint of another run, ConfigError for what
    the configuration asks for and is not there: a device, a validation split, a package.
    """
    if len(task.train) == 0:
        raise ConfigError(f"task {task.name}: the training split is empty")
    if anneals(network) and config.epsilon(config.steps) > 0:
        raise ConfigError(
            f"training.steps: {config.steps} ends with epsilon above 0; it must be at least "
            f"epsilon_hold + epsilon_anneal = {config.epsilon_hold + config.epsilon_anneal}"
        )
    if config.early_stopping is not None and task.validation is None:
        raise ConfigError(
            "training.early_stopping: needs a validation split; set task.validation_fraction above 0"
        )
    if tensorboard:
        event_writer()
        if run is None:
            raise ConfigError("tensorboard: events need a folder to be written to")
    keep_freed_memory()
    with _on_device(network, config.device) as device:
        hardware = None
        if config.hardware_noise is not None:
            hardware = _hardware(network, task, config, planned or Planned(), technology)
        loop = TrainingLoop(network, task, config, prepare, hardware)
        identity = run_identity(network, task, config, hardware)
        if run is not None and resume and (run / CHECKPOINT).exists():
            tensors, record = load_checkpoint(run / CHECKPOINT)
            refuse_other_run(run / CHECKPOINT, record["run"], identity)
            loop.restore(tensors, record)
            if loop.finished and (metrics := read_finished(run, network)) is not None:
                if tensorboard:
                    with open_log(run, tensorboard) as whole:
                        whole.follow(loop.history)
                return TrainingResult(loop.history, metrics)

        def checkpoint() -> None:
            if run is not None:
                save_checkpoint(run / CHECKPOINT, *loop.state(identity))

        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            progress_bar("training", config.total_steps, loop.step) if progress else nullcontext() as report,
            open_log(run, tensorboard) if run is not None else nullcontext() as log,
            delayed_interrupt() as interrupted,
        ):
            if log is not None:
                log.follow(loop.history)
            while not loop.finished:
                loop.advance()
                if log is not None:
                    log.follow(loop.history)
                if report is not None:
                    report(loop.step, loop.status)
                if interrupted() or loop.step % config.checkpoint_every == 0:
                    checkpoint()
                if interrupted():
                    raise KeyboardInterrupt
        checkpoint()
        loop.finish()
        best_step = loop.best.step if loop.best else loop.step
        metrics = summarize(network, task, config, loop.step, best_step, loop.seconds)
        result = TrainingResult(loop.history, metrics)
        if run is not None:
            write_finished(run, network, result)
        return result


@contextmanager
def _on_device(network: nn.Module, name: str | None) -> Iterator[torch.device]:
    """The network on the device of that name, for a while. Raises ConfigError if there is none."""
    home, gpu = device_of(network), torch.cuda.is_available()
    if name == "cuda" and not gpu:
        raise ConfigError("training.device: cuda, but torch finds no GPU; cpu and auto need none")
    if name is None:
        yield home
        return
    network.to("cuda" if gpu and name != "cpu" else "cpu")
    try:
        yield device_of(network)
    finally:
        network.to(home)


def _hardware(
    network: nn.Module, task: Task, config: TrainingConfig, planned: Planned, technology: Technology | None
) -> Hardware:
    """What `hardware_noise` draws. Raises ConfigError where nothing can be drawn."""
    noise = config.hardware_noise
    if technology is None:
        raise ConfigError("training.hardware_noise: needs a technology to draw chips of")
    if not isinstance(network, Network):
        raise ConfigError(
            f"training.hardware_noise: a {type(network).__name__} has no circuit; it must be none"
        )
    if noise is not None and min(config.batch_size, len(task.train)) % noise.chips:
        raise ConfigError(
            f"training.hardware_noise.chips: a batch of {len(task.train)} sequences, all there are, cannot "
            f"be shared out evenly over {noise.chips} chips"
        )
    if noise is not None:
        for celsius in noise.temperature_celsius or ():
            technology.at(celsius)
    return Hardware(network, planned, technology)
