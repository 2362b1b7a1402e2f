"""Training with the hardware's errors against training without: accuracy and yield over mismatched chips.

Two recipes, `plain` (no errors on parameters) and `aware` (`training.hardware_noise`), each with several
seeds; all else is the configuration's. Both are mapped, and the same chips decide the test set at several
factors on sigma. A factor s is what transistors of 1 / s^2 of the area have.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cmru_hw.analysis.robustness import chip_accuracies, summarize
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.codesign import Plan, claim, fingerprint, train_network
from cmru_hw.config import write_atomically
from cmru_hw.console import progress_bar
from cmru_hw.design import Design
from cmru_hw.errors import ConfigError
from cmru_hw.mapping import check_mappable, map_folder
from cmru_hw.primitives.device import Array
from cmru_hw.report.plots import aware_training, svg
from cmru_hw.stimulus import Stimulus, make_stimulus
from cmru_hw.training import TrainingConfig, load_task

RECIPES = ("plain", "aware")
SIGMA_SCALES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)
SWITCHED_OFF: dict[str, Any] = {"hardware_noise": None, "weight_noise": 0.0, "packet_asymmetry": 0.0}


def compare_training(
    plan: Plan, out: Path, seeds: int, chips: int, sigma_scales: Sequence[float] = SIGMA_SCALES
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
    for recipe in RECIPES:
        runs = [
            _run(plan, recipe, seed, out / recipe / f"seed{seed}", chips, scales) for seed in range(seeds)
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


def _run(
    plan: Plan, recipe: str, seed: int, folder: Path, chips: int, scales: Sequence[float]
) -> dict[str, Any]:
    """Train, map and measure one network."""
    assert plan.config.training is not None
    training = recipe_of(plan.config.training, recipe, seed)
    config = plan.config.model_copy(update={"training": training})
    own = replace(plan, config=config, task=load_task(config.task, seed))
    network, metrics = train_network(own, folder / "network", progress=True)
    design, report = map_folder(folder / "network", network, plan.technology, config.mapping)
    design.save(folder / "design")
    report.save(folder / "design")
    split = own.task.test
    stimulus = make_stimulus(split.x, design.facts.input_size, design.facts.frame_period, split.lengths)
    decided = BehavioralModel(design).decisions(stimulus)
    accuracies = _accuracies(own, design, stimulus, folder / "chips.npz", chips, scales)
    target, mismatch_seed = config.robustness.yield_target, config.robustness.seed
    over = [
        summarize(one, mismatch_seed, scale, target) for scale, one in zip(scales, accuracies, strict=True)
    ]
    return {
        "seed": seed, "accuracy": metrics["test_accuracy"],
        "validation_accuracy": metrics["validation_accuracy"],
        "behavioral": float((decided == split.y).mean()), "transistors": design.transistors,
        "area_m2": design.area, "mean_accuracy": [one.mean_accuracy for one in over],
        "yield": [one.yield_ for one in over], "yield_ci95": [list(one.yield_ci95) for one in over],
    }  # fmt: skip


def _accuracies(
    plan: Plan, design: Design, stimulus: Stimulus, path: Path, chips: int, scales: Sequence[float]
) -> Array:
    """Accuracy of every chip, [scales, chips], kept in `path` with what it was measured at."""
    given = {"scales": np.array(scales), "seed": np.array(plan.config.robustness.seed)}
    if path.exists():
        try:
            with np.load(path, allow_pickle=False) as archive:
                kept = {name: archive[name] for name in (*given, "accuracies")}
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise ConfigError(f"{path}: not a finished Monte Carlo; delete it to run it again") from error
        same = all(np.array_equal(kept[name], value) for name, value in given.items())
        if same and kept["accuracies"].shape == (len(scales), chips):
            return np.asarray(kept["accuracies"])
    found = []
    with progress_bar("chips", chips * len(scales)) as report:
        for number, scale in enumerate(scales):

            def done(count: int, before: int = number * chips) -> None:
                report(before + count)

            found.append(
                chip_accuracies(
                    design, stimulus, plan.task.test.y, range(chips), plan.config.robustness.seed, scale, done
                )
            )
    accuracies = np.stack(found)
    buffer = io.BytesIO()
    np.savez(buffer, accuracies=accuracies, scales=given["scales"], seed=given["seed"])
    write_atomically(path, buffer.getvalue())
    return accuracies
