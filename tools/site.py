"""What mkdocs puts into pages of the site: the README, the commands, and links that lead out of docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer
from typer.cli import get_docs_for_click

from cmru_hw.cli import app

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The text of a page as the site shows it."""
    source = Path(page.file.src_uri)
    if source == Path("index.md"):
        return relinked((ROOT / "README.md").read_text(encoding="utf-8"), ROOT)
    if source == Path("reference/commands.md"):
        command = typer.main.get_command(app)
        context = typer.Context(command, info_name="cmru-hw")
        text = get_docs_for_click(obj=command, ctx=context, name="cmru-hw")
        return markdown + text[text.index("\n## ") :]
    return relinked(markdown, ROOT / "docs" / source.parent)


def relinked(text: str, folder: Path) -> str:
    """Links between pages as seen from docs/; names of files that are no pages lose their link."""

    def moved(link: re.Match[str]) -> str:
        picture, words, target, anchor = link.groups()
        if ":" in target:
            return link[0]
        path = (folder / target).resolve()
        docs = ROOT / "docs"
        if not path.exists():
            raise FileNotFoundError(f"{folder}: link to {target}, which is not there")
        if path.is_dir() or not path.is_relative_to(docs):
            return str(words)
        start = docs if folder == ROOT else folder
        return f"{picture}[{words}]({path.relative_to(start)}{anchor or ''})"

    return LINK.sub(moved, text)
