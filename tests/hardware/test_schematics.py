"""The schematics show every part of a cell once, with the card's sizes, and nothing is drawn over another."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from cmru_hw.config import packaged
from cmru_hw.report.schematics import DRAWINGS, FLIPPED, Transistor, draw
from cmru_hw.technology import load_technology

pytest.importorskip("schemdraw")

CELLS = {
    "latch": ("latch_9t.sub", "latch_9t"),
    "comparator": ("window_comparator.sub", "current_comparator"),
    "bank_unit": ("latch_bank.sub", "set_reset"),
} | {f"integrator_{part}": ("integrator.sub", f"integrator_{part}")
     for part in ("memory", "packet", "rails", "phases")}  # fmt: skip
DRAWN = {name: made for kind in DRAWINGS.values() for name, made in kind.items()}


def words(svg: str) -> Counter[str]:
    return Counter(re.findall(r">([^<>\n]+)</", svg))


@pytest.mark.parametrize("name", CELLS)
def test_every_transistor_of_the_cell_is_drawn_once(name: str) -> None:
    file, cell = CELLS[name]
    text = packaged("circuits", file).read_text()
    body = text.split(f".subckt {cell} ")[1].split(f".ends {cell}")[0]
    numbers = re.findall(r"^X(\d+)", body, re.MULTILINE)
    told = words(DRAWN[name](load_technology("generic180")))
    assert {word: n for word, n in told.items() if re.fullmatch(r"M\d+", word)} == {
        f"M{number}": 1 for number in numbers
    }


def test_the_integrators_sizes_are_those_of_its_instances() -> None:
    """The nMOS memories 0.75/20 um, the pMOS one 0.42/20, I_middle 8 unit transistors, two capacitors."""
    told = words(DRAWN["integrator_memory"](load_technology("generic180")))
    assert told["0.75/20"] == 2
    assert told["0.42/20"] == 1
    assert told["0.5/0.5"] == 5
    assert told["8 x 1/5"] == 1
    assert told["1 pF"] == 2


def test_two_nets_at_one_place_are_refused() -> None:
    over = Transistor("p", "a", "g", "vdd", "1/1")
    under = Transistor("n", "b", "g", "a", "1/1")
    draw({"over": over, "under": under}, [["over", f"{FLIPPED}under"]])
    with pytest.raises(ValueError, match="b is drawn where a is"):
        draw({"over": over, "under": under}, [["over", "under"]])
