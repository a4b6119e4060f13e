"""Project Gutenberg's frame: its header, its licence and the markers between which a book stands. Left in, it would be learned by heart."""

import re
from collections.abc import Iterator

NAME = r"(?:THE |THIS )?(?:COPYRIGHTED )?PROJECT\s+GUTENBERG"
REST = r"(?:[^\n]*(?:\n(?![ \t]*(?:\n|\*))[^\n]*){0,3}?\*{3,}[ \t]*|[^\n]*)$"
"""The rest of a marker: a long title may wrap to further lines, and now and then the closing stars are missing."""
STARRED = rf"\*{{3,}}[ \t]*(?P<what>START|END)\s+OF\s+{NAME}\b{REST}"
BARE_END = rf"END\s+OF\s+{NAME}(?:['’]S\b| E-?(?:BOOK|TEXT)\b)[^\n]*$"
MARKER = re.compile(rf"^[ \t]*(?:{STARRED}|{BARE_END})", re.IGNORECASE | re.MULTILINE)
"""`*** START OF THE PROJECT GUTENBERG EBOOK … ***`, its END, and the line `End of Project Gutenberg's …` that older books have too."""


def books(content: str) -> str:
    """What stands between Project Gutenberg's markers, every book of the file; the whole text where there are none.

    A start without an end reaches to the next start or the end of the file, an end without a start back to the marker before it:
    where a marker is lost, too much is kept, not too little.
    """
    return "\n\n".join(part for part in _parts(content) if part.strip()) if MARKER.search(content) else content


def _parts(content: str) -> Iterator[str]:
    begins, inside = 0, False
    for marker in MARKER.finditer(content):
        ends = (marker["what"] or "END").upper() == "END"
        if inside or ends:
            yield content[begins : marker.start()]
        begins, inside = marker.end(), not ends
    if inside:
        yield content[begins:]
