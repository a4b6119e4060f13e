"""Texts as a page or a screen has room for them."""


def shortened(text: str, characters: int) -> str:
    """The text, or its first `characters` and a mark that more of it is there."""
    return text if len(text) <= characters else f"{text[:characters]}…"
