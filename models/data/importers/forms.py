"""Bytes to rows, one after another: JSON Lines, JSON, CSV and TSV, plain or packed by gzip or zstandard.

Memory holds one row and a buffer, however long the file is. What is wrong with one row is a row without a value, which the import
quarantines; what leaves the rest of the file in doubt (a packed file cut short, a bracket without its other) is a UserError.
"""

import codecs
import csv
import gzip
import io
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from models.core.errors import UserError
from models.core.given import HEAD, foreign, require_file, unreadable
from models.data.importers.lines import Fault, value_of

Tell = Callable[[str], None]
LONGEST = 64 << 20
"""Bytes of one row; a longer one is none that a person meant."""
BUFFER = 1 << 20
BETWEEN, NO_BRACKET = re.compile(rb"[\s,\[\]]*"), re.compile(rb"[^\[\]]+")
JSON_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}"]', re.DOTALL)
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


class Row(NamedTuple):
    """A row of a file, by its 1-based line or number; where it has no value, `fault` says why."""

    line: int
    value: dict[str, Any] | None
    fault: Fault | None = None


class Counted(io.RawIOBase):
    """A file that knows how many of its bytes were read: how far an import is."""

    def __init__(self, file: io.FileIO) -> None:
        self.file, self.done = file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.file.readinto(buffer) or 0
        self.done += count
        return count


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[io.BufferedReader, Counted]]:
    """The bytes of a plain or packed file from the first on, and the count of those read from the disk.

    Raises UserError where the path is no plain file, cannot be read, or is packed and damaged.
    """
    require_file(path)
    try:
        with path.open("rb", buffering=0) as file:
            counted = Counted(file)
            plain: Any = io.BufferedReader(counted, BUFFER)
            form = foreign(plain.peek(HEAD)[:HEAD])
            if form == "packed (gzip)":
                yield io.BufferedReader(gzip.GzipFile(fileobj=plain), BUFFER), counted
            elif form == "packed (zstd)":
                yield io.BufferedReader(_unzstd(plain), BUFFER), counted
            else:
                yield plain, counted
    except (OSError, *DAMAGED) as error:
        if isinstance(error, OSError) and error.errno:
            raise unreadable(path, error) from None
        said = str(error).partition("\n")[0][:80]
        raise UserError(f"{path} is packed and damaged or cut short ({said}): bring it in again, nothing was changed") from None


def _unzstd(plain: Any) -> Any:
    """What a zstandard stream holds, by the one library that tells a stream which ends in the middle."""
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(plain, mode="r"), "zstd")


def json_lines(_path: Path, file: io.BufferedReader, _tell: Tell) -> Iterator[Row]:
    """An object a line; blank lines are skipped, a BOM is no part of a line."""
    number = 0
    while line := file.readline(LONGEST):
        number += 1
        if len(line) >= LONGEST and not line.endswith(b"\n"):
            while rest := file.readline(LONGEST):
                if rest.endswith(b"\n"):
                    break
            yield Row(number, None, Fault("a row is too long", f"more than {LONGEST >> 20} MiB"))
            continue
        row = _row(number, line)
        if row.fault is None or line.removeprefix(codecs.BOM_UTF8).strip():
            yield row


def json_values(path: Path, file: io.BufferedReader, _tell: Tell) -> Iterator[Row]:
    """The objects of one array, or objects one after another, over as many lines as they like; by line where each begins.

    They are cut apart by their brackets, and what is in them is left to the decoder. Raises UserError where anything but blanks and commas
    stands between them, or a bracket is not closed: all that follows is in doubt then.
    """
    buffer, begins, at, line, depth, outside = b"", 0, 0, 1, 0, b""
    while piece := file.read(BUFFER):
        buffer, begins, at = buffer[begins:] + (piece if buffer else piece.removeprefix(codecs.BOM_UTF8)), 0, at - begins
        while True:
            if not depth:
                at = BETWEEN.match(buffer, begins).end()  # type: ignore[union-attr]
                between = buffer[begins:at]
                begins, line, outside = at, line + between.count(b"\n"), outside + NO_BRACKET.sub(b"", between)
                if begins == len(buffer):
                    break
                if buffer[begins : begins + 1] != b"{" or outside not in (b"", b"[", b"[]"):
                    raise _no_json(path, line, "between its objects is something else")
            at, depth = _closing(buffer, at, depth)
            if depth:
                break
            yield _row(line, buffer[begins:at])
            line, begins = line + buffer.count(b"\n", begins, at), at
        if len(buffer) - begins > LONGEST:
            raise _no_json(path, line, f"a value is longer than {LONGEST >> 20} MiB, or is not closed")
    if depth or outside not in (b"", b"[]"):
        raise _no_json(path, line, "it ends before its last bracket")


def _closing(buffer: bytes, at: int, depth: int) -> tuple[int, int]:
    """(where the value ends that is `depth` levels deep at `at`, 0), or, where it does not end here, (how far it was looked at, depth)."""
    for token in JSON_TOKEN.finditer(buffer, at):
        sign = token[0]
        if sign == b'"':  # a text that the next piece ends
            return token.start(), depth
        if sign in b"{[":
            depth += 1
        elif sign in b"}]":
            depth -= 1
            if not depth:
                return token.end(), 0
    return len(buffer), depth


def _row(line: int, content: bytes) -> Row:
    try:
        return Row(line, value_of(content))
    except Fault as fault:
        return Row(line, None, fault)


def _no_json(path: Path, line: int, what: str) -> UserError:
    return UserError(f"{path}, line {line}: not valid JSON ({what}); must be one array of objects, or objects: bring the file in again")


def comma_separated(path: Path, file: io.BufferedReader, _tell: Tell) -> Iterator[Row]:
    """The rows of a CSV file."""
    return _separated(path, file, ",")


def tab_separated(path: Path, file: io.BufferedReader, _tell: Tell) -> Iterator[Row]:
    """The rows of a TSV file."""
    return _separated(path, file, "\t")


def _separated(path: Path, file: io.BufferedReader, separator: str) -> Iterator[Row]:
    """The rows of a table with a head, by column; every value is a text. By the line in which a row ends.

    Raises UserError where the head is none, or a quote is not closed.
    """
    csv.field_size_limit(sys.maxsize)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter=separator, strict=True)
    try:
        head = next(reader, [])
        if not any(head) or len(set(head)) != len(head):
            raise UserError(f"{path}, line 1: is no head, must name each column once: mend the first line")
        for cells in reader:
            if cells:
                yield _row_of(reader.line_num, head, cells)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: no row of a table ({error}): mend the quotes, all after it is in doubt") from None


def _row_of(line: int, head: list[str], cells: list[str]) -> Row:
    if len(cells) != len(head):
        return Row(line, None, Fault("another number of cells than columns", f"{len(cells)} for {len(head)}"))
    if any(not cell.isascii() and _is_escaped(cell) for cell in cells):
        return Row(line, None, Fault("not UTF-8"))
    return Row(line, dict(zip(head, cells, strict=True)))


def _is_escaped(cell: str) -> bool:
    """Whether bytes that are no UTF-8 were read into the text."""
    try:
        cell.encode()
    except UnicodeEncodeError:
        return True
    return False


def numbered(values: Iterable[dict[str, Any]]) -> Iterator[Row]:
    """Rows of what has no lines, by number."""
    return (Row(number, value) for number, value in enumerate(values, 1))
