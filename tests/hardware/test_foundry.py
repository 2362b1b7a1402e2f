"""Models of a foundry: found, refused, cut out. A foundry of a few lines stands for the real one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import yaml

from cmru_hw.config import packaged
from cmru_hw.errors import ConfigError, MappingError
from cmru_hw.foundry import LAYOUTS, evaluate, install, library
from cmru_hw.mapping import map_network
from cmru_hw.spice.job import LATCH, Job, OperatingPoint
from cmru_hw.spice.netlist import MODELS
from cmru_hw.spice.ngspice import run
from cmru_hw.technology import Foundry, Technology, load_technology

NFET, PFET = "fake__nfet", "fake__pfet"
GLOBAL = """* parameters of all corners
.param
+ sw_tox_nom = 4.0E-09
+ sw_ratio = {sw_tox/sw_tox_nom} ;  of oxides
"""
CORNER = """.param sw_tox = {{4.0e-09+corner_factor*{tox}}}
.param sw_activecd = {{0.0+corner_factor*0.0}} + process_mc_factor*MC_PR_SWITCH*AGAUSS(0,5e-09,1)
.param sw_vth0_fake__nfet = {{0.0+corner_factor*{shift}}}
.param sw_vth0_fake__pfet = {{0.0+corner_factor*{shift}}}
"""
DEVICE = """.subckt  {name}  d g s b  mult=1
+
.param  l = 1 w = 1 nrd = {{0.14/w}}
+ swx_nrds = {{89.1/w+443.5}}
M{name}  d g s b {letter}short l = {{l}} w = {{w}}
+ delvto = {{sw_vth0_{name}*(0.008*8/l+0.992)*(0.035*7/w+0.965)*(0.001*56/(w*l)+0.999)}}
.model {letter}short.1 {letter}mos
+ level = 54 lmin = 1E-7 lmax = 1.0E-5 wmin = 1E-7
+ wmax = 1E-4 version = 4.5 rbodymod = 1
+ toxe = {{4E-9*sw_ratio}} wint = {{1E-8+sw_activecd}} rsh = {{swx_nrds}}
+ vth0 = {vth0}
* a comment in between
+ nfactor = 1.5
.ends {name}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The foundry's files, somewhere in a folder of theirs."""
    folder = tmp_path / "pdk" / LAYOUTS[1]
    folder.mkdir(parents=True)
    other = DEVICE.format(name="fake__nfet_lvt", letter="l", vth0=0.1)
    devices = other + "".join(
        DEVICE.format(name=name, letter=letter, vth0=vth0)
        for name, letter, vth0 in ((NFET, "n", 0.5), (PFET, "p", -0.5))
    )
    (folder / "models_fet.spice").write_text(devices)
    (folder / "models_global.spice").write_text(GLOBAL)
    for corner, tox, shift in (("tt", "0.0", "0.0"), ("ff", "-1e-10", "-0.02")):
        (folder / f"parameters_fet_{corner}.spice").write_text(CORNER.format(tox=tox, shift=shift))
    return tmp_path / "pdk"


@pytest.fixture
def fake(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Technology:
    """A card of the user's own whose models are the foundry's: sky130's with other models and bins."""
    monkeypatch.delenv("PDK_ROOT", raising=False)
    monkeypatch.setenv("CMRU_HW_TECHNOLOGIES", str(tmp_path / "own"))
    files = {path.name: path.read_text() for path in sorted((tree / LAYOUTS[1]).iterdir())}
    hashes = {name: _sha256(text) for name, text in files.items()}
    foundry = {
        "package": "no-such-package-of-models==1.0", "nfet": NFET, "pfet": PFET, "files": hashes,
        "libraries": dict.fromkeys(("tt.lib", "ff.lib"), "unknown"),
    }  # fmt: skip
    made = Foundry.model_validate(foundry)
    foundry["libraries"] = {name: _sha256(library(files, name, made)) for name in made.libraries}
    card = yaml.safe_load(packaged("circuits", "technologies", "sky130", "card.yaml").read_text())
    card |= {
        "name": "fake", "foundry": foundry, "bins": {"w_um": [0.1, 100.0], "l_um": [0.1, 10.0]},
        "corners": {"ff": {"n": -0.02, "p": -0.02, "models": "ff.lib"}},
        "conditions": {"celsius": [27.0], "supply": [1.2], "unit_area": [1.0], "frame_period": 1e-3},
    }  # fmt: skip
    folder = tmp_path / "own" / "fake"
    folder.mkdir(parents=True)
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    return load_technology("fake")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_models_are_cut_out_of_the_foundry_s_files(fake: Technology, tree: Path) -> None:
    target, source = install(fake, tree)
    assert target == fake.model_folder
    assert source == str(tree / LAYOUTS[1])
    assert {path.name for path in target.iterdir()} == {"card.yaml", "tt.lib", "ff.lib"}
    text = fake.model_text
    assert _sha256(text) == fake.foundry.libraries["tt.lib"]  # type: ignore[union-attr]
    assert "lshort" not in text, "only two devices are kept"
    assert "toxe=4e-09 wint=1e-08 rsh=0" in text
    assert "delvto={dvt}" in text
    assert "toxe=3.9e-09" in fake.model_copy(update={"corner": "ff"}).model_text
    assert fake.missing() is None


def test_a_corner_of_its_own_models_moves_no_threshold_besides(fake: Technology, tree: Path) -> None:
    """At W/L of 0.5/10 um the foundry's factors make 29.35 mV of a shift of 20; the card says its own."""
    install(fake, tree)
    fast = fake.at(corner="ff")
    assert (fast.corner_shift.n, fast.corner_shift.p) == (0.0, 0.0)
    assert fast.gate_voltage_at_1na.n == pytest.approx(fake.gate_voltage_at_1na.n - 0.02)
    volts = {}
    for card in (fake, fast):
        text = card.model_text.replace("toxe=3.9e-09", "toxe=4e-09")
        lines = [f".include {MODELS}", "In 0 n 1e-9", "Xn n n 0 0 nfet W=0.5u L=10u"]
        lines += ["Ip p 0 1e-9", "Xp p p 0 0 pfet W=0.5u L=10u"]
        found = run(
            Job(
                title="diodes", netlist="\n".join(lines) + "\n", analysis=OperatingPoint(),
                save=("v(n)", "v(p)"), tolerances=LATCH, files={MODELS: text},
            )
        )  # fmt: skip
        volts[card.corner] = np.array([float(found["v(n)"].item()), -float(found["v(p)"].item())])
    factors = (0.008 * 8 / 10 + 0.992) * (0.035 * 7 / 0.5 + 0.965) * (0.001 * 56 / 5 + 0.999)
    expected = np.array([-0.02, 0.02]) * factors  # a pMOS threshold of -0.52 V is slower
    # V_DS of a diode moves along, which makes half a per cent.
    np.testing.assert_allclose(volts["ff"] - volts["tt"], expected, rtol=0.01)


def test_the_place_is_found_in_pdk_root(
    fake: Technology, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "root" / "sky130A" / "libs.tech" / "combined" / "continuous"
    there.parent.mkdir(parents=True)
    (tree / LAYOUTS[1]).rename(there)
    monkeypatch.setenv("PDK_ROOT", str(tmp_path / "root"))
    assert install(fake)[1] == str(there)


def test_what_is_not_installed_is_named_with_the_command(fake: Technology) -> None:
    """The card, its hash and what needs no models work all the same."""
    assert len(fake.model_hash) == 64
    assert fake.at(corner="ff").supply == 1.2
    expected = r"fake: no model library at .*own/fake/tt.lib: .*; `cmru-hw technology install fake` gets it"
    with pytest.raises(ConfigError, match=expected):
        fake.model_text  # noqa: B018
    assert "technology install fake" in str(fake.missing())


def test_models_that_are_nowhere_are_refused_with_where_they_were_looked_for(
    fake: Technology, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDK_ROOT", str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match=r"not in .*empty, and pip cannot download no-such-package.*--from"):
        install(fake)
    with pytest.raises(ConfigError, match=r"empty: has no models_fet.spice, .* in combined_models/"):
        install(fake, tmp_path / "empty")


def test_edited_files_are_refused_by_name_and_hash(fake: Technology, tree: Path) -> None:
    path = tree / LAYOUTS[1] / "parameters_fet_ff.spice"
    kept = path.read_text()
    path.write_text(kept.replace("-0.02", "-0.03"))
    with pytest.raises(ConfigError, match=r"parameters_fet_ff.spice: is edited or of another version"):
        install(fake, tree)
    assert not (fake.model_folder / "tt.lib").exists(), "nothing is installed of a tree that is refused"
    path.write_text(kept)
    target, _ = install(fake, tree)
    (target / "tt.lib").write_text("* mine\n" + (target / "tt.lib").read_text())
    with pytest.raises(ConfigError, match=r"fake/tt.lib: is edited .* `cmru-hw technology install fake`"):
        fake.model_text  # noqa: B018


def test_transistors_beyond_the_models_are_refused_by_name(fake: Technology) -> None:
    with pytest.raises(MappingError, match=r"fake: a transistor of 1/20 um: there are models for L from"):
        fake.sized(4.0)
    wide = {**fake.cells, "latch_bank": {**fake.cells["latch_bank"], "logic": {"w_um": 200.0, "l_um": 0.5}}}
    card = fake.model_copy(update={"cells": wide})
    with pytest.raises(MappingError, match=r"fake: a transistor of 200/0.5 um: there are models for W from"):
        map_network(_counting(), card)


def _counting():  # type: ignore[no-untyped-def]
    from hardware_networks import random_network

    return random_network(0, unit="cmru", levels=2)


def test_a_technology_with_models_of_its_own_has_nothing_to_install(generic: Technology) -> None:
    with pytest.raises(ConfigError, match="generic180: its models come with the card"):
        install(generic)


@pytest.mark.parametrize(
    ("text", "value"), [("1.5e-9-a", -8.5e-9), ("-(a+b)*2", -6e-8), ("b/a", 2.0), ("corner_factor*3", 3.0)]
)
def test_expressions_are_evaluated(text: str, value: float) -> None:
    assert evaluate(text, {"a": "1e-8", "b": "2*a"}) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["__import__('os')", "a.b", "c", "1 +", "1/0", "loop", "2**9"])
def test_anything_else_is_not(text: str) -> None:
    with pytest.raises(ConfigError, match="foundry models: cannot evaluate"):
        evaluate(text, {"a": "1", "loop": "loop+1"})
