"""Examples in docstrings become code blocks on the site of documentation."""

from __future__ import annotations

import inspect
from typing import Any

from griffe import Extension, Object


def fenced(text: str) -> str:
    """`text` with every paragraph that starts with >>> in a fence of its own."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(f"```pycon\n{p}\n```" if p.startswith(">>>") else p for p in paragraphs)


class DoctestFences(Extension):
    """Of every object."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
