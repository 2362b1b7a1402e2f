"""Sweeps of primitives: kept, resumed, refused, and what the models make of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hardware_networks import random_input
from test_clocked_mapping import small

import cmru_hw.characterize as package
from cmru_hw.behavioral import BehavioralModel
from cmru_hw.characterize import SWEEPS, characterize, points, provenance
from cmru_hw.characterize.point import AT, Point
from cmru_hw.errors import ConfigError, MappingError, SimulationError
from cmru_hw.farm import Farm, Store
from cmru_hw.mapping import MappingConfig, map_network
from cmru_hw.primitives.latch import calibration
from cmru_hw.primitives.node import mirrored
from cmru_hw.spice.job import Job, OperatingPoint
from cmru_hw.spice.latch_bench import LatchBench
from cmru_hw.spice.ngspice import run
from cmru_hw.spice.simulate import simulate
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import Technology, load_technology

GENERIC = load_technology("generic180")
SHIPPED = GENERIC.folder / GENERIC.calibration


# --- the store -------------------------------------------------------------------------------------------


def divider(ohms: float, broken: bool = False) -> Point:
    netlist = f"V1 a 0 1\nR1 a b 1k\nR2 b 0 {ohms:g}\n" + ("Q1 nothing\n" if broken else "")
    job = Job(title=f"divider {ohms:g}", netlist=netlist, analysis=OperatingPoint(), save=("v(b)",))
    return Point({"ohms": ohms}, job, lambda data: {"volts": float(data["v(b)"][0])})


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A sweep of three dividers, in place of the mirrors'; `found` is the list of its points."""
    from matplotlib.figure import Figure

    made = SimpleNamespace(found=[divider(1e3), divider(3e3), divider(9e3)])
    made.points = lambda technology: made.found
    made.content = lambda technology, rows: {"rows": rows}
    made.draw = lambda technology, content: Figure()
    monkeypatch.setattr(package, "_sweep", lambda name: made)
    return made


def test_a_sweep_is_written_with_its_provenance(sweep: Any, tmp_path: Path) -> None:
    told: list[int] = []
    assert characterize(GENERIC, tmp_path, ["mirror"], progress=told.append) == {"mirror": 3}
    content = json.loads((tmp_path / "mirror.json").read_text())
    assert [row["volts"] for row in content["rows"]] == pytest.approx([0.5, 0.75, 0.9])
    assert [row[AT] for row in content["rows"]] == [{"ohms": 1e3}, {"ohms": 3e3}, {"ohms": 9e3}]
    assert content["provenance"]["model_hash"] == GENERIC.model_hash
    assert told == [0, 1, 2, 3]
    assert {path.name for path in tmp_path.iterdir()} == {"mirror.json", "mirror.svg"}


def test_a_failed_point_is_named_and_the_others_are_kept(sweep: Any, tmp_path: Path) -> None:
    good = sweep.found
    sweep.found = [good[0], good[1], divider(9e3, broken=True)]
    with pytest.raises(SimulationError, match=r"divider 9000: .*2 of 3 points are kept in .*mirror.points"):
        characterize(GENERIC, tmp_path, ["mirror"], Farm(1))
    kept = sorted((tmp_path / "mirror.points").glob("point_*"))
    assert len(kept) == 2
    # A value that only the file can have shows that the point was not run again.
    for path in kept:
        path.write_bytes(path.read_bytes().replace(b"0.75", b"0.71"))
    sweep.found = good
    characterize(GENERIC, tmp_path, ["mirror"], Farm(1))
    rows = json.loads((tmp_path / "mirror.json").read_text())["rows"]
    assert [row["volts"] for row in rows] == pytest.approx([0.5, 0.71, 0.9])


def test_points_of_other_models_are_refused(sweep: Any, tmp_path: Path) -> None:
    other = Store(tmp_path / "mirror.points", provenance(GENERIC) | {"model_hash": "old"})
    other.put("point_1", {"row": np.zeros(1, dtype=np.uint8)})
    with pytest.raises(ConfigError, match=r"mirror.points: holds results of model_hash = 'old', now '"):
        characterize(GENERIC, tmp_path, ["mirror"])


def test_an_unknown_sweep_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"none called 'mirrors'.*transistor, mirror"):
        points(GENERIC, ["mirrors"])


# --- what is shipped -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_is_shipped_for_these_models_with_every_point(name: str) -> None:
    content = json.loads((SHIPPED / f"{name}.json").read_text())
    assert content["provenance"]["model_hash"] == GENERIC.model_hash
    assert (SHIPPED / f"{name}.svg").read_text().startswith("<?xml")
    listed = points(GENERIC, [name])[name]
    assert len({point.key for point in listed}) == len(listed)
    if "rows" in content:
        assert [row[AT] for row in content["rows"]] == [point.at for point in listed]


def test_the_card_holds_what_the_transistor_sweep_measured() -> None:
    content = json.loads((SHIPPED / "transistor.json").read_text())
    nominal = content["celsius"].index(GENERIC.temperature_celsius)
    for polarity in ("n", "p"):
        measured = content[polarity]
        assert measured["volts_at_1na"][nominal] == pytest.approx(
            GENERIC.gate_voltage_at_1na.of(polarity), abs=1e-3  # type: ignore[arg-type]
        )  # fmt: skip
        curve = GENERIC.saturation(polarity, np.array(content["volts"]))  # type: ignore[arg-type]
        np.testing.assert_allclose(measured["curve"][nominal], curve, rtol=2e-4)


def test_the_model_of_mirrors_is_what_the_mirror_sweep_measured() -> None:
    """I / f(V_GS) at V_DS = 0.4 V, where f is 1: within 0.3 % at 27 C from 0.1 nA on, at every size."""
    content = json.loads((SHIPPED / "mirror.json").read_text())
    current = np.array(content["current"])
    for row in content["rows"]:
        if row[AT]["celsius"] == GENERIC.temperature_celsius:
            units, card = content["diode_units"], GENERIC.at(unit_area=row[AT]["unit_area"])
            model = mirrored(card, row[AT]["polarity"], current, units) / current
            measured = np.array(row["gain"])
            assert np.ptp(measured, axis=1).max() < 1e-3, "the count hardly matters"
            clear = current > 1e-10
            np.testing.assert_allclose(measured[clear, 0], model[clear], rtol=3e-3)
            np.testing.assert_allclose(measured[:, 0], model, rtol=1.5e-2)


def test_banks_count_and_comparators_trip_in_every_condition() -> None:
    banks = json.loads((SHIPPED / "latch_bank.json").read_text())["rows"]
    assert [row["wrong"] for row in banks] == [0] * len(banks)
    for row in json.loads((SHIPPED / "comparator.json").read_text())["rows"]:
        for key in ("trip_up", "trip_down"):
            assert row[key] == pytest.approx(1.0, abs=0.012), row


# --- the latch over temperature, supply and size ---------------------------------------------------------


@pytest.mark.parametrize(
    ("celsius", "supply", "unit_area"),
    [
        (-20.0, 0.8, 1.0),
        (85.0, 0.8, 1.0),
        (27.0, 0.7, 1.0),
        (40.0, 0.8, 1.0),
        (27.0, 0.8, 0.2),
        (27.0, 0.8, 0.25),
        (27.0, 0.8, 3.0),
        (60.0, 0.8, 0.25),
    ],
)
def test_a_latch_elsewhere_is_the_calibrated_one(celsius: float, supply: float, unit_area: float) -> None:
    """40 C and sizes of 0.25 and 3 lie between two tables; the last is on no axis of them."""
    card = GENERIC.at(celsius, supply, unit_area=unit_area)
    i_threshold = np.array([1e-10, 5e-10, 3e-9])
    bench = LatchBench(
        technology=card, i_threshold=i_threshold, i_width=0.45 * i_threshold, i_gain=i_threshold
    )
    found = bench.read(run(bench.job()))
    up, down = calibration(card).forward(i_threshold, 0.45 * i_threshold)
    tolerance = 0.01 if (celsius, supply) == (27.0, 0.8) else 0.012
    np.testing.assert_allclose(found.up, up, rtol=tolerance)
    np.testing.assert_allclose(found.down, down, rtol=tolerance)
    made = i_threshold * calibration(card).output_gain(i_threshold)
    np.testing.assert_allclose(found.output[found.turn], made, rtol=0.01)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"temperature_celsius": 120.0}, r"temperature: .* from -20 to 85 C, not at 120 C"),
        ({"supply": 1.2}, r"supply: .* from 0\.6 to 0\.9 V, not at 1\.2 V"),
        ({"unit_area": 0.1}, r"unit_area: .* from 0\.2 to 4, not at 0\.1"),
    ],
)
def test_a_latch_outside_the_characterised_range_is_refused(
    changes: dict[str, float], complaint: str
) -> None:
    technology: Technology = GENERIC.sized(changes.pop("unit_area", 1.0)).model_copy(update=changes)
    with pytest.raises(ConfigError, match=complaint):
        calibration(technology)


# --- designs at another temperature or supply ------------------------------------------------------------


@pytest.mark.parametrize(("celsius", "supply"), [(85.0, 0.8), (-20.0, 0.8), (27.0, 0.7)])
def test_a_design_elsewhere_is_the_one_in_ngspice(celsius: float, supply: float) -> None:
    """Candidates a third as far off as without the calibration; states and power the same."""
    network, mapping = small("bmru", seed=1)
    design = map_network(network, GENERIC, MappingConfig(**mapping))[0]
    moved = design.at(celsius, supply)
    stimulus = make_stimulus(2 * random_input(1, batch=1, frames=4), 3, 1e-2)
    spice = simulate(moved, stimulus, checked=0)
    model, nominal = (BehavioralModel(one).run(stimulus) for one in (moved, design))
    off, off_nominal = (
        np.nanmax(np.abs(one.candidates[0] - spice.candidates[0])) for one in (model, nominal)
    )
    assert off < 0.45 * off_nominal
    np.testing.assert_array_equal(model.states[0], spice.states[0])
    np.testing.assert_allclose(model.supply_power, spice.supply_power, rtol=0.02)


def test_a_technology_at_its_own_temperature_is_itself() -> None:
    assert GENERIC.at(27.0, 0.8) == GENERIC
    assert GENERIC.at() == GENERIC


def test_a_transistor_leaks_more_when_hot() -> None:
    """Between tables the logarithm is interpolated: at 40 C between 27 and 60 C."""
    leakage = [GENERIC.at(celsius).leakage.n for celsius in (27.0, 40.0, 60.0)]
    share = np.log(leakage[1] / leakage[0]) / np.log(leakage[2] / leakage[0])
    assert share == pytest.approx(13 / 33, rel=1e-3)  # the card's own is rounded
    assert leakage[2] / leakage[0] > 3


@pytest.mark.parametrize(
    ("celsius", "supply", "complaint"),
    [
        (90.0, 0.8, "temperature: transistors were characterised from -20 to 85 C, not at 90 C"),
        (27.0, 0.0, "supply: must be > 0 V"),
    ],
)
def test_a_technology_elsewhere_than_characterised_is_refused(
    celsius: float, supply: float, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        GENERIC.at(celsius, supply)


def test_an_integrator_elsewhere_than_measured_is_refused() -> None:
    network, mapping = small("alpha_cmru")
    design = map_network(network, GENERIC, MappingConfig(**mapping))[0]
    for celsius, supply, complaint in ((27.0, 0.7, "measured at 0.8 V"), (-20.0, 0.8, "from 27 to 85 C")):
        with pytest.raises(MappingError, match=complaint):
            design.at(celsius, supply)
