"""docs/studies.md and its figures, made from the records that `cmru-hw study` left.

    python benchmarks/studies_page.py [benchmarks/results/studies] [docs]

`NAME.json` there is the `study.json` of `cmru-hw study NAME`. Equal records give equal bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from page import table

from cmru_hw.config import write_atomically
from cmru_hw.report.plots import svg
from cmru_hw.studies.benchmarks import REFERENCES
from cmru_hw.studies.catalogue import STUDIES
from cmru_hw.studies.retention import Retention

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


def solved(record: dict[str, Any], unit: str) -> str:
    """Runs of a unit on the main task at the main rate, matrices as they come."""
    one = record["runs"]["copy_first_input"][unit][f"{record['rate']:g}"]["1"]
    return f"{one['solved']} of {one['runs']}"


def family(record: dict[str, Any], size: int) -> list[str]:
    """Tasks on which some bistable or counting unit has at least the mean of the better reference."""
    others = {*REFERENCES, "gru"}
    return [
        task
        for task in record["tasks"]
        if any(
            row["difference"] >= 0
            for row in record["rows"]
            if (row["task"], row["size"]) == (task, size) and row["unit"] not in others
        )
    ]


def behind(record: dict[str, Any], size: int) -> list[str]:
    """Tasks on which CMRU and alphaCMRU are both below, the better of the two with p < 0.05."""
    found = []
    for task in record["tasks"]:
        ours = [
            row
            for row in record["rows"]
            if (row["task"], row["size"]) == (task, size) and row["unit"] in ("cmru", "alpha_cmru")
        ]
        best = max(ours, key=lambda row: row["mean"])
        if best["difference"] < 0 and best["p"] is not None and best["p"] < 0.05:
            found.append(task)
    return found


def by_size(record: dict[str, Any], which: Callable[[dict[str, Any], int], list[str]]) -> str:
    return "; ".join(f"at {size} {', '.join(which(record, size)) or 'none'}" for size in record["parameters"])


def held_back(record: dict[str, Any]) -> str:
    """The CMRU with one thing changed, beside the same seeds of the study."""
    rows = []
    for one in record["rows"]:
        beside = {unit: sum(each) / len(each) for unit, each in one["beside"].items()}
        reference = max(REFERENCES, key=lambda unit: beside[unit])
        means = [beside["cmru"], one["mean"], beside[reference]]
        change = {"saturating": f"K = {record['levels']}", "longer": f"{record['times']} times the steps"}
        rows.append(
            [one["task"], str(one["size"]), change[one["changed"]], *(f"{100 * mean:.1f}" for mean in means)]
        )
    return table(["task", "parameters", "changed", "CMRU", "changed CMRU", "better of LRU, minGRU"], rows)


def lost(record: dict[str, Any], *names: str) -> float:
    """The most that a seed of these recipes has less at the last length than at the first."""
    return max(each[0] - each[-1] for name in names for each in record["recipes"][name]["accuracies"])


def page(found: dict[str, Any], changed: dict[str, Any]) -> str:
    """The whole page, from the records of the studies and of `benchmarks/held_back.py`."""
    stable, lasting, compared = found["stability"], found["retention"], found["benchmarks"]
    events = {scale: f"{100 * shares['bmru']:.2g} %" for scale, shares in stable["events"].items()}
    firm = Retention()
    won = ", ".join(f"{len(tasks)} at {size}" for size, tasks in compared["at_or_above"].items())
    rates = ", ".join(f"{rate:g}" for rate in compared["rates"])
    task = stable["tasks"][0]
    runs = {
        unit: next(iter(by.values()))["1"]["runs"] for unit, by in stable["runs"]["copy_first_input"].items()
    }
    seeds = len(next(iter(lasting["recipes"].values()))["accuracies"])
    return f"""# Studies

This page is made by `benchmarks/studies_page.py` from the records in `benchmarks/results/studies`, which `cmru-hw study` writes as `study.json`. `--quick` is a smaller form of each (on two cores 67 s of stability, 74 of benchmarks and 45 of retention), `--dry-run` says how long the training will take (62 minutes of stability, 101 of benchmarks and 19 of retention), and a stopped study goes on with the same command. Everything follows from seeds.

In stability and retention, networks have one layer, no skip connection, and only the last frame decides: what is not held in the states is lost. Weights are the best on a validation split, at epsilon = 0; the test split is only reported.

## Stability: which units learn surely

The task copy_first_input with {task["classes"]} classes and {task["length"]} frames, {stable["steps"]} steps, {max(runs.values())} seeds; every unit has the same runs. A run has solved its task with a test accuracy of {100 * stable["level"]:.0f} %. The columns are tasks with learning rates; steps are those until the validation accuracy stays above that, at a rate of {stable["rate"]:g}.

{shown("stability", found)}
Runs solved, all rates together, by the scale of the initial matrices:

{grid(stable)}
![Runs solved over rates and scales](images/stability_grid.svg)

![Accuracy of every seed](images/stability_accuracy.svg)

![What of the gradient reaches the frames before](images/stability_gradient.svg)

The gradient of a BMRU is blocked by events: where |c| reaches beta, s' = sign(c), and nothing of what was before passes. Between events the state is held, and the gradient with it, whole. So what decides is how often noise takes an untrained unit to its threshold: in {events["1"]} of the frames with the initial matrices as they come, {events["3"]} with three times these, {events["6"]} with six times.

- As they come, there are no events, a BMRU's gradient is as long as a CMRU's, and it learns as surely; at a rate of 0.001 no unit is through in {stable["steps"]} steps.
- The published threshold is |W_b x + b_b| (arXiv 2601.09495, 2605.11855); that of the table is |b_b|, which needs no rectifier. With the published one {solved(stable, "published_bmru")} BMRUs and {solved(stable, "published_cmru")} CMRUs solve the task at {stable["rate"]:g}, with the constant one {solved(stable, "bmru")} and {solved(stable, "cmru")}. So the CMRU is the surer unit as published, but at these settings most BMRUs learn too: their reported failure without annealing is seen in part only.
- At three times the matrices gradients still pass, and the BMRU stalls most often, the CMRU and the annealed one seldom, the alphaCMRU never. This is where the cumulative form is worth most.
- At six times a BMRU's gradient falls forty-fold in ten frames and is zero after 100, and a CMRU's is whole, but neither learns: what a CMRU adds up then is noise.
- At a third of the matrices the first frame is far below the thresholds too, and 1500 steps are seldom enough; the alphaCMRU solves half of its runs, the BMRU none.

A flip-flop has to forget what was before the last pulse: a CMRU without levels counts pulses and cannot, nor can an alphaCMRU, and each of the bistable units can. Parity asks for a next state that depends on the last; one layer whose candidates see the input alone cannot do that with a bit, and only alphaCMRUs that count it out solved it, two of ten. The FQ-BMRU's initial candidates are near its upper threshold, so that its gradients end within 30 frames as soon as matrices are larger; it does the flip-flop, whose pulses come again and again, and seldom keeps one first frame. LRU and minGRU fade: the LRU's gradient falls to a twentieth in ten frames and a hundred-thousandth in 100, and the minGRU's gate, half open at the start, halves it in every frame.

## Benchmarks: every unit at equal sizes

Two layers with skip connections, the last frame decides, {compared["steps"]} steps of {compared["batch_size"]} sequences. For each unit, task and size one network is trained at each learning rate of {rates}; the rate with the best validation accuracy is then used with {compared["seeds"]} other seeds, which draw data, weights and batches. Mean test accuracy and standard deviation over seeds in percent, at about so many parameters; a star: p < 0.05 in a paired t test over seeds against the better one of LRU and minGRU, which is the one with the better mean. No correction is made for the number of tests. The tasks are described in [tasks.md](tasks.md).

{shown("benchmarks", found)}
CMRU or alphaCMRU are at or above the better of LRU and minGRU on this many of {len(compared["tasks"])} tasks: {won} parameters. Of all bistable and counting units one or another is, on: {by_size(compared, family)}.

Over all tasks, differences from it, with Wilcoxon's signed-rank test of the tasks' means:

{chances(compared)}
![Accuracy over parameters](images/benchmarks.svg)

### What holds the CMRU back

The CMRU and the alphaCMRU are both behind, the better of them with p < 0.05, on: {by_size(compared, behind)}. Elsewhere they are ahead or cannot be told from the better reference with {compared["seeds"]} seeds. `benchmarks/held_back.py` trains the CMRU of the study again with one thing changed, at the rate that was chosen without the change, so that these are lower bounds; percent, means of the same {changed["seeds"]} seeds:

{held_back(changed)}
- flip_flop needs a state that the next pulse overwrites, and an event of a CMRU adds. A clip at K = 2 hardly helps: against a full count a pulse moves one level of four. The annealed BMRU, whose event sets the state, solves the task at every size; the unclipped CMRU does not at 10000 parameters.
- digits asks for gradual values of 64 pixels. The CMRU is still learning when the {compared["steps"]} steps are over, which suffice for the LRU; levels or bits are too coarse, and counts without a clip are the best of the discrete states.
- shapes_1d: the clip takes away what the CMRU has. Counts that run on are sums over the sequence; in tasks that ask for sums, not for memory, levels cost.
- expressions: the clip costs nothing, and may gain a little; the rest of the distance to the minGRU is not explained by it.

So levels, annealing or neither is a choice by task: what is to be held asks for levels or bits, what is to be summed for counts.

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
So the clip is not enough by itself: trained plainly, a network of K = 4 solves the task at {lasting["trained_length"]} frames with half of its units moving within {lasting["lengths"][-1]}, and those that move both ways forget. Nothing in {lasting["trained_length"]} frames tells training to keep candidates away from thresholds. The firm recipe does, once the task is learnt:

```yaml
training:
  steps: {firm.steps}
  learning_rate: {firm.rate:g}
  margin: {{distance: {firm.distance:g}, weight: {firm.weight:g}, hold: {firm.learn}, anneal: {firm.firm_up}}}   # model units
```

With it the least margin of networks of K = 4 and 8 is 5.3 to 7 standard deviations, which noise crosses once in 17 million frames or less; in two of K = 2 one unit goes to a rail and stays there. Firm networks of K = 2, 4, 8 and annealed ones hold at {lasting["lengths"][-1]} frames what they hold at {lasting["trained_length"]}, within {100 * lost(lasting, "k2_firm", "k4_firm", "k8_firm", "annealed_firm"):.1f} points in every seed; what K = 2 and the annealed BMRU lack is one seed each that takes one class for another from the beginning. The unclipped CMRU is as firm, but the one seed whose margin stayed at 2.1 drifted away: without a clip one unit is enough. K = 1 learns too seldom to be firm. The same penalty from the first step on (`firm at once`) keeps the network from learning at all. In its place, half as much noise again in training: seven of ten networks learn, and these hold 0.88 to 1.00, so it helps, less surely; and noise on the candidates: less is learnt, and not much more is held (0.50 on average against 0.32).

A network of this recipe with weights that mirrors can make is [copy_first_firm_cmru](../models/copy_first_firm_cmru/README.md): its least margin is 5.0 standard deviations, it is right about 128 of 128 sequences of 100 000 frames, and 40 mismatched chips of its design about 97.9 % of sequences of 10 000 frames in the behavioural model.

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
    changed = json.loads((results.parent / "held_back.json").read_text(encoding="utf-8"))
    write_atomically(docs / "studies.md", page(found, changed))


if __name__ == "__main__":
    main()
