"""docs/studies.md and its figures, made from the records that `cmru-hw study` left.

    python benchmarks/studies_page.py [benchmarks/results/studies] [docs]

`NAME.json` there is the `study.json` of `cmru-hw study NAME`. Equal records give equal bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from page import table

from cmru_hw.config import write_atomically
from cmru_hw.report.plots import svg
from cmru_hw.studies.catalogue import STUDIES
from cmru_hw.studies.retention import RECIPES

QUICK = (
    " The records shown are those of the quick forms: fewer seeds, units, frames and steps than `cmru-hw study` "
    "without `--quick` has."
)

ROOT = Path(__file__).resolve().parents[1]


def shown(name: str, found: dict[str, Any]) -> str:
    """The table of a study."""
    head, rows = STUDIES[name]().rows(found[name])
    return table(head, rows)


def grid(record: dict[str, Any]) -> str:
    """Runs solved at each scale of the initial matrices, over all rates."""
    scales = [f"{scale:g}" for scale in record["scales"]]
    rows = []
    for unit, title in record["units"].items():
        cells = [[by[scale] for by in record["runs"]["copy_first_input"][unit].values()] for scale in scales]
        rows.append(
            [title, *(f"{sum(c['solved'] for c in one)} of {sum(c['runs'] for c in one)}" for one in cells)]
        )
    return table(["unit", *(f"x {scale}" for scale in scales)], rows)


def memory(record: dict[str, Any]) -> str:
    """Units whose state noise moves at least once in the longest sequence."""
    rows = [
        [
            one["title"],
            f"{min(one['least_margin']):.1f}",
            *(
                f"{sum(one[key]) / len(one[key]):.1f}"
                for key in ("units_that_count", "units_that_count_both_ways")
            ),
        ]
        for one in record["recipes"].values()
        if "least_margin" in one
    ]
    return table(
        ["recipe", "least margin of all seeds, sd", "units that move, of a network", "both ways"], rows
    )


def chances(record: dict[str, Any]) -> str:
    """By size: tasks with CMRU or alphaCMRU at or above the references, and differences over all tasks."""
    rows = []
    for one in record["over_tasks"]:
        p = "-" if one["p"] is None else f"{one['p']:.2g}"
        rows.append(
            [str(one["size"]), record["units"][one["unit"]], f"{100 * one['mean_difference']:+.1f}", p]
        )
    return table(["parameters", "unit", "mean difference, points", "p over tasks"], rows)


def page(found: dict[str, Any]) -> str:
    """The whole page."""
    stable, lasting, compared = found["stability"], found["retention"], found["benchmarks"]
    won = ", ".join(f"{len(tasks)} at {size}" for size, tasks in compared["at_or_above"].items())
    rates = ", ".join(f"{rate:g}" for rate in compared["rates"])
    task = stable["tasks"][0]
    runs = {
        unit: next(iter(by.values()))["1"]["runs"] for unit, by in stable["runs"]["copy_first_input"].items()
    }
    seeds = len(next(iter(lasting["recipes"].values()))["accuracies"])
    form = "" if set(lasting["recipes"]) == set(RECIPES) else QUICK
    return f"""# Studies

This page is made by `benchmarks/studies_page.py` from the records in `benchmarks/results/studies`, which `cmru-hw study` writes as `study.json`. `--quick` is a smaller form of each in minutes, `--dry-run` says how long the training will take, and a stopped study goes on with the same command. Everything follows from seeds.{form}

In stability and retention, networks have one layer, no skip connection, and only the last frame decides: what is not held in the states is lost. Weights are the best on a validation split, at epsilon = 0; the test split is only reported.

## Stability: which units learn surely

The task copy_first_input with {task["classes"]} classes and {task["length"]} frames, {stable["steps"]} steps, {max(runs.values())} seeds; every unit has the same runs. A run has solved its task with a test accuracy of {100 * stable["level"]:.0f} %. The columns are tasks with learning rates; steps are those until the validation accuracy stays above that, at a rate of {stable["rate"]:g}.

{shown("stability", found)}
Runs solved, all rates together, by the scale of the initial matrices:

{grid(stable)}
![Runs solved over rates and scales](images/stability_grid.svg)

![Accuracy of every seed](images/stability_accuracy.svg)

![What of the gradient reaches the frames before](images/stability_gradient.svg)

The gradient of a BMRU is blocked by events: where |c| reaches beta, s' = sign(c), and nothing of what was before passes. Between events the state is held, and the gradient with it, whole. Candidates of these networks start well below beta = 1, so that a BMRU starts without events and its gradient is as long as a CMRU's: what decides is whether the initial matrices make noise cross the threshold. In this implementation the BMRU's reported failure to learn without annealing is therefore one of larger initial matrices or higher noise, not of this task as such; the tables count how often. A flip-flop has to forget what was before the last pulse: a CMRU without levels counts pulses and cannot. The FQ-BMRU's initial candidates are near its upper threshold, so that its gradients end after a few frames as soon as matrices are larger. The minGRU's gate starts half open and forgets by half a frame, whatever the matrices.

## Benchmarks: every unit at equal sizes

Two layers with skip connections, the last frame decides, {compared["steps"]} steps of {compared["batch_size"]} sequences. For each unit, task and size one network is trained at each learning rate of {rates}; the rate with the best validation accuracy is then used with {compared["seeds"]} other seeds, which draw data, weights and batches. Mean test accuracy and standard deviation over seeds in percent, at about so many parameters; a star: p < 0.05 in a paired t test over seeds against the better one of LRU and minGRU, which is the one with the better mean. No correction is made for the number of tests. The tasks are described in [tasks.md](tasks.md).

{shown("benchmarks", found)}
CMRU or alphaCMRU are at or above the better of LRU and minGRU on this many of {len(compared["tasks"])} tasks: {won} parameters. Over all tasks, differences from it, with Wilcoxon's signed-rank test of the tasks' means:

{chances(compared)}
![Accuracy over parameters](images/benchmarks.svg)

## Retention: how long it lasts

Trained on {lasting["trained_length"]} frames, {lasting["classes"]} classes, {seeds} seeds; tested on {lasting["sequences"]} sequences of up to {lasting["lengths"][-1]} frames, handed to the network in pieces of 50 with its state carried along. Mean accuracy at each length; the worst seed at the last; the median over seeds of the least margin of a unit.

{shown("retention", found)}
![Plain training](images/retention_plain.svg)

![Firm training](images/retention_firm.svg)

The margin of a unit is the distance of its candidate at rest from the nearer threshold, over the standard deviation that the input's noise gives it. A test counts events and finds those that the normal distribution foretells. A margin of 4.3 standard deviations is crossed once in 100 000 frames. What a crossing does depends on what the state can become:

- CMRU: it counts for good. A unit that crosses one threshold drifts without end, and one drifting unit outweighs all that the readout knows.
- CMRU with K: a unit that crosses one threshold only ends at the rail and stays there, where it does no harm if it was there in training. One that crosses both forgets.
- BMRU, annealed: a crossing against the state turns it over; one with the state does nothing.
- LRU, minGRU: there is no threshold, and what is kept fades.

{memory(lasting)}
So the clip is not enough by itself. Training on {lasting["trained_length"]} frames says nothing about an event in 10 000: thresholds stop where {lasting["trained_length"]} frames rarely show an event. The firm recipe asks for more:

```yaml
task: {{name: copy_first_input, noise_std: 0.15}}    # 1.5 times the noise that is expected
training: {{learning_rate: 1.0e-2, margin: {{distance: 0.5, weight: 3.0}}}}
```

Recipes of the full study with one of the two, and with noise on the candidates (`candidate_noise`) in their place, show what each does.

At {lasting["noisy_length"]} frames under more noise of the input than was expected, and under noise of the states, which a unit with levels then puts back to the nearest one as its latches do:

![Noise of the input](images/retention_input.svg)

![Noise of the state](images/retention_state.svg)
"""


def main() -> None:
    results = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "benchmarks" / "results" / "studies"
    docs = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "docs"
    found = {name: json.loads((results / f"{name}.json").read_text(encoding="utf-8")) for name in STUDIES}
    for name, record in found.items():
        for file, figure in STUDIES[name]().figures(record).items():
            write_atomically(docs / "images" / f"{file}.svg", svg(figure))
    write_atomically(docs / "studies.md", page(found))


if __name__ == "__main__":
    main()
