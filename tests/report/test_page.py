"""The page: every section, nothing from outside, hostile text escaped, nothing filled in."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from cmru_hw.errors import ConfigError
from cmru_hw.report import plots
from cmru_hw.report.page import CAPTIONS, Sections, area, percent, quantity, render, write_report

SVG = '<svg xmlns="http://www.w3.org/2000/svg"><rect width="1" height="1"/></svg>'
FIGURES = dict.fromkeys([*CAPTIONS, "extra_figure"], SVG)
BREAKDOWN = {"layer_0/latch": 1.5e-9, "layer_0/mirror": 4e-9, "bias": 26e-9}
METRICS = {
    "task": "speaker_vowels",
    "unit": "fq_bmru",
    "technology": "generic180",
    "parameters": 521,
    "transistors": 2040,
    "area_m2": 1.23e-8,
    "area_breakdown": {
        "layer_0/latch": {"transistors": 40, "area_m2": 2.3e-9},
        "layer_0/mirror": {"transistors": 2000, "area_m2": 1e-8},
    },
    "accuracy": {"software": 0.957, "behavioral": 0.954, "spice": 0.951},
    "agreement": {
        "inputs": 47,
        "decisions": 45,
        "states": 18970,
        "decision_fraction": 45 / 47,
        "state_fraction": 0.9991,
    },
    "power_w": {"behavioral": 40e-9, "spice": 41.4e-9, "breakdown": BREAKDOWN},
    "energy_per_inference_j": 6.2e-9,
    "robustness": {
        "chips": 1000,
        "sigma_scale": 1.0,
        "mean_accuracy": 0.925,
        "std_accuracy": 0.018,
        "p05_accuracy": 0.889,
        "yield": 0.922,
        "yield_target": 0.9,
        "yield_ci95": [0.905, 0.938],
    },
    "corners": {
        "conditions": [{"corner": "ss", "supply": 0.72, "celsius": -20.0, "nominal_accuracy": 0.913}],
        "worst": {"corner": "ss", "supply": 0.72, "celsius": -20.0, "nominal_accuracy": 0.913},
        "refused": [{"corner": "ff", "supply": 0.8, "celsius": 85.0, "reason": "never measured"}],
    },
}
PAIR = {"inputs": 47, "decisions": 45, "decision_fraction": 45 / 47, "state_fraction": 0.9991}
SECTIONS = Sections(
    agreement={
        "trained and behavioural": {**PAIR, "kinds": {"static": 2, "dynamic": 0, "inherited": 5}},
        "behavioural and SPICE": {**PAIR, "logit_error_a": 43e-12, "kinds": {"static": 3, "dynamic": 11}},
    },
    warnings=["unit 3 rests 6.2 pA below its threshold"],
    clips=[{"tensor": "readout.weight", "index": (0, 1), "value": 4.42, "clipped_to": 4.0}],
    provenance={"seed": 7, "versions": {"ngspice": 39, "torch": "2.13.0"}},
    commands=["cmru-hw codesign config.yaml -o out/demo"],
    notes=["Measured on one machine."],
)


class Page(HTMLParser):
    """The tags, the text and the ids of a page; raises on unbalanced ones."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.words))
        self.ids = {attributes.get("id") for _, attributes in self.tags}

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def test_every_section_and_number():
    page = Page(render(METRICS, FIGURES, SECTIONS))
    sections = {"summary", "agreement", "power", "mismatch", "corners", "area", "circuit", "mapping"}
    assert {*sections, "training", "others", "provenance", "papers", "notice"} <= page.ids
    assert {f"figure-{name}" for name in FIGURES} <= page.ids
    assert "left-out" not in page.ids
    for shown in (
        "speaker vowels",
        "fq_bmru",
        "generic180",
        *("95.7 %", "95.4 %", "95.1 %", "45 of 47", "41.4 nW", "2 040", "12 300 µm²", "6.2 nJ"),
        *("layer 0/mirror 2 000 10 000 µm² 81.3 %", "At worst 91.3 %: ss, 0.72 V, -20 °C."),
        "Not run: never measured.",
        *("92.2 %", "90.5 to 93.8 %", "521 parameters", "1000", "88.9 %"),
        *("static", "dynamic", "inherited", "43 pA", "layer 0/latch", "1.5 nW", "4.8 %"),
        *(
            "rests 6.2 pA below",
            "readout.weight",
            "clipped to",
            "4.42",
            "versions, ngspice",
            "Measured on one",
        ),
        *(
            "cmru-hw codesign config.yaml",
            "2601.09495",
            "2605.11855",
            "2605.15216",
            "ICML 2026",
            "EP26175243.0",
        ),
    ):
        assert shown in page.text, shown


def test_nothing_from_outside_and_all_figures_embedded():
    figures = {**FIGURES, "confusion": plots.confusion([[3, 1], [0, 4]])}
    page = Page(render(METRICS, figures, SECTIONS))
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(figures)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in images)
    assert base64.b64decode(images[1].split(",")[1]).decode() == plots.svg(figures["confusion"])
    assert not any(tag in ("script", "iframe", "object", "embed") for tag, _ in page.tags)
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if value and re.search(r"https?:|^//", value):
                assert (tag, name) == ("a", "href")
                assert value.startswith("https://arxiv.org/abs/")
    assert not re.search(r"url\(|@import", render(METRICS, {}, None))


def test_hostile_text_is_escaped():
    evil = "<script>alert(1)</script>\"'&"
    sections = Sections(
        agreement={evil: {**PAIR, "kinds": {"static": evil}}},
        warnings=[evil],
        clips=[{evil: evil}],
        provenance={evil: {evil: evil}},
        commands=[evil],
        captions={"confusion": evil},
        notes=[evil],
    )
    metrics = {**METRICS, "task": evil, "unit": evil, "power_w": {"breakdown": {evil: 1e-9}}}
    html = render(metrics, {"confusion": SVG, evil: SVG}, sections)
    assert "<script" not in html
    assert not any(tag == "script" for tag, _ in Page(html).tags)
    assert Page(html).text.count("<script>alert(1)</script>") >= 10


def test_equal_inputs_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        figures = {"confusion": plots.confusion([[3, 1], [0, 4]])}
        write_report(tmp_path / name / "report.html", METRICS, figures, SECTIONS)
    assert (tmp_path / "a/report.html").read_bytes() == (tmp_path / "b/report.html").read_bytes()


def test_absent_data_are_named_and_left_out():
    metrics = {
        "task": "t",
        "accuracy": {"software": 0.9, "behavioral": None, "spice": float("nan")},
        "power_w": {"behavioral": 1e-9, "spice": None},
    }
    page = Page(render(metrics, {}))
    assert not {"agreement", "power", "mismatch", "corners", "area", "circuit", "mapping"} & page.ids
    assert not {"training", "provenance"} & page.ids
    assert {"left-out", "papers", "notice"} <= page.ids
    for absent in (
        "no ngspice run",
        "behavioural accuracy",
        "agreement",
        "power by layer",
        "yield",
        "clips",
        "corners",
        "area",
    ):
        assert absent in page.text.split("Left out")[1]
    for never in (" nan", "None", "95 %", " 0 W"):
        assert never not in page.text
    assert "1 nW" in page.text
    assert "90.0 %" in page.text


def test_a_mapping_without_complaints_says_so():
    page = Page(render(METRICS, {}, Sections(warnings=[], clips=[])))
    assert "No warnings." in page.text
    assert "Nothing was clipped." in page.text


def test_agreement_from_metrics_alone_names_the_missing_kinds():
    page = Page(render(METRICS, {}))
    assert "behavioural and SPICE" in page.text
    assert "kinds of disagreement" in page.text


def test_breakdown_by_model():
    by_model = {"behavioral": {"a": 1e-9, "b": 3e-9}, "spice": {"a": {"latch": 2e-9}}}
    page = Page(render({**METRICS, "power_w": {"breakdown": by_model}}, {}))
    assert "Part behavioural SPICE b 3 nW 75.0 % – a/latch – 2 nW 100 % a 1 nW 25.0 % –" in page.text


def test_figures_must_be_figures():
    with pytest.raises(ConfigError, match="figure confusion: must be a Figure or SVG"):
        render(METRICS, {"confusion": "<script>"})


def test_numbers():
    assert percent(0.99996).replace("\xa0", " ") == "> 99.9 %"
    assert percent(1.0).replace("\xa0", " ") == "100 %"
    assert quantity(0.0, "W").replace("\xa0", " ") == "0 W"
    assert area(2.5e-7).replace("\xa0", " ") == "0.25 mm²"
