"""Designs: saved and loaded equal; files that are not designs are refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hardware_networks import random_input, random_network
from safetensors.numpy import load_file, save_file

from cmru_hw.behavioral import BehavioralModel
from cmru_hw.design import Design, load_design
from cmru_hw.errors import ConfigError
from cmru_hw.mapping import MappingConfig, map_network
from cmru_hw.stimulus import make_stimulus
from cmru_hw.technology import load_technology
from cmru_hw.variation import draw


@pytest.fixture(scope="module", params=["full", "core"])
def design(request: pytest.FixtureRequest) -> Design:
    choices = MappingConfig(boundary=request.param)
    return map_network(random_network(4, on_grid=False), load_technology("generic180"), choices)[0]


def test_a_loaded_design_is_the_saved_one(design: Design, tmp_path: Path) -> None:
    design.save(tmp_path / "one")
    loaded = load_design(tmp_path / "one")
    assert loaded.facts == design.facts
    assert loaded.transistors == design.transistors
    loaded.save(tmp_path / "two")
    for file in ("design.yaml", "design.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_loaded_design_behaves_the_same_to_the_bit(design: Design, tmp_path: Path) -> None:
    design.save(tmp_path)
    loaded = load_design(tmp_path)
    stimulus = make_stimulus(random_input(4), 3, 1e-2)
    for shifts in ("nominal", "chips"):
        results = [
            BehavioralModel(d, draw(d, [0, 1], 5) if shifts == "chips" else None).run(stimulus)
            for d in (design, loaded)
        ]
        assert results[0].logits.tobytes() == results[1].logits.tobytes()
        assert results[0].supply_power.tobytes() == results[1].supply_power.tobytes()
        for a, b in zip(results[0].states, results[1].states, strict=True):
            assert np.array_equal(a, b)


def test_nothing_but_the_two_files_is_left(design: Design, tmp_path: Path) -> None:
    design.save(tmp_path)
    design.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["design.safetensors", "design.yaml"]


# --- damage ----------------------------------------------------------------------------------------------

Content = dict[str, Any]


def stage(content: Content, name: str) -> Content:
    return next(entry for entry in content["stages"] if entry["name"] == name)


def _drop_facts(content: Content) -> None:
    del content["facts"]


def _drop_stages(content: Content) -> None:
    del content["stages"]


def _stages_none(content: Content) -> None:
    content["stages"] = None


def _stages_text(content: Content) -> None:
    content["stages"] = "all of them"


def _unknown_fact(content: Content) -> None:
    content["facts"]["colour"] = "red"


def _negative_supply(content: Content) -> None:
    content["facts"]["supply"] = -0.8


def _unknown_technology(content: Content) -> None:
    content["facts"]["technology"] = "../etc"


def _unknown_output(content: Content) -> None:
    content["facts"]["outputs"] = ["nothing"]


def _unknown_kind(content: Content) -> None:
    content["stages"][0]["kind"] = "lens"


def _missing_kind(content: Content) -> None:
    del content["stages"][0]["kind"]


def _unknown_field(content: Content) -> None:
    content["stages"][0]["colour"] = "red"


def _two_of_a_name(content: Content) -> None:
    content["stages"].append(content["stages"][0])


def _name_with_a_newline(content: Content) -> None:
    content["stages"][0]["name"] = "a\n.control"


def _netlist_in_a_unit(content: Content) -> None:
    content["facts"]["unit"] = "cmru\nR1 0 vdd 1"


def _netlist_in_a_technology(content: Content) -> None:
    content["facts"]["technology"] = "./a\nR1 0 vdd 1"


def _netlist_in_a_source(content: Content) -> None:
    stage(content, "layer0_latch")["candidate"] = "a 0\nR1 0 vdd 1"


def _wrong_order(content: Content) -> None:
    content["stages"].reverse()


def _polarity(content: Content) -> None:
    stage(content, "layer0_x")["polarity"] = "x"


def _diode_text(content: Content) -> None:
    stage(content, "layer0_x")["diode_units"] = "sixteen"


def _diode_zero(content: Content) -> None:
    stage(content, "layer0_x")["diode_units"] = 0


def _bias_units_zero(content: Content) -> None:
    stage(content, "layer0_x")["bias_units"] = 0


def _capacitance_text(content: Content) -> None:
    stage(content, "layer0_latch")["capacitance"] = "20f\n.control\nshell id\n.endc"


def _inputs_one(content: Content) -> None:
    content["facts"]["inputs"] = content["facts"]["inputs"][:1]


def _outputs_none(content: Content) -> None:
    content["facts"]["outputs"] = []


def _states_not_latches(content: Content) -> None:
    content["facts"]["states"] = ["layer0_x", "layer1_x"]


YAML_DAMAGE: list[Callable[[Content], None]] = [
    _drop_facts, _drop_stages, _stages_none, _stages_text, _unknown_fact, _negative_supply,
    _unknown_technology, _unknown_output, _unknown_kind, _missing_kind, _unknown_field, _two_of_a_name,
    _name_with_a_newline, _netlist_in_a_unit, _netlist_in_a_technology, _netlist_in_a_source,
    _wrong_order, _polarity, _diode_text, _diode_zero, _bias_units_zero, _capacitance_text, _inputs_one,
    _outputs_none, _states_not_latches,
]  # fmt: skip


def _refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"design|technology"):
        load_design(folder)


@pytest.mark.parametrize("damage", YAML_DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_design_yaml_is_refused(
    design: Design, tmp_path: Path, damage: Callable[[Content], None]
) -> None:
    design.save(tmp_path)
    path = tmp_path / "design.yaml"
    content = yaml.safe_load(path.read_text())
    damage(content)
    path.write_text(yaml.safe_dump(content))
    _refused(tmp_path)


def test_a_clock_that_nothing_decides_by_is_refused(tmp_path: Path) -> None:
    network = random_network(4, unit="cmru", levels=2)
    map_network(network, load_technology("generic180"))[0].save(tmp_path)
    path = tmp_path / "design.yaml"
    content = yaml.safe_load(path.read_text())
    stage(content, "layer0_bank")["clock"] = "another"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="layer0_bank: no comparator has the clock 'another'"):
        load_design(tmp_path)


def test_text_that_is_not_a_design_is_refused(design: Design, tmp_path: Path) -> None:
    design.save(tmp_path)
    for text in ("", "- a", "a: [", "!!python/object/apply:os.system ['true']"):
        (tmp_path / "design.yaml").write_text(text)
        _refused(tmp_path)


def test_a_missing_folder_or_file_is_refused(design: Design, tmp_path: Path) -> None:
    _refused(tmp_path / "nowhere")
    design.save(tmp_path)
    (tmp_path / "design.safetensors").unlink()
    _refused(tmp_path)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_truncated_tensors_are_refused(design: Design, tmp_path: Path, size: int) -> None:
    design.save(tmp_path)
    path = tmp_path / "design.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    _refused(tmp_path)


def _nan(array: np.ndarray) -> np.ndarray:
    return np.full_like(array, np.nan)


TENSOR_DAMAGE: list[tuple[str, Callable[[np.ndarray], np.ndarray | None]]] = [
    ("layer0_candidate.bias", _nan),
    ("layer0_candidate.bias", lambda a: None),
    ("layer0_candidate.bias", lambda a: a[:-1]),
    ("layer0_candidate.bias", lambda a: a[:, None]),
    ("layer0_candidate.layer0_x.units", lambda a: a.astype(np.float64) + 0.5),
    ("layer0_candidate.layer0_x.units", lambda a: a[:, :-1]),
    ("layer0_candidate.layer0_x.trained", lambda a: a[:, :-1]),
    ("layer0_candidate.copied", lambda a: a + 2),
    ("layer0_latch.i_threshold", lambda a: -a),
    ("layer0_latch.i_threshold", lambda a: a[:-1]),
    ("layer0_latch.i_width", lambda a: a[:-1]),
    ("layer0_latch.i_gain", lambda a: -a),
    ("layer0_latch.initial_state", lambda a: a + 2),
    ("layer0_latch.initial_state", lambda a: a[:-1]),
]


@pytest.mark.parametrize("name", ["projection.weight", "readout.bias"])
def test_a_core_design_needs_its_software_matrices(design: Design, tmp_path: Path, name: str) -> None:
    if design.facts.boundary == "full":
        assert not design.software
        return
    design.save(tmp_path)
    path = tmp_path / "design.safetensors"
    arrays = load_file(path)
    for damaged in (None, arrays[f"software.{name}"][:-1].copy()):
        del arrays[f"software.{name}"]
        if damaged is not None:
            arrays[f"software.{name}"] = damaged
        save_file(arrays, path)
        _refused(tmp_path)
        arrays[f"software.{name}"] = design.software[name]


@pytest.mark.parametrize("case", range(len(TENSOR_DAMAGE)))
def test_damaged_tensors_are_refused(design: Design, tmp_path: Path, case: int) -> None:
    name, damage = TENSOR_DAMAGE[case]
    design.save(tmp_path)
    path = tmp_path / "design.safetensors"
    arrays = load_file(path)
    damaged = damage(arrays.pop(name))
    if damaged is not None:
        arrays[name] = np.ascontiguousarray(damaged)
    save_file(arrays, path)
    _refused(tmp_path)
