"""The page of the robustness analyses, from their JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from cmru_hw.config import write_atomically
from cmru_hw.report.page import NBSP, condition, embedded, filled, interval, percent
from cmru_hw.report.plots import svg
from cmru_hw.report.robustness_plots import FIGURES

Summary = Mapping[str, Any]
Table = dict[str, Any]

TITLES = {
    "mismatch": ("Mismatch", "Accuracy of each mismatched chip on all inputs."),
    "sensitivity": (
        "Which transistors matter",
        "Share that each transistor has in the spread of the margin.",
    ),
    "scale": ("More and less mismatch", "Yield and accuracy over the size of mismatch."),
    "corners": ("Corners", "Process, supply and temperature."),
    "noise": ("Noise", "Accuracy with the noise of the circuit's own transistors."),
    "retention": ("Retention", "What is held without input."),
    "stuck": ("Stuck cells", "Accuracy with one cell stuck."),
    "rare": ("Rare failures", "Share of chips that miss the target: each run, the mean, its interval."),
    "verify": ("Verified in ngspice", "Margins of the same decisions in both engines."),
}
ROWS = 10  # of a ranking


def write_robustness(folder: Path, report: Summary) -> None:
    """Write `figures/*.svg` and `report.html` into the folder of `robustness.json`."""
    figures = {name: FIGURES[name](summary) for name, summary in report["analyses"].items()}
    for name, figure in figures.items():
        write_atomically(folder / "figures" / f"{name}.svg", svg(figure))
    write_atomically(folder / "report.html", render(report, figures))


def render(report: Summary, figures: Mapping[str, Figure | str]) -> str:
    """The page as text, the same for the same input."""
    analyses, told = report["analyses"], parts(report)
    for part in told:
        name = part["name"]
        part["figures"] = [embedded(name, figures[name], TITLES[name][1])]
    return filled(
        "robustness.html.j2",
        title="Robustness",
        subtitle=[report["unit"], report["technology"]],
        tiles=_tiles(report),
        left_out=[title for name, (title, _) in TITLES.items() if name not in analyses],
        parts=told,
        provenance=[(key, value) for key, value in report.items() if key != "analyses"],
    )


def parts(report: Summary) -> list[dict[str, Any]]:
    """Of each analysis its name, title, lines of text and tables (`columns` and `rows` of text)."""
    found: list[dict[str, Any]] = []
    for name, summary in report["analyses"].items():
        lines, tables = _PARTS[name](summary)
        found.append({"name": name, "title": TITLES[name][0], "lines": lines, "tables": tables})
    return found


def _tiles(report: Summary) -> list[dict[str, str]]:
    analyses = report["analyses"]
    tiles = []
    if found := analyses.get("mismatch"):
        tiles.append(("Accuracy without mismatch", percent(found["nominal_accuracy"]), ""))
        note = f"of {found['chips']} chips reach {percent(found['yield_target'])} (95{NBSP}% interval "
        tiles.append(("Yield", percent(found["yield"]), note + interval(found["yield_ci95"]) + ")"))
    if found := analyses.get("sensitivity"):
        first = found["by_margin"][0]
        tiles.append(("First transistor", percent(first["variance_share"]), first["transistor"]))
    if (found := analyses.get("corners")) and (worst := found["worst"]):
        tiles.append(("Worst corner", percent(worst["nominal_accuracy"]), condition(worst)))
    if found := analyses.get("stuck"):
        worst = found["faults"][0]
        note = f"layer {worst['layer']}, cell {worst['cell']} stuck {worst['stuck']}"
        tiles.append(("Worst stuck cell", percent(worst["accuracy"]), note))
    if found := analyses.get("rare"):
        tiles.append(("Failure probability", _probability(found), f"below {percent(found['yield_target'])}"))
    if found := analyses.get("verify"):
        tiles.append(("ngspice", f"{found['decisions_equal']} of {found['inputs']}", "decisions equal"))
    return [{"label": label, "value": value, "note": note} for label, value, note in tiles]


def _probability(summary: Summary) -> str:
    if summary["failure_probability"]:
        return f"{summary['failure_probability']:.2g}"
    return f"< {summary['below']:.0e}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return {"columns": columns, "rows": rows}


_SPREAD = ("mean", "5th percentile", "yield", "95 % interval")


def _spread(row: Summary) -> list[str]:
    """Cells under `_SPREAD`."""
    rates = [percent(row[key]) for key in ("mean_accuracy", "p05_accuracy", "yield")]
    return [*rates, interval(row["yield_ci95"])]


Part = tuple[list[str], list[Table]]


def _mismatch(summary: Summary) -> Part:
    rows = [
        ("chips", str(summary["chips"])),
        ("mismatch over the technology's", f"{summary['sigma_scale']:g}"),
        ("accuracy without mismatch", percent(summary["nominal_accuracy"])),
        ("mean accuracy", percent(summary["mean_accuracy"])),
        ("standard deviation", percent(summary["std_accuracy"])),
        ("5th percentile", percent(summary["p05_accuracy"])),
        (f"yield at {percent(summary['yield_target'])}", percent(summary["yield"])),
        ("its 95 % interval", interval(summary["yield_ci95"])),
        ("mean margin, model units", f"{summary['mean_margin']:.3g}"),
        ("its standard deviation", f"{summary['std_margin']:.2g}"),
    ]
    return [], [_table(("", ""), rows)]


def _sensitivity(summary: Summary) -> Part:
    explained, lines = summary["explained"], []
    if explained["share"] is not None:
        low, high = explained["share_ci95"]
        lines.append(
            f"Each of {summary['transistors']} transistors alone at ±{summary['sigmas']:g} sigma. Taken as "
            f"linear, they explain {explained['share']:.3f} of the variance of the mean margin over "
            f"the chips (95 % interval {low:.3f} to {high:.3f})."
        )

    def ranked(rows: Sequence[Summary]) -> list[list[str]]:
        return [
            [
                one["transistor"],
                percent(one["variance_share"]),
                *(percent(accuracy) for accuracy in one["accuracy"]),
            ]
            for one in rows[:ROWS]
        ]

    columns = ("transistor", "share", "accuracy at -3 sigma", "+3 sigma")
    tables = [_table(columns, ranked(summary["by_margin"]))]
    if summary["by_accuracy"]:
        tables.append(_table(columns, ranked(summary["by_accuracy"])))
        lines.append("The second table ranks by the accuracy that is lost.")
    return lines, tables


def _scale(summary: Summary) -> Part:
    rows = [
        [
            f"{point['pelgrom']:g} x Pelgrom"
            if "pelgrom" in point
            else f"3 sigma = {percent(point['three_sigma'])}",
            *_spread(point),
        ]
        for point in summary["points"]
    ]
    return [], [_table(("mismatch", *_SPREAD), rows)]


def _corners(summary: Summary) -> Part:
    shifts = ", ".join(
        f"{name} {1e3 * shift['n']:+g} and {1e3 * shift['p']:+g} mV"
        for name, shift in summary["shifts_v"].items()
    )
    lines = [f"A corner moves the thresholds of all nMOS and all pMOS transistors: {shifts}."]
    lines += sorted({f"Not run: {one['reason']}." for one in summary["refused"]})
    worst = sorted(summary["conditions"], key=lambda row: (row["mean_accuracy"], row["nominal_accuracy"]))
    rows = [[condition(row), percent(row["nominal_accuracy"]), *_spread(row)] for row in worst[:ROWS]]
    return lines, [_table(("the worst conditions", "nominal", *_SPREAD), rows)]


def _noise(summary: Summary) -> Part:
    lines = sorted({f"Not run: {one['reason']}." for one in summary["skipped"]})
    tables = []
    for name, key, label in (
        ("bandwidth", "factor", "bandwidth"),
        ("unit_current", "amperes", "unit current"),
    ):
        rows = [
            [
                f"{point[key]:g} x" if key == "factor" else f"{1e9 * point[key]:g} nA",
                percent(point["silent_accuracy"]),
                percent(point["mean_accuracy"]),
                percent(point["std_accuracy"]),
            ]
            for point in summary[name]
        ]
        if rows:
            tables.append(_table((label, "without noise", "with noise, mean", "sd"), rows))
    return lines, tables


def _retention(summary: Summary) -> Part:
    lines = [
        "Input at rest after each input's last frame. Cells whose candidate rests beyond a threshold "
        "follow it; the others hold."
        + (
            " Integrators lose what they hold at the rate of the technology card."
            if summary["droops"]
            else ""
        )
    ]
    lines += sorted({f"Not run: {one['reason']}." for one in summary["refused"]})
    rows = [
        [f"{seconds:g} s, {one['celsius']:g} °C"]
        + [percent(one[key][k]) for key in ("nominal_kept", "kept", "worst_kept", "held", "decisions")]
        for one in summary["temperatures"]
        for k, seconds in enumerate(summary["seconds"])
    ]
    columns = ("", "states kept, nominal", "chips", "worst chip", "since the first time", "its decisions")
    return lines, [_table(columns, rows)]


def _stuck(summary: Summary) -> Part:
    survived = (
        f"{percent(summary['survived'])} of {len(summary['faults'])} single faults leave the target accuracy."
    )
    rows = [
        [f"{one['layer']}.{one['cell']} {one['stuck']}", percent(one["accuracy"]), f"{one['margin']:.3g}"]
        for one in summary["faults"][:ROWS]
    ]
    return [survived], [_table(("layer.cell", "accuracy", "mean margin"), rows)]


def _rare(summary: Summary) -> Part:
    line = (
        f"Failure: an accuracy below {percent(summary['yield_target'])}, {summary['wrong_decisions']} wrong "
        f"decisions or more. {len(summary['runs'])} runs of subset simulation, {summary['chips']} chips in "
        f"all: {_probability(summary)}"
    )
    if summary["failure_probability"]:
        low, high = summary["failure_ci95"]
        line += f" (95 % interval {low:.2g} to {high:.2g})"
    return [line + "."], []


def _verify(summary: Summary) -> Part:
    equal, samples = summary["states_equal"]
    line = (
        f"{summary['decisions_equal']} of {summary['inputs']} decisions and {equal} of {samples} state "
        "samples are the same in ngspice."
    )
    rows = [
        [
            row["suspect"], percent(row["accuracy"]), _list(row["inputs"]), _list(row["labels"]),
            _list(row["nominal"]), _list(row["behavioral"]), _list(row["spice"]),
            f"{row['states'][0]} of {row['states'][1]}",
        ]
        for row in summary["suspects"]
    ]  # fmt: skip
    columns = ("", "accuracy", "inputs", "right", "nominal", "behavioural", "ngspice", "states equal")
    return [line], [_table(columns, rows)]


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


_PARTS: dict[str, Callable[[Summary], Part]] = {
    "mismatch": _mismatch,
    "sensitivity": _sensitivity,
    "scale": _scale,
    "corners": _corners,
    "noise": _noise,
    "retention": _retention,
    "stuck": _stuck,
    "rare": _rare,
    "verify": _verify,
}
