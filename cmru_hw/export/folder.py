"""`export`: everything about a design in one folder, for one simulator."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmru_hw.behavioral import BehavioralModel
from cmru_hw.config import packaged, write_atomically
from cmru_hw.design import Design
from cmru_hw.errors import ConfigError
from cmru_hw.export.cards import Cell, Element, Model, hierarchy, read
from cmru_hw.export.dialects import Dialect, Ngspice, Run, dialect
from cmru_hw.export.verilog_a import parameters
from cmru_hw.primitives.signal import source_net
from cmru_hw.report.diagram import block_diagram, boxes
from cmru_hw.report.plots import svg
from cmru_hw.report.schematics import drawings, left_out
from cmru_hw.spice.job import LATCH, Job, Transient, refuse_commands
from cmru_hw.spice.netlist import MODELS
from cmru_hw.spice.simulate import job
from cmru_hw.stimulus import Stimulus

SAFE = re.compile(r"[A-Za-z0-9_./-]+")


def export(
    design: Design, stimulus: Stimulus, folder: Path, language: str = "ngspice", models: str | None = None
) -> list[str]:
    """Write the design for a simulator; names of the files. A testbench an input, read at frames' ends.

    The circuit is the one that `simulate` runs as a whole. `models` names a file of the designer's own with
    subcircuits `nfet` and `pfet`, which is then included instead of the technology's.
    Raises ConfigError for an unknown dialect, an unsafe name, models that run commands or that the dialect
    cannot say.
    """
    spoken = dialect(language)
    if models is not None and not SAFE.fullmatch(models):
        raise ConfigError(f"models: {models!r} is not safe in a netlist; letters, digits, and _ . / - are")
    jobs = [_job(design, stimulus, index) for index in range(len(stimulus))]
    files = _libraries(design, jobs[0], spoken, models)
    taken = [spoken.include(name) for name in files]
    expected = BehavioralModel(design).run(stimulus).decision
    benches = []
    for index, one in enumerate(jobs):
        run = _run(design, stimulus, index, one)
        cells, instance, drives = hierarchy(read(one.netlist, one.title), set(run.probes) | set(run.initial))
        name = f"testbench_{index:04d}.{spoken.suffix}"
        network = f"network.{spoken.suffix}"
        if index == 0:
            files[network] = spoken.write(f"{design.facts.unit} on {design.facts.technology}", cells)
        before = [*taken, spoken.include(network)]
        title = f"{one.title}: expected decision {expected[index]}"
        files[name] = spoken.write(title, [instance, *drives], before, spoken.run(run))
        benches.append(
            {"file": name, "frames": int(stimulus.lengths[index]), "decision": int(expected[index])}
        )
        bias = _bias_rows(cells)
    files["sizes.csv"] = _csv(design.to_table())
    files["bias_currents.csv"] = _csv(bias)
    for model, rows in parameters(design).items():
        files[f"verilog_a/{model}.va"] = packaged("export", f"{model}.va").read_text(encoding="utf-8")
        files[f"verilog_a/{model}.csv"] = _csv(rows)
    files["expected.json"] = json.dumps(_expected(design, benches), indent=1) + "\n"
    files["check.py"] = packaged("export", "check.py").read_text(encoding="utf-8")
    files |= _pictures(design)
    if isinstance(spoken, Ngspice):
        files[".spiceinit"] = "set num_threads=1\n"
    files["README.md"] = _readme(design, spoken, models, list(files), benches)
    for name, text in files.items():
        write_atomically(folder / name, text)
    return sorted(files)


def _job(design: Design, stimulus: Stimulus, index: int) -> Job:
    return job(design, stimulus, index, tolerances=LATCH if design.clocks else None)


def _libraries(design: Design, one: Job, spoken: Dialect, models: str | None) -> dict[str, str]:
    """Files of models and cells by name, as the dialect says them."""
    found = {}
    for name, content in one.files.items():
        text = content if isinstance(content, str) else content.read_text(encoding="utf-8")
        where = design.facts.technology if name == MODELS else name
        refuse_commands(text, f"{where}: {name}", frozenset(one.files), allow_options=True)
        stem = name.rpartition(".")[0]
        target = name if isinstance(spoken, Ngspice) else f"{stem}.{spoken.suffix}"
        if name == MODELS and models is not None:
            line = spoken.include(models)
            found[target] = spoken.write("subcircuits nfet and pfet: d g s b, W L M dvt", [], [line])
        elif isinstance(spoken, Ngspice):
            found[target] = text
        else:
            cards = read(text, f"{where}: {name}")
            if other := [card.name for card in cards if isinstance(card, Model) and not card.is_bsim3]:
                raise ConfigError(
                    f"{where}: {other[0]}: only BSIM3 can be written for {spoken.name}; give the foundry's "
                    "own library with --models"
                )
            found[target] = spoken.write(f"{stem}, from {name}", cards)
    return found


def _run(design: Design, stimulus: Stimulus, index: int, one: Job) -> Run:
    frames = int(stimulus.lengths[index])
    starts = stimulus.starts[: frames + 1]
    # The next frame's inputs move from its start on, so read just before.
    ends = starts[1:] - 1e-6 * np.diff(starts)
    measured = {
        f"out_{stage}_{j}_frame_{t}": (f"V{source_net(stage, j)}", float(end))
        for t, end in enumerate(ends)
        for stage in design.facts.outputs
        for j in range(design.signals[stage].size)
    }
    probes = [v[2:-1] for memory in design.memories for v in memory.state_vectors() if v.startswith("v(")]
    if not isinstance(one.analysis, Transient):
        raise ConfigError(f"{one.title}: is not a transient")
    return Run(
        stop=one.analysis.stop, max_step=one.analysis.limit,
        tolerances=one.tolerances, celsius=one.temperature, initial=one.initial, measured=measured,
        probes=probes,
    )  # fmt: skip


def _bias_rows(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """Every reference current of the netlist."""
    return [
        {"instance": cell.name, "reference": member.name[1:], "from": member.nodes[0], "to": member.nodes[1],
         "current_a": float(member.value)}
        for cell in cells
        for member in cell.body
        if isinstance(member, Element) and member.kind == "I"
    ]  # fmt: skip


def _expected(design: Design, benches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What `check.py` decides from, and what it should come to."""
    facts = design.facts
    readout = None
    if facts.boundary == "core":
        readout = [design.software[f"readout.{part}"].tolist() for part in ("weight", "bias")]
    return {
        "pool": facts.pool,
        "outputs": facts.outputs,
        "size": design.signals[facts.outputs[0]].size,
        "logit_current_a": facts.unit_current * facts.logit_scale,
        "readout": readout,
        "testbenches": list(benches),
    }


def _pictures(design: Design) -> dict[str, str]:
    """SVG by file name: the block diagram, and schematics where they can be drawn."""
    drawn = {"network.svg": svg(block_diagram(boxes(design)))}
    if left_out() is None:
        cells = drawings({stage.kind for stage in design.stages}, design.technology)
        drawn |= {f"schematics/{name}": text for name, text in cells.items()}
    return drawn


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


_SAYS = {
    ".spiceinit": "one thread for ngspice: on these circuits more are slower",
    "verilog_a/latch.va": "the 9T latch in Verilog-A",
    "verilog_a/latch_bank.va": "the latch bank in Verilog-A",
    "verilog_a/integrator.va": "the integrator in Verilog-A",
    "verilog_a/": "the model's parameters for every unit, as calibrated (SI units)",
    "network.svg": "block diagram: stages, their primitives and unit transistors, and what each takes from",
    "schematics/": "cell with its sizes",
    "network": "the circuit: a cell a stage, a block a layer, and `network`, which holds them all",
    "models": "model hook: subcircuits `nfet` and `pfet`, terminals d g s b, parameters W L (m), the number "
    "in parallel and dvt (V)",
    "testbench": "supplies, clocks, input currents, starting voltages and the run",
    "sizes": "every transistor: W, L, number in parallel, weight as trained and as mapped, constant current",
    "bias_currents": "every reference current",
    "expected": "decisions of the behavioural model, and how logits follow from the measured currents",
    "check": "decisions from the logs beside the expected ones",
}


def _readme(
    design: Design, spoken: Dialect, models: str | None, names: Sequence[str], benches: Sequence[Any]
) -> str:
    facts = design.facts
    listed = []
    for name in names:
        says = next((text for key, text in _SAYS.items() if name.startswith(key)), "cells of primitives")
        listed.append(f"| `{name}` | {says} |")
    command = spoken.command.replace("TESTBENCH", benches[0]["file"])
    ran = (
        "The package simulates this circuit with this simulator."
        if spoken.ran
        else f"Not run: no {spoken.name} was at hand when this was written. What was checked is that the "
        "files say the circuit that ngspice runs; try the smallest testbench first."
    )
    if isinstance(spoken, Ngspice):
        after = "python3 check.py"
    elif spoken.name == "xyce":
        after = "python3 check.py   # reads what Xyce measured, TESTBENCH.mt0"
    else:
        after = "# compare the saved currents at the frames' ends with expected.json"
    missing = f"\nLeft out: {left_out()}\n" if left_out() else ""
    hook = f"Models are those in `{models}`, yours." if models else f"Models are {facts.technology}'s."
    return f"""# {facts.unit} on {facts.technology}, for {spoken.name}

{design.transistors} unit transistors, supply {facts.supply:g} V, {facts.temperature_celsius:g} C, corner \
{facts.corner}, {len(benches)} inputs. {hook} {ran}

```
{command}
{after}
```

Units: A, V, s; W and L in m in netlists, in um in `sizes.csv`.

| File | What it is |
|---|---|
{chr(10).join(listed)}
{missing}"""
