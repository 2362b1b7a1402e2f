"""One self-contained HTML page from the numbers and figures of a run.

Everything is escaped and embedded; the page asks the network for nothing. What a run did not measure is
named as left out, never filled in.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from cmru_hw.config import write_atomically
from cmru_hw.errors import ConfigError
from cmru_hw.report.plots import si, svg

PAPERS = (
    ("De Geeter et al.", "2026", "the BMRU and its circuit", "2601.09495"),
    ("Brandoit et al.", "ICML 2026", "the CMRU", "2605.11855"),
    ("from the same group", "2026", "the FQ-BMRU, and annealing a CMRU to a BMRU", "2605.15216"),
)

NOTICE = (
    "The 9T cell, FQ-BMRU and CMRU are the subject of patent applications by the University of Liège"
    " (EP26175243.0, EP26175248.9, EP26151077.0, US 63/897,109). This is an independent implementation from"
    " the published equations, for research."
)

PLACES = {
    "agreement": ("waveforms", "confusion"),
    "power": ("power_breakdown",),
    "mismatch": ("accuracy_over_chips",),
    "corners": ("corners",),
    "circuit": ("states", "hysteresis"),
    "training": ("training_curve",),
}

CAPTIONS = {
    "waveforms": "Currents of one utterance: ngspice, and the behavioural model's value of each frame.",
    "confusion": "Decisions by true class; shade is the share of the class.",
    "power_breakdown": "Power by layer and primitive in both models.",
    "accuracy_over_chips": "Accuracy of each mismatched chip on the whole test set.",
    "corners": "Accuracy of the circuit without mismatch over process, supply and temperature.",
    "states": "States at the ends of the frames of one input: ngspice, and the behavioural model.",
    "hysteresis": "One latch in ngspice, its input swept up and down, with its thresholds.",
    "training_curve": "Loss and accuracy while training.",
}

MODELS = {"behavioral": "behavioural", "spice": "SPICE"}

KINDS = {
    "static": "a wrong current at the frame's end",
    "dynamic": "a hazard, a transient that was latched",
    "inherited": "held from an earlier error",
}


NBSP = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Sections:
    """What a report shows beside metrics.json and figures; leave out what was not measured.

    `agreement` maps a pair ("behavioural and SPICE") to `inputs`, `decisions` (equal ones),
    `decision_fraction`, `state_fraction`, `logit_error_a` (rms, A) and `kinds` (disagreeing states by
    `KINDS`); any may be missing. `warnings` are lines from mapping, `clips` rows of equal keys, such as
    tensor, index, value, clipped_to. `provenance` may be nested; `commands` reproduce the run. `captions`
    adds to and replaces `CAPTIONS`. `notes` are further paragraphs under the summary.
    """

    agreement: Mapping[str, Mapping[str, Any]] | None = None
    warnings: Sequence[str] | None = None
    clips: Sequence[Mapping[str, Any]] | None = None
    provenance: Mapping[str, Any] | None = None
    commands: Sequence[str] = ()
    captions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write_report(
    path: Path,
    metrics: Mapping[str, Any],
    figures: Mapping[str, Figure | str],
    sections: Sections | None = None,
) -> None:
    """Write the page; `metrics` as in codesign's metrics.json, figures (or SVG text) by name (`CAPTIONS`)."""
    write_atomically(path, render(metrics, figures, sections))


def render(
    metrics: Mapping[str, Any], figures: Mapping[str, Figure | str], sections: Sections | None = None
) -> str:
    """The page as text, the same for the same input."""
    sections = sections or Sections()
    captions = {**CAPTIONS, **sections.captions}
    placed = {name for names in PLACES.values() for name in names}
    drawn = {
        place: [
            embedded(name, figures[name], captions.get(name, name.replace("_", " ")))
            for name in names
            if name in figures
        ]
        for place, names in {**PLACES, "others": [name for name in figures if name not in placed]}.items()
    }
    numbers = _Numbers(metrics)
    breakdown = power_table(metrics)
    agreement = agreement_rows(metrics, sections.agreement)
    return filled(
        "page.html.j2",
        title=str(metrics.get("task", "co-design")).replace("_", " "),
        subtitle=[f"{name} {value}" for name in ("unit", "technology") if (value := metrics.get(name))],
        tiles=tiles(numbers),
        agreement=agreement,
        has_kinds=any(row["kinds"] for row in agreement),
        kinds=KINDS,
        power=breakdown,
        energy=numbers.si("energy_per_inference_j", "J"),
        mismatch=mismatch_rows(numbers),
        corners=corner_lines(numbers),
        area=area_rows(numbers),
        figures=drawn,
        sections=sections,
        clip_columns=list(dict.fromkeys(key for row in sections.clips or () for key in row)),
        provenance=list(flat(sections.provenance or {})),
        left_out=left_out(numbers, sections, agreement, breakdown["rows"]),
    )


def filled(template: str, **values: Any) -> str:
    """A page from its template, with what all pages show."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(papers=PAPERS, notice=NOTICE, text=_text, **values)


class _Numbers:
    """Dotted look-ups in metrics as text; None where there is no finite number."""

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        self._metrics = metrics

    def get(self, name: str) -> Any:
        """The value at `a.b`, None if any part is missing or it is not finite."""
        value: Any = self._metrics
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return None if isinstance(value, float) and not math.isfinite(value) else value

    def percent(self, name: str) -> str | None:
        """A fraction in %."""
        return None if (value := self.get(name)) is None else percent(value)

    def si(self, name: str, unit: str) -> str | None:
        """A number with an SI prefix."""
        return None if (value := self.get(name)) is None else quantity(value, unit)


def percent(fraction: float) -> str:
    """0.9574 as "95.7 %"; only 1 is "100 %"."""
    shown = f"{100 * fraction:.1f}"
    if shown == "100.0":
        return f"100{NBSP}%" if fraction == 1 else f">{NBSP}99.9{NBSP}%"
    return f"{shown}{NBSP}%"


def quantity(value: float, unit: str) -> str:
    """4.1e-8, "W" as "41 nW"."""
    factor, label = si([value], unit)
    return f"{value * factor:.3g}{NBSP}{label}"


def area(square_metres: float) -> str:
    """1.234e-8 as "12 340 µm²"; square millimetres from 0.1 on."""
    if square_metres >= 1e-7:
        return f"{square_metres * 1e6:.3g}{NBSP}mm²"
    return f"{count(round(square_metres * 1e12))}{NBSP}µm²"


def count(number: int) -> str:
    """12340 as "12 340"."""
    return f"{number:,}".replace(",", NBSP)


def interval(bounds: Sequence[float]) -> str:
    """Two fractions as "90.5 to 93.8 %"."""
    low, high = bounds
    return f"{100 * low:.1f} to {100 * high:.1f}".replace(" ", NBSP) + f"{NBSP}%"


def tiles(numbers: _Numbers) -> list[dict[str, str]]:
    """The summary: label, value and a note, of what was measured."""
    size, transistors = numbers.get("area_m2"), numbers.get("transistors")
    parameters = numbers.get("parameters")
    inputs, target = numbers.get("agreement.inputs"), numbers.get("robustness.yield_target")
    bounds, chips = numbers.get("robustness.yield_ci95"), numbers.get("robustness.chips")
    energy = numbers.si("energy_per_inference_j", "J")
    yield_note = [f"of {chips} chips"] if chips is not None else []
    if target is not None:
        yield_note.append(f"reach {percent(target)}")
    if bounds is not None:
        yield_note.append(f"(95{NBSP}% interval {interval(bounds)})")
    same = numbers.percent("accuracy_on_spice_inputs.software")
    spice_note = "transistors in ngspice" + (f", {inputs} inputs" if inputs is not None else "")
    spice_note += f"; the trained network on these: {same}" if same else ""
    found = [
        ("Software accuracy", numbers.percent("accuracy.software"), "the trained network"),
        ("Behavioural accuracy", numbers.percent("accuracy.behavioral"), "the fast device model"),
        ("SPICE accuracy", numbers.percent("accuracy.spice"), spice_note),
        (
            "Agreement",
            numbers.percent("agreement.decision_fraction"),
            "equal decisions" + (f" of {inputs} inputs" if inputs is not None else ""),
        ),
        ("Power, SPICE", numbers.si("power_w.spice", "W"), f"{energy} an inference" if energy else ""),
        ("Power, behavioural", numbers.si("power_w.behavioral", "W"), ""),
        ("Yield", numbers.percent("robustness.yield"), " ".join(yield_note)),
        (
            "Transistors",
            count(transistors) if transistors is not None else None,
            f"{count(parameters)} parameters" if parameters is not None else "",
        ),
        ("Active area", area(size) if size is not None else None, ""),
    ]
    return [
        {"label": label, "value": value, "note": note} for label, value, note in found if value is not None
    ]


def agreement_rows(
    metrics: Mapping[str, Any], pairs: Mapping[str, Mapping[str, Any]] | None
) -> list[dict[str, Any]]:
    """One row a pair of models; metrics alone give the pair behavioural and SPICE."""
    if pairs is None:
        only = metrics.get("agreement")
        pairs = {"behavioural and SPICE": only} if only else {}
    rows = []
    for pair, entry in pairs.items():
        numbers = _Numbers(entry)
        decisions, inputs = numbers.get("decisions"), numbers.get("inputs")
        rows.append(
            {
                "pair": pair,
                "decisions": f"{count(decisions)} of {count(inputs)}"
                if None not in (decisions, inputs)
                else None,
                "decision_fraction": numbers.percent("decision_fraction"),
                "state_fraction": numbers.percent("state_fraction"),
                "logit_error": numbers.si("logit_error_a", "A"),
                "kinds": numbers.get("kinds") or {},
            }
        )
    return rows


def power_table(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The power breakdown with shares, largest first.

    It may be flat or nested (joined by "/"), and may be given by model, for a column each.
    """
    breakdown = _Numbers(metrics).get("power_w.breakdown") or {}
    by_model = {
        name: entry for name, entry in breakdown.items() if name in MODELS and isinstance(entry, Mapping)
    }
    columns = [dict(flat(entry, "/")) for entry in (by_model.values() if by_model else [breakdown])]
    totals = [sum(column.values()) for column in columns]
    names = sorted({name for column in columns for name in column})
    names.sort(key=lambda name: -max(column.get(name, 0.0) for column in columns))
    rows = [
        (name, [_share(column.get(name), total) for column, total in zip(columns, totals, strict=True)])
        for name in names
    ]
    return {"models": [MODELS[name] for name in by_model], "rows": rows}


def _share(power: float | None, total: float) -> tuple[str, str]:
    if power is None:
        return _text(None), ""
    return quantity(power, "W"), percent(power / total) if total else ""


def area_rows(numbers: _Numbers) -> list[tuple[str, str, str, str]]:
    """Unit transistors, area and its share of each part, largest first."""
    parts = numbers.get("area_breakdown") or {}
    total = sum(part["area_m2"] for part in parts.values())
    return [
        (name, count(part["transistors"]), area(part["area_m2"]), percent(part["area_m2"] / total))
        for name, part in sorted(parts.items(), key=lambda entry: -entry[1]["area_m2"])
    ]


def condition(row: Mapping[str, Any]) -> str:
    """Where a circuit works: corner, supply, temperature."""
    return f"{row['corner']}, {row['supply']:g} V, {row['celsius']:g} °C"


def corner_lines(numbers: _Numbers) -> list[str]:
    """Where the circuit is least accurate, and what was not run, with the reason."""
    lines = []
    if worst := numbers.get("corners.worst"):
        lines.append(f"At worst {percent(worst['nominal_accuracy'])}: {condition(worst)}.")
    refused = numbers.get("corners.refused") or []
    return lines + sorted({f"Not run: {one['reason']}." for one in refused})


def mismatch_rows(numbers: _Numbers) -> list[tuple[str, str]]:
    """What `robustness` found, as label and value."""
    bounds, scale = numbers.get("robustness.yield_ci95"), numbers.get("robustness.sigma_scale")
    chips = numbers.get("robustness.chips")
    rows = [
        ("Chips", None if chips is None else str(chips)),
        ("Mismatch, relative to the technology's", None if scale is None else f"{scale:g}"),
        ("Mean accuracy", numbers.percent("robustness.mean_accuracy")),
        ("Standard deviation", numbers.percent("robustness.std_accuracy")),
        ("5th percentile", numbers.percent("robustness.p05_accuracy")),
        ("Accuracy a chip has to reach", numbers.percent("robustness.yield_target")),
        ("Yield", numbers.percent("robustness.yield")),
        (
            "95 % interval of the yield",
            None if bounds is None else interval(bounds),
        ),
    ]
    return [(label, value) for label, value in rows if value is not None]


def left_out(
    numbers: _Numbers, sections: Sections, agreement: Sequence[Any], breakdown: Sequence[Any]
) -> list[str]:
    """What this page would show if the run had measured it."""
    spice_run = numbers.get("accuracy.spice") is not None
    missing = {
        "software accuracy": numbers.get("accuracy.software") is None,
        "behavioural accuracy": numbers.get("accuracy.behavioral") is None,
        "SPICE accuracy: no ngspice run": not spice_run,
        "agreement of the models": not agreement,
        "kinds of disagreement": bool(agreement) and not any(row["kinds"] for row in agreement),
        "power": all(numbers.get(f"power_w.{model}") is None for model in ("behavioral", "spice")),
        "power by layer and primitive": not breakdown,
        "area by layer and primitive": not numbers.get("area_breakdown"),
        "corners": not numbers.get("corners.conditions"),
        "mismatch and yield": numbers.get("robustness.yield") is None,
        "warnings and clips of the mapping": sections.warnings is None and sections.clips is None,
        "provenance": not sections.provenance,
    }
    return [name for name, absent in missing.items() if absent]


def embedded(name: str, figure: Figure | str, caption: str) -> dict[str, str]:
    """A figure as a page holds it. Raises ConfigError for what is no figure."""
    drawing = figure if isinstance(figure, str) else svg(figure)
    if not drawing.lstrip().startswith(("<svg", "<?xml")):
        raise ConfigError(f"figure {name}: must be a Figure or SVG text, got {drawing[:20]!r}")
    encoded = base64.b64encode(drawing.encode()).decode()
    return {"name": name, "uri": f"data:image/svg+xml;base64,{encoded}", "caption": caption}


def flat(content: Mapping[str, Any], joint: str = ", ") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}{joint}{inner}", leaf) for inner, leaf in flat(value, joint))
        else:
            yield str(key), value


def _text(value: Any) -> str:
    """A value of a table cell: numbers short, absent ones as a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value)
    return str(value)
