"""The same mismatched chips in the behavioural model and in ngspice; prints one JSON object.

    python benchmarks/same_chips.py models/speaker_vowels_cmru --chips 200 --keep out/same_chips

Chip k decides one utterance of the test set, drawn by `--seed`. Of each pair: the decision, the states, the
margin of the decision and the supply power, in both. Finished runs stay in `--keep`, and a repeated command
goes on from them. The Kolmogorov-Smirnov tests ask whether the two engines' margins and powers may come from
one distribution. `yields` are the shares of chips that decide with a margin or more: ngspice's with the exact
interval that its chips leave, the behavioural model's of `--more` chips, each on all such utterances.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from cmru_hw import __version__
from cmru_hw.analysis.agreement import agreement, select
from cmru_hw.analysis.robustness.lot import Lot
from cmru_hw.analysis.robustness.yields import interval
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.codesign import read_plan
from cmru_hw.config import cores
from cmru_hw.console import progress_bar
from cmru_hw.design import Design
from cmru_hw.farm import Farm
from cmru_hw.mapping import map_folder
from cmru_hw.nn.network import load_network
from cmru_hw.result import Result
from cmru_hw.spice.ngspice import find_ngspice
from cmru_hw.spice.simulate import simulate
from cmru_hw.stimulus import Stimulus, make_stimulus
from cmru_hw.variation import draw, one_chip


def margin(result: Result, label: int) -> float:
    """Pooled logit of the right class less the largest other, model units."""
    pooled = np.nanmean(result.logits.reshape(-1, result.logits.shape[-1]), axis=0)
    return float(pooled[label] - np.delete(pooled, label).max())


def pair(
    design: Design, stimulus: Stimulus, label: int, chip: int, seed: int, sigma_scale: float, keep: Path
) -> dict[str, Any]:
    """Both engines' outcome of one chip and one input."""
    shifts = one_chip(draw(design, [chip], seed, sigma_scale), 0)
    model = BehavioralModel(design, shifts).run(stimulus)
    spice = simulate(design, stimulus, shifts, Farm(1), checked=0, keep=keep / str(chip))
    found = agreement(design, select(model, [0]), spice)
    return {
        "decisions_equal": found.decisions,
        "right": [int(model.decision[0] == label), int(spice.decision[0] == label)],
        "states": [found.states, found.samples],
        "kinds": found.kinds,
        "margins": [margin(model, label), margin(spice, label)],
        "power": [float(model.supply_power[0]), float(spice.supply_power[0])],
        "blocks": {key: [float(model.breakdown[key][0]), float(spice.breakdown[key][0])]
                   for key in model.breakdown},
    }  # fmt: skip


MARGINS = (0.0, 1.0, 2.0, 4.0, 8.0)  # model units


def yields(spice: NDArray[np.float64], same: NDArray[np.float64], many: NDArray[np.float64]) -> list[Any]:
    """Shares of chips with a margin or more, in ngspice and in the model, of the same chips and of many."""
    rows = []
    for least in MARGINS:
        good = int((spice >= least).sum())
        low, high = interval(good, len(spice))
        share = float((many >= least).mean())
        rows.append(
            {
                "margin": least,
                "spice": good / len(spice),
                "spice_ci95": [low, high],
                "behavioral_same": float((same >= least).mean()),
                "behavioral": share,
                "within": low <= share <= high,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--config", default="config.yaml")
    parser.add_argument("--chips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sigma-scale", type=float, default=1.0, help="factor on the mismatch")
    parser.add_argument("--longest", type=int, default=12, help="frames of an utterance, at most")
    parser.add_argument("--more", type=int, default=500, help="chips of the behavioural model alone")
    parser.add_argument("--keep", type=Path, required=True)
    given = parser.parse_args()
    plan, network = read_plan(given.model / given.config), load_network(given.model)
    design, _ = map_folder(given.model, network, plan.technology, plan.config.mapping)
    split = plan.task.test
    stimulus = make_stimulus(split.x, design.facts.input_size, design.facts.frame_period, split.lengths)
    short = np.flatnonzero(stimulus.lengths <= given.longest)
    chosen = np.random.default_rng(given.seed).choice(short, given.chips)

    def one(chip: int) -> dict[str, Any]:
        index = int(chosen[chip])
        some, label = stimulus.select([index]), int(split.y[index])
        return pair(design, some, label, chip, given.seed, given.sigma_scale, given.keep)

    rows = []
    with ThreadPoolExecutor(cores()) as pool, progress_bar("chips", given.chips) as report:
        for row in pool.map(one, range(given.chips)):
            rows.append(row)
            report(len(rows))
    lot = Lot(design, stimulus.select(short.tolist()), split.y[short], given.seed)
    others = range(given.chips, given.chips + given.more)
    many = np.concatenate([lot.margins(draw(design, few, given.seed)) for few in lot.batches(others)])
    states = np.array([row["states"] for row in rows]).sum(axis=0)
    margins, power = (np.array([row[key] for row in rows]) for key in ("margins", "power"))
    blocks = {key: np.array([row["blocks"][key] for row in rows]) for key in rows[0]["blocks"]}
    error = power[:, 0] / power[:, 1] - 1
    print(
        json.dumps(
            {
                "model": f"{given.model.name}/{given.config}",
                "chips": given.chips,
                "sigma_scale": given.sigma_scale,
                "frames": int(stimulus.lengths[chosen].sum()),
                "decisions_equal": sum(row["decisions_equal"] for row in rows),
                "right": np.array([row["right"] for row in rows]).sum(axis=0).tolist(),
                "states_equal": float(states[0] / states[1]),
                "kinds": {kind: sum(row["kinds"][kind] for row in rows) for kind in rows[0]["kinds"]},
                "margin_rms_difference": float(np.sqrt(np.mean((margins[:, 0] - margins[:, 1]) ** 2))),
                "margin_sd": margins.std(axis=0).tolist(),
                "margin_ks_p": float(ks_2samp(*margins.T).pvalue),
                "chips_behavioral": given.more,
                "yields": yields(margins[:, 1], margins[:, 0], many),
                "power_w": power.mean(axis=0).tolist(),
                "power_error": {"mean": float(error.mean()), "worst": float(np.abs(error).max())},
                "power_ks_p": float(ks_2samp(*power.T).pvalue),
                "block_error": {
                    key: float(both[:, 0].mean() / both[:, 1].mean() - 1)
                    for key, both in blocks.items()
                    if both.any()
                },
                "machine": {
                    "cores": cores(), "load": os.getloadavg()[0], "ngspice": find_ngspice()[1],
                    "cmru_hw": __version__,
                },
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
