"""Sizes, current and weights optimised together: the front of yield, power and area, and its verification.

For each pair of costs the network that the configuration names is trained with its sizes
(`training.cotraining`), rounded, mapped, and measured on mismatched chips of the behavioural model. Designs
of one size everywhere, their weights trained on in the same way at fixed sizes, are what it is compared with.
One point goes through ngspice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmru_hw.analysis.agreement import agreement
from cmru_hw.analysis.robustness import Lot, chip_accuracies, summarize
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.codesign import OptimizeConfig, Plan, claim, fingerprint, planned, train_network
from cmru_hw.config import write_atomically
from cmru_hw.console import progress_bar
from cmru_hw.design import Design, load_design
from cmru_hw.errors import ConfigError
from cmru_hw.farm import Arrays, Farm, Store, run_jobs
from cmru_hw.mapping import MappingConfig, check_mappable, map_folder
from cmru_hw.nn.network import Network, load_network, save_network
from cmru_hw.report.plots import sizing_front, svg
from cmru_hw.spice.ngspice import find_ngspice
from cmru_hw.spice.simulate import simulate
from cmru_hw.stimulus import Stimulus, make_stimulus
from cmru_hw.training.cost import Cost
from cmru_hw.training.cotraining import Descent, train_with_sizes
from cmru_hw.training.evaluation import to_tensors
from cmru_hw.training.hardware import Hardware
from cmru_hw.training.sizes import Bounds, TrainableSizes

Point = dict[str, Any]
"""A finished design: `kind`, `folder`, `costs`, `mapping`, `accuracy`, `yield`, `power_w`, `area_m2`, ..."""
WEIGHTS = "weights."
REFERENCE_INPUTS = 256  # of the training set, that P_0 is a mean of


def optimize(plan: Plan, out: Path, farm: Farm | None = None) -> dict[str, Any]:
    """The front, into `out`; finished points are kept, and a repeated call goes on from them.

    Writes `optimize.json` and `optimize.svg`. Raises ConfigError for a configuration without `optimize`, or a
    network whose power has no model.
    """
    config = plan.config.optimize
    if config is None:
        raise ConfigError("optimize: missing from the configuration; it says what is to be swept")
    find_ngspice()
    check_mappable(plan.network, plan.config.mapping)
    start = _Start.of(plan, config, out)
    uniform = config.uniform
    sought = [_optimised(number, costs, config.steps) for number, costs in enumerate(config.costs)]
    sought += [
        _uniform(units, area, current, costs)
        for units, area, costs, current in product(
            uniform.units, uniform.unit_area, uniform.costs, uniform.unit_current
        )
    ]
    store = Store(out / "trained", {"configuration": fingerprint(plan)})
    with torch.random.fork_rng(), progress_bar("training", len(sought)) as report:
        jobs = {one.name.replace("/", "_"): one for one in sought}
        trained = run_jobs(_Start.trained, start, jobs, farm, store, report)
    made = [start.point(one, arrays, out, farm) for one, arrays in zip(sought, trained.values(), strict=True)]
    points, fixed = ([one for one in made if one["kind"] == kind] for kind in ("optimised", "uniform"))
    chosen = cheapest(points, config.least_yield) or max(points, key=lambda point: point["yield"])
    found: dict[str, Any] = {
        "task": plan.task.name, "technology": plan.technology.name, "inputs": len(plan.task.test),
        "accuracy_target": plan.config.robustness.yield_target, "chips": plan.config.robustness.chips,
        "reference": {"area_m2": start.reference[0], "power_w": start.reference[1]},
        "optimised": points, "uniform": fixed,
        "front": [point["folder"] for point in front(points)],
        "uniform_front": [point["folder"] for point in front(fixed)],
        "equal_yield": equal_yield(points, fixed),
        "spice": start.in_ngspice(chosen, out, farm),
    }  # fmt: skip
    write_atomically(out / "optimize.json", json.dumps(found, indent=1) + "\n")
    write_atomically(out / "optimize.svg", svg(sizing_front(points, fixed, config.least_yield)))
    return found


def front(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats: none yields as much with as little power and area, and less of one."""

    def values(point: Point) -> np.ndarray:
        return np.array([-point["yield"], point["power_w"], point["area_m2"]])

    return [
        one
        for one in points
        if not any((values(o) <= values(one)).all() and (values(o) < values(one)).any() for o in points)
    ]


def cheapest(points: Sequence[Point], least_yield: float) -> Point | None:
    """The point of the smallest power times area that yields as much; None if none does."""
    enough = [point for point in points if point["yield"] >= least_yield]
    return min(enough, key=_product, default=None)


def equal_yield(points: Sequence[Point], uniform: Sequence[Point]) -> list[dict[str, Any]]:
    """For each point, the cheapest uniform design that yields as much, and the share of its power times area
    that the point saves. Points that no uniform design matches are left out.
    """
    found = []
    for point in points:
        other = cheapest(uniform, point["yield"])
        if other is not None:
            saved = 1 - _product(point) / _product(other)
            found.append(
                {
                    "point": point["folder"], "uniform": other["folder"], "yield": point["yield"],
                    "uniform_yield": other["yield"], "saved": saved,
                }
            )  # fmt: skip
    return found


def _product(point: Point) -> float:
    return float(point["power_w"] * point["area_m2"])


@dataclass(frozen=True)
class _Sought:
    """A point to be found: the sizes that its mapping fixes, its costs, and the steps that move sizes."""

    kind: str
    name: str
    mapping: dict[str, Any]
    costs: Sequence[float]
    steps: int


def _optimised(number: int, costs: Sequence[float], steps: int) -> _Sought:
    """The point of a pair of costs: sizes and weights move."""
    return _Sought("optimised", f"optimised/{number}", {}, costs, steps)


def _uniform(units: int, unit_area: float, unit_current: float, costs: Sequence[float]) -> _Sought:
    """A design of one size everywhere; its weights are trained on at that size."""
    sizes = {
        "units": units, "copy_units": units, "bias_units": units, "latch_units": units,
        "unit_area": unit_area, "unit_current": unit_current, "rows": {}, "bias_rows": {},
    }  # fmt: skip
    name = f"uniform/u{units}_a{unit_area:g}_i{unit_current:g}_c{costs[0]:g}_{costs[1]:g}"
    return _Sought("uniform", name, sizes, costs, 0)


@dataclass(frozen=True)
class _Start:
    """What every point starts from: the trained network, and the costs' reference."""

    plan: Plan
    config: OptimizeConfig
    weights: dict[str, torch.Tensor]
    reference: tuple[float, float]  # m^2, W

    @classmethod
    def of(cls, plan: Plan, config: OptimizeConfig, out: Path) -> _Start:
        """Claims the folder; trains the network where no trained one is given."""
        planned(plan.config.mapping)
        if plan.config.trained is not None:
            folder = plan.folder / plan.config.trained
            network = load_network(folder)
            if network.config != plan.network:
                raise ConfigError(f"{folder}/network.yaml: differs from the configuration's network")
            sizes = _sizes(plan, config, network, {})
            claim(out, fingerprint(plan))
        else:
            Cost(_hardware(plan, Network(plan.network), {}))
            claim(out, fingerprint(plan))
            network, _ = train_network(plan, out / "network", progress=True)
            sizes = _sizes(plan, config, network, {})
        cost, parameters = Cost(sizes.hardware), dict(network.named_parameters())
        few = plan.task.train.take(np.arange(min(REFERENCE_INPUTS, len(plan.task.train))))
        x, _, lengths = to_tensors(few, torch.device("cpu"))
        planned_sizes = sizes.hardware.sizes
        current = torch.tensor(plan.config.mapping.unit_current)
        with torch.no_grad():
            area = cost.area(parameters, planned_sizes).item()
            power = cost.power(parameters, planned_sizes, current, x, lengths).item()
        return cls(plan, config, network.state_dict(), (area, power))

    def trained(self, sought: _Sought) -> Arrays:
        """A point's weights, and its sizes as JSON."""
        network, config = self._network(self.weights), self.config
        sizes = _sizes(self.plan, config, network, sought.mapping)
        training = self.plan.config.training
        descent = Descent(
            steps=sought.steps, finish_steps=config.finish_steps, learning_rate=config.learning_rate,
            size_learning_rate=config.size_learning_rate, batch_size=config.batch_size, chips=config.chips,
            scale=self.plan.config.robustness.sigma_scale, cost_area=sought.costs[0],
            cost_power=sought.costs[1], max_ratio=config.max_ratio,
            margin=training.margin if training else None, seed=config.seed,
        )  # fmt: skip
        train_with_sizes(network, sizes, self.reference, self.plan.task.train, descent)
        told = np.frombuffer(json.dumps(sizes.mapping()).encode(), dtype=np.uint8)
        return {"mapping": told} | {
            f"{WEIGHTS}{name}": value.numpy() for name, value in network.state_dict().items()
        }

    def point(self, sought: _Sought, trained: Arrays, out: Path, farm: Farm | None) -> Point:
        """A trained point mapped and measured, its design in a folder of its own."""
        folder = out / sought.name
        network = self._network(
            {
                name.removeprefix(WEIGHTS): torch.from_numpy(value.copy())
                for name, value in trained.items()
                if name.startswith(WEIGHTS)
            }
        )
        mapping = json.loads(trained["mapping"].tobytes())
        choices = MappingConfig(**(self.plan.config.mapping.model_dump() | sought.mapping | mapping))
        save_network(network, folder)
        design, report = map_folder(folder, network, self.plan.technology, choices)
        design.save(folder)
        report.save(folder)
        return {
            "kind": sought.kind, "folder": sought.name, "costs": list(sought.costs), "mapping": mapping,
            "clipped": len(report.clipped), **self._measured(design, folder, farm),
        }  # fmt: skip

    def _network(self, weights: dict[str, torch.Tensor]) -> Network:
        network = Network(self.plan.network)
        network.load_state_dict(weights)
        return network.eval()

    def _measured(self, design: Design, folder: Path, farm: Farm | None) -> dict[str, Any]:
        """On the test set: nominal accuracy and power, and chips."""
        split, robust = self.plan.task.test, self.plan.config.robustness
        stimulus = self._stimulus(design)
        nominal = BehavioralModel(design).run(stimulus)
        lot = Lot(design, stimulus, split.y, robust.seed, robust.sigma_scale)
        store = Store(folder / "chips", lot.identity)
        with progress_bar(f"{folder.name}: chips", robust.chips) as report:
            accuracies = chip_accuracies(lot, range(robust.chips), farm, store, report)
        told = summarize(accuracies, robust.seed, robust.sigma_scale, robust.yield_target)
        return {
            "accuracy": float((nominal.decision == split.y).mean()), "mean_accuracy": told.mean_accuracy,
            "yield": told.yield_, "yield_ci95": list(told.yield_ci95),
            "power_w": float(nominal.supply_power.mean()), "area_m2": design.area,
            "transistors": design.transistors,
        }  # fmt: skip

    def _stimulus(self, design: Design) -> Stimulus:
        split = self.plan.task.test
        return make_stimulus(split.x, design.facts.input_size, design.facts.frame_period, split.lengths)

    def in_ngspice(self, point: Point, out: Path, farm: Farm | None) -> dict[str, Any]:
        """Decisions, states and power of a point against ngspice, on some inputs of the test set."""
        design, config = load_design(out / point["folder"]), self.plan.config.simulation
        everything = self._stimulus(design)
        chosen = np.linspace(0, len(everything) - 1, config.inputs).round().astype(int).tolist()
        some = everything.select(chosen)
        keep = out / point["folder"] / "spice"
        with progress_bar("ngspice", len(some)) as report:
            spice = simulate(
                design, some, farm=farm or Farm(config.workers), progress=report, keep=keep,
                checked=config.checked,
            )  # fmt: skip
        model = BehavioralModel(design).run(some)
        same = agreement(design, model, spice)
        return {
            "point": point["folder"], "inputs": same.inputs, "decisions": same.decisions,
            "state_fraction": same.state_fraction,
            "accuracy": float((spice.decision == self.plan.task.test.y[chosen]).mean()),
            "power_w": {
                "behavioral": float(model.supply_power.mean()), "spice": float(spice.supply_power.mean())
            },
        }  # fmt: skip


def _hardware(plan: Plan, network: Network, mapping: dict[str, Any]) -> Hardware:
    choices = MappingConfig(**(plan.config.mapping.model_dump() | mapping))
    card = plan.technology.at(unit_area=choices.unit_area, latch_units=choices.latch_units)
    return Hardware(network, planned(choices), card)


def _sizes(plan: Plan, config: OptimizeConfig, network: Network, mapping: dict[str, Any]) -> TrainableSizes:
    """Those of the mapping with changes; bounds are the configuration's, or wide where sizes are given."""
    bounds = Bounds(
        (config.units[0], config.units[1]), (config.unit_area[0], config.unit_area[1]),
        (config.unit_current[0], config.unit_current[1]),
    )  # fmt: skip
    if mapping:
        area, current = mapping["unit_area"], mapping["unit_current"]
        bounds = Bounds((mapping["units"], mapping["units"]), (area, area), (current, current))
    return TrainableSizes(_hardware(plan, network, mapping), bounds)
