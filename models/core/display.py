"""Texts as a page or a screen has room for them."""

import json
from typing import Any


def shortened(text: str, characters: int) -> str:
    """The text, or its first `characters` and a mark that more of it is there."""
    return text if len(text) <= characters else f"{text[:characters]}…"


def line(value: Any, characters: int) -> str:
    """A value of JSON in one line, shortened."""
    return shortened(json.dumps(value, ensure_ascii=False, default=str), characters)
