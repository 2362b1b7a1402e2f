"""The README's picture, put together from the figures of `make demo`, and the cells' schematics.

    python docs/make_images.py [out/demo] [docs/images]

Writes `overview.svg`: the latch's hysteresis and the accuracy of mismatched chips beside one utterance's
currents in both models; and `schematic_*.svg`, the cells with the sizes of `generic180`. Equal
figures give equal bytes.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from cmru_hw.config import write_atomically
from cmru_hw.errors import ConfigError
from cmru_hw.report.plots import INK
from cmru_hw.report.schematics import DRAWINGS
from cmru_hw.technology import load_technology

ROOT = Path(__file__).resolve().parents[1]
GAP, TITLE = 18.0, 26.0  # pt
WHOLE = re.compile(r'<svg[^>]*viewBox="0 0 ([\d.]+) ([\d.]+)"[^>]*>(.*)</svg>\s*$', re.DOTALL)


@dataclass(frozen=True)
class Panel:
    """A figure as matplotlib wrote it: size in pt, and what is inside its `<svg>` element."""

    title: str
    width: float
    height: float
    inside: str

    def at(self, x: float, y: float, prefix: str, scale: float = 1.0) -> str:
        """The panel below its title at (x, y); `prefix` keeps its ids apart from those of other panels."""
        inside = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}", self.inside)
        heading = (
            f'<text x="{x + 6:g}" y="{y + 0.65 * TITLE:g}" font-family="DejaVu Sans, Verdana, sans-serif" '
            f'font-size="12" font-weight="bold" fill="{INK}">{self.title}</text>\n'
        )
        return (
            f'{heading}<svg x="{x:g}" y="{y + TITLE:g}" width="{self.width * scale:g}" '
            f'height="{self.height * scale:g}" viewBox="0 0 {self.width:g} {self.height:g}">{inside}</svg>\n'
        )


def read_panel(path: Path, title: str) -> Panel:
    """A figure of a co-design run. Raises ConfigError if it is not there or is not an SVG of ours."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; run `make demo` first") from error
    found = WHOLE.search(text)
    if found is None:
        raise ConfigError(f"{path}: not an SVG figure of a co-design run")
    inside = re.sub(r"<metadata>.*?</metadata>", "", found[3], flags=re.DOTALL)
    return Panel(title, float(found[1]), float(found[2]), inside)


def overview(run: Path) -> str:
    """Hysteresis above chips on the left, waveforms of the same total height on the right."""
    latch = read_panel(run / "figures" / "hysteresis.svg", "1. One latch in ngspice")
    network = read_panel(run / "figures" / "waveforms.svg", "2. The network on one input, both models")
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    chips = read_panel(
        run / "figures" / "accuracy_over_chips.svg",
        f"3. Accuracy of {metrics['robustness']['chips']} mismatched chips",
    )
    right = latch.width + GAP
    scale = (latch.height + GAP + TITLE + chips.height) / network.height
    width = right + network.width * scale
    height = TITLE + network.height * scale
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width:g}pt" height="{height:g}pt" viewBox="0 0 {width:g} {height:g}">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n'
        + latch.at(0, 0, "a-")
        + chips.at(0, TITLE + latch.height + GAP, "b-")
        + network.at(right, 0, "c-", scale)
        + "</svg>\n"
    )


def main(arguments: list[str]) -> None:
    """Write the pictures; `arguments` are the run and the output folder."""
    run = Path(arguments[0]) if arguments else ROOT / "out" / "demo"
    folder = Path(arguments[1]) if len(arguments) > 1 else ROOT / "docs" / "images"
    for made in DRAWINGS.values():
        for name, drawn in made.items():
            write_atomically(folder / f"schematic_{name}.svg", drawn(load_technology("generic180")))
    write_atomically(folder / "overview.svg", overview(run))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ConfigError, OSError) as error:
        sys.exit(str(error))
