"""The report in a browser: it fits screens of any width, asks for nothing and raises nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import numpy as np
import pytest
from report.test_page import METRICS, SECTIONS

from cmru_hw.analysis.robustness import summarize
from cmru_hw.report import plots, robustness
from cmru_hw.report.page import CAPTIONS, render
from cmru_hw.report.robustness_plots import FIGURES

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")

# The page as it is, in a frame of the width asked for: what surrounds it looks into it and tells.
OUTSIDE = """<!doctype html><title>silent</title>
<iframe style="width: WIDTHpx; height: 900px; border: 0" srcdoc="PAGE"></iframe>
<script>window.onload = () => {
  const inside = document.querySelector("iframe").contentWindow, page = inside.document;
  const shown = [...page.querySelectorAll("section")].filter((one) => one.offsetHeight > 0);
  document.title = JSON.stringify({
    width: inside.innerWidth, needed: page.documentElement.scrollWidth,
    sections: shown.map((one) => one.id), ink: inside.getComputedStyle(page.body).color,
    asked: inside.performance.getEntriesByType("resource").map((one) => one.name),
    broken: [...page.images].filter((one) => !one.naturalWidth).length,
  });
};</script>"""


SCHEMES = {"light": 1, "dark": 0}
ACCURACIES = np.random.default_rng(0).normal(0.92, 0.02, 300).clip(0, 1)


def codesign_page() -> str:
    figure = plots.svg(plots.accuracy_over_chips(ACCURACIES, 0.93, 0.9))
    return render(METRICS, dict.fromkeys(CAPTIONS, figure), SECTIONS)


def robustness_page() -> str:
    spread = summarize(ACCURACIES, 0, 1.0, 0.9).to_json()
    conditions = [
        {"corner": corner, "supply": 0.8, "celsius": celsius, "nominal_accuracy": 0.93} | spread
        for corner in ("tt", "ff") for celsius in (-20.0, 27.0, 85.0)
    ]  # fmt: skip
    mismatch = spread | {
        "nominal_accuracy": 0.93, "mean_margin": 1.2, "std_margin": 0.1, "accuracies": ACCURACIES.tolist(),
    }  # fmt: skip
    corners = {"conditions": conditions, "worst": conditions[0], "refused": [], "shifts_v": {}}
    analyses = {"mismatch": mismatch, "corners": corners}
    report = {"unit": "fq_bmru", "technology": "generic180", "design": "0" * 64, "analyses": analyses}
    return robustness.render(report, {name: FIGURES[name](one) for name, one in analyses.items()})


CODESIGN = {"agreement", "power", "area", "circuit", "mapping", "training"}
PAGES = {"codesign": (codesign_page, CODESIGN), "robustness": (robustness_page, set())}
COMMON = {"summary", "mismatch", "corners", "provenance", "papers"}


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", PAGES)
def test_page_fits_and_is_quiet(name: str, width: int, scheme: str, tmp_path: Path) -> None:
    made, own = PAGES[name]
    page = made()
    path = tmp_path / "outside.html"
    path.write_text(OUTSIDE.replace("WIDTH", str(width)).replace("PAGE", escape(page)), encoding="utf-8")
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/user",
        "--window-size=1600,1000", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
        "--virtual-time-budget=3000", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    title = re.search(r"<title>({.*?})</title>", dom, re.S)
    assert title is not None
    told = json.loads(unescape(title[1]))
    assert told["width"] == width
    assert told["needed"] <= width
    assert told["broken"] == 0
    assert [name for name in told["asked"] if not name.startswith("data:")] == []
    bright = sum(map(int, re.findall(r"\d+", told["ink"])[:3])) > 3 * 128
    assert bright == (scheme == "dark")
    assert COMMON | own <= set(told["sections"])
