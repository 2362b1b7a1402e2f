"""Training with the hardware's errors against training without: accuracy and yield over mismatched chips.

Two recipes, `plain` (no errors on parameters) and `aware` (`training.hardware_noise`), each with several
seeds; all else is the configuration's. Both are mapped, and the same chips decide the test set at several
factors on sigma. A factor s is what transistors of 1 / s^2 of the area have.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cmru_hw.analysis.robustness import Lot, chip_accuracies, summarize
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.codesign import Plan, claim, fingerprint, train_network
from cmru_hw.config import write_atomically
from cmru_hw.console import progress_bar
from cmru_hw.errors import ConfigError
from cmru_hw.farm import Arrays, Farm, Store, run_jobs
from cmru_hw.mapping import check_mappable, map_folder
from cmru_hw.nn.network import Network, save_network
from cmru_hw.report.plots import aware_training, svg
from cmru_hw.stimulus import make_stimulus
from cmru_hw.training import TrainingConfig, load_task

RECIPES = ("plain", "aware")
SIGMA_SCALES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)
SWITCHED_OFF: dict[str, Any] = {"hardware_noise": None, "weight_noise": 0.0, "packet_asymmetry": 0.0}


def compare_training(
    plan: Plan,
    out: Path,
    seeds: int,
    chips: int,
    sigma_scales: Sequence[float] = SIGMA_SCALES,
    farm: Farm | None = None,
) -> dict[str, Any]:
    """Train, map and measure into `out`; finished runs and measured chips are kept, a repeated call goes on.

    Seeds are 0 to `seeds` - 1, of task and training. Writes `aware.json` and `aware.svg`. Raises ConfigError
    for a configuration without `training.hardware_noise`.
    """
    config = plan.config
    if config.training is None or config.training.hardware_noise is None:
        raise ConfigError("training.hardware_noise: missing; it is what plain training is compared with")
    if not sigma_scales or min(sigma_scales) < 0:
        raise ConfigError(f"sigma scales must be >= 0, got {list(sigma_scales)}")
    check_mappable(plan.network, config.mapping)
    claim(out, fingerprint(plan, simulated=False))
    scales = sorted(set(sigma_scales))
    found: dict[str, Any] = {
        "task": plan.task.name, "unit": plan.network.unit, "technology": plan.technology.name,
        "inputs": len(plan.task.test), "chips": chips, "seed": config.robustness.seed,
        "yield_target": config.robustness.yield_target, "sigma_scales": scales,
    }  # fmt: skip
    networks = _Networks(plan)
    trained = _train(networks, out, seeds, farm)
    for recipe in RECIPES:
        runs = [
            _measured(networks, recipe, seed, trained[recipe, seed], out, chips, scales, farm)
            for seed in range(seeds)
        ]
        columns = {key: np.array([run[key] for run in runs]) for key in ("accuracy", "behavioral", "yield")}
        found[recipe] = {
            "runs": runs,
            "accuracy": float(columns["accuracy"].mean()),
            "accuracy_std": float(columns["accuracy"].std()),
            "behavioral": float(columns["behavioral"].mean()),
            "mean_accuracy": np.mean([run["mean_accuracy"] for run in runs], axis=0).tolist(),
            "yield": columns["yield"].mean(axis=0).tolist(),
            "yield_worst": columns["yield"].min(axis=0).tolist(),
        }
    found["equal_yield"] = equal_yield(scales, found["plain"]["yield"], found["aware"]["yield"])
    write_atomically(out / "aware.json", json.dumps(found, indent=1) + "\n")
    figure = aware_training(
        scales,
        {recipe: [run["yield"] for run in found[recipe]["runs"]] for recipe in RECIPES},
        {recipe: [run["mean_accuracy"] for run in found[recipe]["runs"]] for recipe in RECIPES},
        config.robustness.yield_target,
    )
    write_atomically(out / "aware.svg", svg(figure))
    return found


def equal_yield(
    scales: Sequence[float], plain: Sequence[float], aware: Sequence[float]
) -> list[dict[str, float]]:
    """For each factor on sigma, the largest at which aware training yields as much as plain training there.

    `area` is that of its transistors over that of plain training's. Factors where none does are left out.
    """
    found = []
    for scale, share in zip(scales, plain, strict=True):
        enough = [other for other, reached in zip(scales, aware, strict=True) if reached >= share]
        if scale > 0 and enough and max(enough) > 0:
            largest = max(enough)
            found.append({"plain": scale, "aware": largest, "yield": share, "area": (scale / largest) ** 2})
    return found


def recipe_of(training: TrainingConfig, recipe: str, seed: int) -> TrainingConfig:
    """The configured training with a seed, for `plain` without errors on parameters."""
    return training.model_copy(update={"seed": seed} | (SWITCHED_OFF if recipe == "plain" else {}))


@dataclass(frozen=True)
class _Networks:
    """A plan whose networks are trained by recipe and seed."""

    plan: Plan

    def of(self, recipe: str, seed: int) -> Plan:
        """The plan of one."""
        assert self.plan.config.training is not None
        training = recipe_of(self.plan.config.training, recipe, seed)
        config = self.plan.config.model_copy(update={"training": training})
        return replace(self.plan, config=config, task=load_task(config.task, seed))

    def trained(self, job: tuple[str, int]) -> Arrays:
        """Its weights, and its metrics as JSON."""
        network, metrics = train_network(self.of(*job), None)
        del metrics["timing"]
        weights = {f"weights.{name}": value.numpy() for name, value in network.state_dict().items()}
        return weights | {"metrics": np.frombuffer(json.dumps(metrics).encode(), dtype=np.uint8)}


def _train(networks: _Networks, out: Path, seeds: int, farm: Farm | None) -> dict[tuple[str, int], Arrays]:
    """All networks, side by side; finished ones are kept in `trained/`."""
    import torch

    jobs = {f"{recipe}_seed{seed}": (recipe, seed) for recipe in RECIPES for seed in range(seeds)}
    store = Store(out / "trained", {"configuration": fingerprint(networks.plan, simulated=False)})
    with torch.random.fork_rng(), progress_bar("training", len(jobs)) as report:
        found = run_jobs(_Networks.trained, networks, jobs, farm, store, report)
    return dict(zip(jobs.values(), found.values(), strict=True))


def _measured(
    networks: _Networks, recipe: str, seed: int, trained: Arrays, out: Path, chips: int,
    scales: Sequence[float], farm: Farm | None,
) -> dict[str, Any]:  # fmt: skip
    """Map and measure one network."""
    import torch

    plan = networks.of(recipe, seed)
    folder, config, split = out / recipe / f"seed{seed}", plan.config, plan.task.test
    network = Network(plan.network).eval()
    prefix = "weights."
    network.load_state_dict(
        {
            name.removeprefix(prefix): torch.from_numpy(value.copy())
            for name, value in trained.items()
            if name.startswith(prefix)
        }
    )
    metrics = json.loads(trained["metrics"].tobytes())
    save_network(network, folder / "network")
    design, report = map_folder(folder / "network", network, plan.technology, config.mapping)
    design.save(folder / "design")
    report.save(folder / "design")
    stimulus = make_stimulus(split.x, design.facts.input_size, design.facts.frame_period, split.lengths)
    decided = BehavioralModel(design).decisions(stimulus)
    over = []
    with progress_bar(f"chips, {recipe} {seed}", chips * len(scales)) as bar:
        for number, scale in enumerate(scales):
            lot = Lot(design, stimulus, split.y, config.robustness.seed, scale)
            store = Store(folder / f"chips_{scale:g}", lot.identity)

            def done(count: int, before: int = number * chips) -> None:
                bar(before + count)

            accuracies = chip_accuracies(lot, range(chips), farm, store, done)
            over.append(summarize(accuracies, lot.seed, scale, config.robustness.yield_target))
    return {
        "seed": seed, "accuracy": metrics["test_accuracy"],
        "validation_accuracy": metrics["validation_accuracy"],
        "behavioral": float((decided == split.y).mean()), "transistors": design.transistors,
        "area_m2": design.area, "mean_accuracy": [one.mean_accuracy for one in over],
        "yield": [one.yield_ for one in over], "yield_ci95": [list(one.yield_ci95) for one in over],
    }  # fmt: skip
