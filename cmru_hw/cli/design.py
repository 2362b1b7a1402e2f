"""Commands that make a design of a network, and hand it on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cmru_hw.cli.inputs import load_or_rest
from cmru_hw.cli.options import (
    AccumulatorName,
    BoundaryName,
    DesignDir,
    Json,
    LatchName,
    Out,
    Supply,
    Temperature,
)
from cmru_hw.cli.output import check_folder, print_json, print_rows

if TYPE_CHECKING:
    from cmru_hw.mapping import MappingReport


def map_(
    run: Annotated[Path, typer.Argument(help="Folder with network.yaml and weights.safetensors.")],
    output: Out,
    technology: Annotated[
        str, typer.Option("-t", "--technology", help="Its name, or the folder of its card, with a slash.")
    ] = "generic180",
    boundary: Annotated[
        BoundaryName, typer.Option(help="full: inputs to logits; core: recurrent layers alone.")
    ] = BoundaryName.full,
    latch: Annotated[
        Optional[LatchName],  # noqa: UP045
        typer.Option(help="9t: small; clocked: free of hazards. Default 9t for fq_bmru, clocked else."),
    ] = None,
    accumulator: Annotated[
        Optional[AccumulatorName],  # noqa: UP045
        typer.Option(help="What holds a cmru's state; default latch_bank."),
    ] = None,
    levels: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="K of a cmru that was trained without levels."),
    ] = None,
    units: Annotated[int, typer.Option(help="Unit transistors that make a weight of 1.")] = 16,
    unit_area: Annotated[
        float, typer.Option(help="W L of the unit transistor, as a factor on the card's.")
    ] = 1.0,
    unit_current: Annotated[float, typer.Option(help="Current of one model unit, A.")] = 1e-9,
    frame_period: Annotated[float, typer.Option(help="Time of one frame, s.")] = 1e-2,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse what would have to be clipped.")] = False,
    as_json: Json = False,
) -> None:
    """Map trained or imported weights to a design of transistors and bias currents.

    Example: cmru-hw map models/speaker_vowels_fq_bmru -t generic180 -o out/design
    """
    from dataclasses import asdict

    from cmru_hw.config import validate
    from cmru_hw.mapping import MappingConfig, map_folder
    from cmru_hw.nn.network import load_network, save_network
    from cmru_hw.technology import load_technology

    values = {
        "boundary": boundary.value, "latch": latch.value if latch else None,
        "accumulator": accumulator.value if accumulator else None, "levels": levels,
        "units": units, "unit_area": unit_area, "unit_current": unit_current,
        "frame_period": frame_period, "strict": strict,
    }  # fmt: skip
    check_folder(output)
    choices = validate(MappingConfig, values, "options")
    card, network = load_technology(technology), load_network(run)
    design, report = map_folder(run, network, card, choices)
    design.save(output)
    report.save(output)
    save_network(network, output)
    if as_json:
        print_json(asdict(report))
    else:
        _print_mapping(report)


def export(
    design: DesignDir,
    output: Out,
    dialect: Annotated[str, typer.Option(help="ngspice, spectre, xyce or ltspice.")] = "ngspice",
    input: Annotated[Optional[Path], typer.Option("--input", help="As for simulate.")] = None,  # noqa: UP045
    models: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Your own model file, to be included instead of the technology's."),
    ] = None,
    temperature: Temperature = None,
    supply: Supply = None,
    as_json: Json = False,
) -> None:
    """Write netlist, testbenches, expected decisions, sizes and bias currents for a simulator.

    Example: cmru-hw export out/design --input x.npy --dialect ngspice -o out/netlist
    """
    from cmru_hw.export import export as write
    from cmru_hw.report.schematics import left_out

    check_folder(output)
    built, stimulus = load_or_rest(design, input, temperature, supply)
    names = write(built, stimulus, output, dialect, models)
    if missing := left_out():
        typer.echo(f"cmru-hw: left out: {missing}", err=True)
    if as_json:
        print_json({"dialect": dialect, "files": names})
    else:
        print_rows(str(output), [(name, dialect) for name in names])


def _print_mapping(report: MappingReport) -> None:
    rows = [
        ("unit transistors", str(report.transistors)),
        ("active area", f"{report.area_m2 * 1e12:.0f} um^2"),
        ("largest weight", f"{max(report.unit_histogram)} units"),
        ("smallest rest-point margin", f"{report.smallest_rest_margin * 1e12:.1f} pA"),
    ]
    rows += [(f"rounding of {name}", f"{100 * e:.2f} % rms") for name, e in report.quantization_error.items()]
    rows += [
        (f"clipped: {clip.tensor}{clip.index}", f"{clip.trained:g} -> {clip.built:g}: {clip.reason}")
        for clip in report.clipped
    ]
    rows += [
        (
            f"rests near a threshold: {point.tensor}{point.index}",
            f"{point.candidate * 1e12:.1f} pA, threshold {point.threshold * 1e12:.1f} pA",
        )
        for point in report.rest_points
    ]
    print_rows("mapping", rows)
