"""Texts to rows {text}: documents of whole paragraphs, from plain text and Markdown, and from what is the content of HTML and PDF.

Project Gutenberg's frame is left out, and how much that was is said.
"""

import io
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from models.core.errors import UserError
from models.core.given import whole
from models.data import gutenberg
from models.data.importers.forms import BUFFER, LONGEST, Row, Tell, numbered, unpacked

CHUNK_CHARACTERS = 1500
"""Paragraphs are gathered into documents of about this size: some 350 tokens, what a small model reads at once."""
WHOLE = 64 << 20
"""Bytes of a text that is read at once: what has a frame, and pages. A book has 1 MB."""


def plain(path: Path, file: io.BufferedReader, tell: Tell) -> Iterator[Row]:
    """Documents of a text in UTF-8: of what is between Project Gutenberg's markers, or of the whole, a line at a time."""
    if not _is_framed(path):
        yield from _documents(paragraphs(_lines(path, file)))
        return
    content = _decoded(path, _all(path, file))
    kept = gutenberg.books(content)
    if len(kept) < len(content):
        tell(f"{path}: {len(content) - len(kept):,} of {len(content):,} characters, outside Project Gutenberg's markers, were left out")
    yield from _documents(paragraphs(kept.split("\n")))


def _is_framed(path: Path) -> bool:
    """Whether a marker of Project Gutenberg's is somewhere in the file."""
    last = b""
    with unpacked(path) as (file, _):
        while piece := file.read(BUFFER):
            seen = last + piece
            if b"gutenberg" in seen.lower() and gutenberg.MARKER.search(seen.decode(errors="replace").replace("\r", "")):
                return True
            last = piece[-4096:]
    return False


def _lines(path: Path, file: io.BufferedReader) -> Iterator[str]:
    """The lines of a text; every line end of any system ends one."""
    begun = False
    while line := file.readline(LONGEST):
        if len(line) >= LONGEST:
            raise UserError(f"{path} has a line of more than {LONGEST >> 20} MiB, must be text: name another file")
        text = _decoded(path, line if begun else line.removeprefix(b"\xef\xbb\xbf"))
        begun = True
        yield from text.removesuffix("\n").split("\n")


def _decoded(path: Path, content: bytes) -> str:
    if b"\x00" in content:
        raise UserError(f"{path} holds a NUL byte: must be text in UTF-8; convert it, or name another file")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason}): must be text in UTF-8; convert it") from None


def _all(path: Path, file: io.BufferedReader) -> bytes:
    content = file.read(WHOLE)
    if len(content) == WHOLE:
        raise UserError(f"{path} has more than {WHOLE >> 20} MiB, which is more than is read at once of its kind: cut it up")
    return content


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """What stands between blank lines, line ends inside kept."""
    gathered: list[str] = []
    for line in lines:
        if line.strip(" \t"):
            gathered.append(line)
        elif gathered:
            yield "\n".join(gathered)
            gathered = []
    if gathered:
        yield "\n".join(gathered)


def _documents(found: Iterable[str]) -> Iterator[Row]:
    return numbered({"text": chunk} for chunk in chunks(found))


def chunks(found: Iterable[str]) -> Iterator[str]:
    """Yield runs of paragraphs of up to CHUNK_CHARACTERS; a longer paragraph is one by itself, never cut."""
    gathered, characters = list[str](), 0
    for paragraph in found:
        if not paragraph.strip():
            continue
        if gathered and characters + len(paragraph) > CHUNK_CHARACTERS:
            yield "\n\n".join(gathered)
            gathered, characters = [], 0
        gathered.append(paragraph)
        characters += len(paragraph)
    if gathered:
        yield "\n\n".join(gathered)


def html(path: Path, file: io.BufferedReader, _tell: Tell) -> Iterator[Row]:
    """Documents of a page's main content, as Markdown: headings, lists and code keep their form; menus and footers go."""
    from trafilatura import extract

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    content = extract(_all(path, file), output_format="markdown", include_comments=False, include_tables=True) or ""
    if not content.strip():
        raise UserError(f"{path} has no main content (filled by scripts, or a menu?): save what the browser shows, or leave it out")
    yield from _documents(paragraphs(whole(content).split("\n")))


def pdf(path: Path, file: io.BufferedReader, _tell: Tell) -> Iterator[Row]:
    """Documents of the text of a PDF, page after page."""
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        pages = [page.extract_text() for page in PdfReader(io.BytesIO(_all(path, file))).pages]
    except UserError:
        raise
    except Exception as error:  # of a file that is broken the parser raises what Python happens to raise where it is
        raise UserError(f"{path} is no PDF that can be read ({type(error).__name__}, {_brief(error)}): mend it, or leave it out") from None
    if not any(page.strip() for page in pages):
        raise UserError(f"{path} holds no text (pictures of pages?): recognise its text first, or leave it out")
    yield from _documents(paragraphs(whole("\n\n".join(pages)).split("\n")))


def _brief(error: Exception) -> str:
    return str(error).partition("\n")[0].replace(":", ";")[:80]
