"""The site of documentation, built as a reader gets it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with warnings as errors (`strict: true`)."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", folder],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def words(page: Path) -> str:
    return unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_every_page_of_docs_is_on_the_site(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    built = {path.parent.name for path in site.glob("*/index.html")}
    assert pages
    assert pages <= built


def test_every_page_is_in_the_contents(site: Path) -> None:
    front = (site / "index.html").read_text(encoding="utf-8")
    missing = [path.stem for path in (ROOT / "docs").glob("*.md") if f'href="{path.stem}/"' not in front]
    assert missing == ["index"]


def test_first_page_is_the_readme(site: Path) -> None:
    assert "make demo" in words(site / "index.html")
    assert (site / "images" / "overview.svg").exists()


def test_every_command_is_described(site: Path) -> None:
    from typer.main import get_command

    from cmru_hw.cli import app

    text = words(site / "reference" / "commands" / "index.html")
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        assert f"cmru-hw {name} [OPTIONS]" in text


def test_docstrings_reach_the_reference_with_examples_as_code(site: Path) -> None:
    page = (site / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    assert "cmru_hw.nn.layers.CMRU" in page
    assert "cmru_hw.behavioral.BehavioralModel" in page
    assert '<span class="gp">&gt;&gt;&gt; </span>' in page
    assert "&gt;&gt;&gt;" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.S)


def test_no_link_leads_nowhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue
        for target in re.findall(
            r'(?:href|src)="(?!https:|mailto:|data:)([^"#?]+)[^"]*"', page.read_text(encoding="utf-8")
        ):
            found = (page.parent / target).resolve()
            assert found.exists(), f"{page.relative_to(site)}: {target}"
