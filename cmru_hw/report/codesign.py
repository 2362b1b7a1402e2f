"""The figures and the page of a co-design run, from its findings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cmru_hw.analysis.findings import Findings
from cmru_hw.config import write_atomically
from cmru_hw.design import Design
from cmru_hw.primitives.device import Array
from cmru_hw.primitives.latch import Latch
from cmru_hw.report import plots
from cmru_hw.report.page import Sections, write_report
from cmru_hw.report.plots import svg
from cmru_hw.report.robustness_plots import corners
from cmru_hw.spice.latch_bench import Hysteresis

PANELS = 3  # currents of each kind in the waveform figure


def write_codesign_report(
    findings: Findings, metrics: Mapping[str, Any], provenance: Mapping[str, Any], config: Path, out: Path
) -> None:
    """Write `report.html`, `figures/*.svg` and what is drawn in them, `figures/data.json`."""
    drawn = data(findings, metrics)
    figures = {name: DRAWINGS[name](**content) for name, content in drawn.items()}
    for name, figure in figures.items():
        write_atomically(out / "figures" / f"{name}.svg", svg(figure))
    write_atomically(out / "figures" / "data.json", json.dumps(drawn, default=_plain) + "\n")
    pairs = {
        pair.replace("behavioral", "behavioural").replace("_", " and ").replace("spice", "SPICE"): {
            key: value for key, value in found.to_json().items() if key not in ("disagreements", "states")
        }
        for pair, found in findings.agreements.items()
    }
    design, task = out.name + "/design", metrics["task"]
    sections = Sections(
        agreement=pairs,
        warnings=mapping_lines(findings),
        clips=[asdict(clip) for clip in findings.mapping.clipped],
        provenance=provenance,
        commands=[
            "# this page, again from what is finished",
            f"cmru-hw codesign {config.name} -o {out.name}",
            "# mismatch, noise, time and faults in full; the circuit for another simulator",
            f"cmru-hw robustness {design} --task {task} --analysis all -o robustness",
            f"cmru-hw export {design} --dialect spectre -o netlist",
        ],
    )
    write_report(out / "report.html", metrics, figures, sections)


def _plain(array: Array) -> Any:
    """For JSON."""
    return array.tolist()


DRAWINGS: dict[str, Callable[..., Figure]] = {
    "hysteresis": plots.hysteresis,
    "states": plots.states,
    "waveforms": plots.waveforms,
    "confusion": plots.confusion,
    "power_breakdown": plots.power_breakdown,
    "accuracy_over_chips": plots.accuracy_over_chips,
    "corners": corners,
}


def data(findings: Findings, metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By figure, what its drawing takes."""
    breakdown = metrics["power_w"]["breakdown"]
    classes = len(findings.class_names)
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (findings.labels, findings.behavioral.decision), 1)
    return {
        **({"hysteresis": _hysteresis(findings.design, curves)} if (curves := findings.hysteresis) else {}),
        "states": _states(findings),
        "waveforms": _waveforms(findings),
        "confusion": {"matrix": counts, "labels": findings.class_names},
        "power_breakdown": {"behavioral": breakdown["behavioral"], "spice": breakdown["spice"]},
        "accuracy_over_chips": {
            "accuracies": findings.accuracies, "nominal": metrics["accuracy"]["behavioral"],
            "yield_target": findings.robustness.yield_target,
        },
        "corners": {"summary": metrics["corners"]},
    }  # fmt: skip


def mapping_lines(findings: Findings) -> list[str]:
    """What mapping found, a line each."""
    report = findings.mapping
    lines = [
        f"{name}: rounding to whole unit transistors, rms error {100 * error:.2f} % of rms"
        for name, error in report.quantization_error.items()
    ]
    lines.append(f"smallest rest-point margin: {report.smallest_rest_margin * 1e12:.0f} pA")
    lines += [
        f"{point.tensor}{point.index} rests at {point.candidate * 1e12:.1f} pA, "
        f"its threshold is {point.threshold * 1e12:.1f} pA"
        for point in report.rest_points
    ]
    return lines


def _hysteresis(design: Design, curves: Hysteresis) -> dict[str, Any]:
    """The first latch's."""
    latch = next(stage for stage in design.stages if isinstance(stage, Latch))
    up, down = slice(0, curves.turn + 1), slice(None, curves.turn - 1 if curves.turn else None, -1)
    rising, falling = curves.candidate[up, 0], curves.candidate[down, 0]
    programmed = float(latch.i_threshold[0])
    return {
        "input_a": rising,
        "output_up_a": curves.output[up, 0],
        "output_down_a": np.interp(rising, falling, curves.output[down, 0]),
        "thresholds": {
            "programmed": (programmed, programmed - float(latch.i_width[0])),
            "measured": (float(curves.up[0]), float(curves.down[0])),
        },
    }


def _states(findings: Findings) -> dict[str, Any]:
    """The states of the cells that move most, over the frames of the first SPICE input."""
    frames = int(findings.spice_stimulus.lengths[0])
    spice, behavioral, names = [], [], []
    for layer, (measured, modelled) in enumerate(
        zip(findings.spice.states, findings.some_behavioral.states, strict=True)
    ):
        moves = np.abs(np.diff(measured[0, :frames].astype(float), axis=0)).sum(axis=0)
        for cell in np.argsort(-moves, kind="stable")[:PANELS]:
            spice.append(measured[0, :frames, cell].astype(float))
            behavioral.append(modelled[0, :frames, cell].astype(float))
            names.append(f"layer {layer}, cell {cell}")
    return {"spice": np.stack(spice, axis=1), "behavioral": np.stack(behavioral, axis=1), "names": names}


def _waveforms(findings: Findings) -> dict[str, Any]:
    """Candidates of the busiest cells and the logits of the first classes, of the first SPICE input."""
    frames = int(findings.spice_stimulus.lengths[0])
    traces = findings.spice.waveforms
    points = np.isfinite(traces["logits"][0, :, 0])
    facts = findings.design.facts
    unit = facts.unit_current * facts.logit_scale
    spice, behavioral, names = [], [], []
    for layer, candidates in enumerate(findings.some_behavioral.candidates):
        values = candidates[0, :frames]
        for cell in np.argsort(-np.ptp(values, axis=0))[:PANELS]:
            spice.append(traces[f"candidate_{layer}"][0, points, cell])
            behavioral.append(values[:, cell])
            names.append(f"layer {layer}, candidate {cell}")
    logits = findings.some_behavioral.logits[0, :frames]
    for index in np.argsort(-logits.mean(axis=0))[:PANELS]:
        spice.append(traces["logits"][0, points, index] * unit)
        behavioral.append(logits[:, index] * unit)
        names.append(f"logit {findings.class_names[index]}")
    return {
        "time_s": traces["time"][points],
        "spice_a": np.stack(spice, axis=1),
        "behavioral_a": np.stack(behavioral, axis=1),
        "frame_period": facts.frame_period,
        "names": names,
    }
