"""From a task to a report: train or load, map, simulate both ways, compare, draw chips, write it up."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from cmru_hw import __version__
from cmru_hw.analysis.agreement import agreement, run_trained, select
from cmru_hw.analysis.findings import Findings
from cmru_hw.analysis.robustness import Lot, chip_accuracies, run_analyses, summarize
from cmru_hw.analysis.robustness.corners import Corners
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.config import Strict, packaged, program_hash, read_yaml, validate, write_atomically
from cmru_hw.console import progress_bar
from cmru_hw.errors import ConfigError
from cmru_hw.export import export
from cmru_hw.farm import Farm, Store
from cmru_hw.mapping import MappingConfig, check_mappable, equalize, map_folder, weight_units
from cmru_hw.nn.network import Network, NetworkConfig, load_network, save_network
from cmru_hw.primitives.device import Array
from cmru_hw.primitives.latch import Latch
from cmru_hw.report.codesign import write_codesign_report
from cmru_hw.scaling import has_free_factors
from cmru_hw.spice.latch_bench import measure_hysteresis
from cmru_hw.spice.ngspice import find_ngspice
from cmru_hw.spice.simulate import simulate
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import Technology, load_technology
from cmru_hw.training import Planned, Task, TaskConfig, TrainingConfig, load_task, train


class SimulationConfig(Strict):
    """Which inputs go through ngspice: `inputs` of the test set, evenly spaced."""

    inputs: Annotated[int, Field(ge=1)] = 24
    workers: Annotated[int, Field(ge=1)] | None = None  # default: one a core
    checked: Annotated[int, Field(ge=0)] | None = None  # inputs run with two tolerance sets, if clocked


class RobustnessConfig(Strict):
    """The mismatch Monte Carlo."""

    chips: Annotated[int, Field(ge=1)] = 1000
    seed: Annotated[int, Field(ge=0)] = 0
    sigma_scale: Annotated[float, Field(ge=0)] = 1.0
    yield_target: Annotated[float, Field(ge=0, le=1)] = 0.9


Span = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)]
Lambdas = Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=2, max_length=2)]


class UniformConfig(Strict):
    """What optimised sizes are compared with: one number of units everywhere, every combination of these."""

    units: Annotated[list[Annotated[int, Field(ge=1, le=256)]], Field(min_length=1)]
    unit_area: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]
    unit_current: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]  # A
    costs: Annotated[list[Lambdas], Field(min_length=1)]  # of the weights' training


class OptimizeConfig(Strict):
    """Co-optimisation of sizes and weights; a point of the front for each of the costs."""

    costs: Annotated[list[Lambdas], Field(min_length=1)]  # lambda_area and lambda_power
    uniform: UniformConfig
    steps: Annotated[int, Field(ge=1)] = 600  # in which sizes and weights move
    finish_steps: Annotated[int, Field(ge=1)] = 600  # in which weights go on in whole units
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3  # of the weights
    size_learning_rate: Annotated[float, Field(gt=0)] = 2e-2  # of the logarithms of sizes
    batch_size: Annotated[int, Field(ge=1)] = 64
    chips: Annotated[int, Field(ge=1)] = 16  # in a batch
    units: Span = Field(default=[1.0, 64.0])  # smallest and largest
    unit_area: Span = Field(default=[0.2, 4.0])
    unit_current: Span = Field(default=[2e-10, 1e-9])  # A
    max_ratio: Annotated[float, Field(gt=0)] = 4.0  # largest weight
    least_yield: Annotated[float, Field(ge=0, le=1)] = 0.99  # of the point that goes through ngspice
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _spans(self) -> Self:
        for name in ("units", "unit_area", "unit_current"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name} must be the smallest and the largest, got {low:g} and {high:g}")
        if self.batch_size % self.chips:
            raise ValueError(f"batch_size must be a multiple of chips ({self.chips}), got {self.batch_size}")
        return self


class CodesignConfig(Strict):
    """A co-design file. With `trained`, a folder beside the file, its weights are used, not trained."""

    task: TaskConfig
    network: dict[str, Any]  # as network.yaml; input_size and num_classes come from the task
    training: TrainingConfig | None = None
    trained: str | None = None
    technology: str = "generic180"
    mapping: MappingConfig = MappingConfig()
    simulation: SimulationConfig = SimulationConfig()
    robustness: RobustnessConfig = RobustnessConfig()
    optimize: OptimizeConfig | None = None

    @field_validator("task", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class Plan:
    """A checked configuration with what it refers to."""

    config: CodesignConfig
    path: Path  # of the file
    task: Task
    network: NetworkConfig
    technology: Technology

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def seed(self) -> int:
        return self.config.training.seed if self.config.training else 0


def read_plan(path: Path, **task_options: Any) -> Plan:
    """Read a co-design file; `task_options` go before its task's. ConfigError names file, field and rule."""
    content = read_yaml(path)
    if task_options:
        task = content.get("task")
        content["task"] = {**(task if isinstance(task, dict) else {"name": task}), **task_options}
    config = validate(CodesignConfig, content, path)
    task = load_task(config.task, config.training.seed if config.training else 0)
    sizes = {"input_size": task.input_size, "num_classes": task.num_classes}
    for name, size in sizes.items():
        if config.network.get(name, size) != size:
            raise ConfigError(f"{path}: network.{name}: must be {size} for task {task.name}")
    network = validate(NetworkConfig, {**config.network, **sizes}, f"{path}: network")
    if config.simulation.inputs > len(task.test):
        raise ConfigError(
            f"{path}: simulation.inputs: must be at most {len(task.test)}, the size of the test set"
        )
    if config.training is None and config.trained is None:
        raise ConfigError(f"{path}: training: missing, and there is no `trained` folder")
    quantization = config.training.quantization if config.training else None
    if quantization:
        for name, units in weight_units(network, config.mapping).items():
            if quantization.units != units:
                raise ConfigError(
                    f"{path}: training.quantization.units: must equal mapping.units and mapping.rows "
                    f"({units} for {name}), got {quantization.units}"
                )
    if config.training and config.training.hardware_noise:
        try:
            planned(config.mapping)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
    return Plan(config, path, task, network, load_technology(config.technology, path.parent))


def planned(mapping: MappingConfig) -> Planned:
    """What chips in training are like. Raises ConfigError for a circuit that training has no model of."""
    for key, default in (
        ("boundary", "full"), ("latch", None), ("accumulator", None), ("levels", None), ("bias_rows", {}),
    ):  # fmt: skip
        if getattr(mapping, key) != default:
            found = getattr(mapping, key)
            raise ConfigError(f"mapping.{key}: training.hardware_noise has no model of {found}; leave it out")
    return Planned(**mapping.model_dump(include=set(Planned.__dataclass_fields__)))


def seeded(plan: Plan, seed: int) -> Plan:
    """The plan with another seed of task and training."""
    if plan.config.training is None:
        raise ConfigError(f"{plan.folder}: training: missing from the configuration")
    training = plan.config.training.model_copy(update={"seed": seed})
    config = plan.config.model_copy(update={"training": training})
    return replace(plan, config=config, task=load_task(config.task, seed))


def train_network(
    plan: Plan, run: Path | None, progress: bool = False, tensorboard: bool = False
) -> tuple[Network, dict[str, Any]]:
    """Train as configured, into the folder `run` if given; resumes. Returns the network and its metrics."""
    import torch

    training = plan.config.training
    if training is None:
        raise ConfigError(f"{plan.folder}: training: missing from the configuration")
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)
        network = Network(plan.network)

    def prepare(trained: torch.nn.Module) -> None:
        quantization = training.quantization
        if quantization and isinstance(trained, Network) and has_free_factors(trained.config):
            equalize(trained, weight_units(plan.network, plan.config.mapping), quantization.max_ratio)

    mapping = plan.config.mapping
    result = train(
        network, plan.task, training, run, progress=progress, prepare=prepare, tensorboard=tensorboard,
        planned=planned(mapping) if training.hardware_noise else None,
        technology=plan.technology.at(unit_area=mapping.unit_area, latch_units=mapping.latch_units),
    )  # fmt: skip
    return network.eval(), result.metrics


def codesign(plan: Plan, out: Path) -> dict[str, Any]:
    """Everything, into `out`; finished parts are kept and a repeated call goes on from them."""
    find_ngspice()
    config = plan.config
    check_mappable(plan.network, config.mapping)
    if config.trained is not None:
        network = load_network(plan.folder / config.trained)
        if network.config != plan.network:
            raise ConfigError(
                f"{plan.folder / config.trained}/network.yaml: differs from the configuration's network"
            )
        design, report = map_folder(plan.folder / config.trained, network, plan.technology, config.mapping)
        claim(out, fingerprint(plan))
        save_network(network, out / "network")
    else:
        claim(out, fingerprint(plan))
        network, _ = train_network(plan, out / "network", progress=True)
        design, report = map_folder(out / "network", network, plan.technology, config.mapping)

    design.save(out / "design")
    report.save(out / "design")
    save_network(network, out / "design")

    split = plan.task.test
    stimulus = make_stimulus(split.x, design.facts.input_size, design.facts.frame_period, split.lengths)
    trained = run_trained(network, design, stimulus)
    model = BehavioralModel(design)
    behavioral = model.run(stimulus)

    chosen = np.linspace(0, len(stimulus) - 1, config.simulation.inputs).round().astype(int).tolist()
    some = stimulus.select(chosen)
    export(design, some.select([0]), out / "netlist")
    with progress_bar("ngspice", len(some)) as bar:
        spice = simulate(
            design,
            some,
            farm=Farm(config.simulation.workers),
            progress=bar,
            keep=out / "spice",
            checked=config.simulation.checked,
        )
    some_behavioral = model.run(some)

    robust = config.robustness
    lot = Lot(design, stimulus, split.y, robust.seed, robust.sigma_scale)
    accuracies = run_chips(lot, robust.chips, out)
    corners = run_analyses(lot, [Corners(lot, 0, robust.yield_target)], Farm(1))["corners"]
    hysteresis = None
    if isinstance(latch := design.memories[0], Latch):
        hysteresis = measure_hysteresis(
            design.technology, float(latch.i_threshold[0]), float(latch.i_width[0]), float(latch.i_gain[0])
        )
    findings = Findings(
        task=plan.task.name, labels=split.y, class_names=list(plan.task.class_names),
        parameters=network.num_parameters(), design=design, mapping=report, stimulus=stimulus,
        chosen=chosen, spice_stimulus=some, trained=trained, behavioral=behavioral,
        some_behavioral=some_behavioral, spice=spice,
        agreements={
            "trained_behavioral": agreement(design, trained, behavioral),
            "behavioral_spice": agreement(design, some_behavioral, spice),
            "trained_spice": agreement(design, select(trained, chosen), spice),
        },
        accuracies=accuracies,
        robustness=summarize(accuracies, robust.seed, robust.sigma_scale, robust.yield_target),
        corners=corners, hysteresis=hysteresis,
    )  # fmt: skip
    metrics = findings.metrics()
    write_atomically(
        out / "agreement.json",
        json.dumps({pair: found.to_json() for pair, found in findings.agreements.items()}, indent=1) + "\n",
    )
    write_atomically(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    write_codesign_report(findings, metrics, provenance(plan), plan.path, out)
    return metrics


def run_chips(lot: Lot, chips: int, out: Path) -> Array:
    """Accuracy of every chip, kept in `chips/`."""
    store = Store(out / "chips", lot.identity)
    with progress_bar("chips", chips) as report:
        return chip_accuracies(lot, range(chips), store=store, progress=report)


def provenance(plan: Plan) -> dict[str, Any]:
    """Seeds, versions and hashes, for the report."""
    import scipy
    import torch

    return {
        "cmru-hw": __version__,
        "ngspice": find_ngspice()[1],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "python": platform.python_version(),
        "training seed": plan.seed,
        "mismatch seed": plan.config.robustness.seed,
        "device models (SHA-256)": plan.technology.model_hash,
        "configuration, weights and program (SHA-256)": fingerprint(plan),
    }


def fingerprint(plan: Plan, simulated: bool = True) -> str:
    """What results depend on: the configuration, given weights, models, and the program itself.

    And the simulator, unless they were not `simulated` in it.
    """
    digest = hashlib.sha256()
    digest.update(plan.config.model_dump_json().encode())
    digest.update(plan.technology.model_dump_json().encode())
    if simulated:
        digest.update(str(find_ngspice()[1]).encode())
    digest.update(program_hash().encode())
    files = [*packaged("models", "data").glob("*.npz")]
    if plan.config.trained is not None:
        files += (plan.folder / plan.config.trained).glob("weights.safetensors")
    for path in sorted(files):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def claim(out: Path, mark: str) -> None:
    """Mark the folder as this run's; raises ConfigError if it holds the results of another."""
    path = out / "fingerprint.txt"
    if path.exists() and path.read_text(encoding="utf-8").strip() != mark:
        raise ConfigError(
            f"{out}: holds results of another configuration, weights or version; choose another or delete it"
        )
    write_atomically(path, mark + "\n")
