"""Commands that run a design on inputs: in one engine, or in both beside the trained network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from cmru_hw.cli.inputs import load, load_or_rest
from cmru_hw.cli.options import (
    Checked,
    DesignDir,
    Engine,
    InputFile,
    Json,
    Noise,
    Out,
    Partition,
    Scheduler,
    Supply,
    Temperature,
    Workers,
    make_farm,
)
from cmru_hw.cli.output import check_file, print_json, print_rows
from cmru_hw.errors import ConfigError

if TYPE_CHECKING:
    from cmru_hw.design import Design
    from cmru_hw.farm import Farm
    from cmru_hw.result import Result
    from cmru_hw.stimulus import Stimulus


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
    check_file(output)
    built, stimulus = load(design, input, temperature, supply)
    keep = _runs_of(output)
    result = _simulate(
        built, stimulus, engine, make_farm(workers, scheduler), chips, seed, keep, checked, partition, noise
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
        print_json(summary)
    else:
        print_rows(str(output), [(key, str(value)) for key, value in summary.items()])


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

    check_file(output)
    built, stimulus = load(design, input, temperature, supply)
    trained = run_trained(load_network(design), built, stimulus)
    behavioral = _simulate(built, stimulus, Engine.behavioral)
    keep = _runs_of(output)
    spice = _simulate(
        built,
        stimulus,
        Engine.ngspice,
        make_farm(workers, scheduler),
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
        print_json(found)
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

    built, stimulus = load_or_rest(design, input, temperature, supply)
    engines = list(Engine) if engine is None else [engine]
    found: dict[str, Any] = {"input": "at rest" if input is None else str(input)}
    for one in engines:
        result = _simulate(
            built, stimulus, one, make_farm(workers, scheduler), checked=checked, partition=partition
        )
        found[one.value] = analyse(result, stimulus)
    if as_json:
        print_json(found)
        return
    table = Table("nW", *(one.value for one in engines), title=f"power, input: {found['input']}")
    for key in dict.fromkeys(key for one in engines for key in found[one.value]["breakdown"]):
        parts = [found[one.value]["breakdown"] for one in engines]
        table.add_row(key, *(f"{part[key] * 1e9:.3f}" if key in part else "0" for part in parts))
    table.add_row("total", *(f"{found[one.value]['power_w'] * 1e9:.3f}" for one in engines))
    Console().print(table)


def _runs_of(output: Path) -> Path:
    """Where finished ngspice runs wait until all of them are there; a repeated command goes on from them."""
    return output.with_name(f"{output.name}.runs")


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
