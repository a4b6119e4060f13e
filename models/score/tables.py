"""Rows of the files that a suite names: JSON Lines, JSON, CSV, TSV, Parquet; plain, packed by gzip or zstandard, or in a zip.

A file that is missing, cut short, or not what its name says raises UserError in one line that shows none of its text.
"""

import csv
import gzip
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.core.errors import SluiceError, UserError
from models.core.given import HEAD, foreign, parse, parse_text, require_file
from models.score.suite import Table

Row = dict[str, Any]
UNTYPED = (".csv", ".tsv")  # all their values are texts
LISTS = ("data", "items", "examples", "questions", "rows", "test")  # keys under which a JSON file may keep its one list
MAX_MIB = 4096  # of one file, unpacked: a suite is read into memory
SHOWN_COLUMNS, SHOWN_LETTERS = 12, 24
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def rows(folder: Path, table: Table) -> Iterator[tuple[str, str, Row]]:
    """Yield (where it stands, the subject that its file is named for, the row) for every row of a table."""
    path = folder / table.file
    if not os.path.lexists(path):
        raise UserError(f"{path} is missing: suite {folder.name} must have it; bring it in with 'dvc pull' or run the stage sources")
    require_file(path)
    with _named(path):
        if zipfile.is_zipfile(path) and path.suffix == ".zip":
            yield from _zipped(path, table)
            return
        for number, row in enumerate(_rows(path.name, path.read_bytes(), table, str(path)), 1):
            yield f"{path}, row {number}", "", row


def column_names(names: Iterable[Any]) -> str:
    """The names of columns for a message: some, each in one line and short, since a table without a line of names has text there."""
    found = [repr(str(name)[:SHOWN_LETTERS])[1:-1] for name in names]
    return ", ".join(found[:SHOWN_COLUMNS]) + (f" and {len(found) - SHOWN_COLUMNS} more" if len(found) > SHOWN_COLUMNS else "")


def is_untyped(table: Table) -> bool:
    """Whether the table's values are all texts, so that a number is written as one."""
    return _suffix(table.member or table.file) in UNTYPED


def _zipped(path: Path, table: Table) -> Iterator[tuple[str, str, Row]]:
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
        wanted = re.compile(re.escape(table.member).replace(r"\*", "([^/]*)")) if table.member else re.compile(r".*")
        found = [(name, match) for name in names if (match := wanted.fullmatch(name))]
        if not found or (table.member is None and len(found) > 1):
            raise UserError(f"{path} holds {', '.join(names[:5]) or 'nothing'}: 'member' in suite.yaml must name what is meant")
        for name, match in found:
            content = archive.read(name, pwd=table.password.encode() if table.password else None)
            for number, row in enumerate(_rows(name, content, table, f"{path}, {name}"), 1):
                yield f"{path}, {name}, row {number}", match[1] if match.re.groups else "", row


def _suffix(name: str) -> str:
    return Path(name.removesuffix(".gz").removesuffix(".zst")).suffix.lower()


def _rows(name: str, content: bytes, table: Table, where: str) -> Iterator[Row]:
    content = _unpacked(content, where)
    form = foreign(content[:HEAD])
    if form and not (form == "Parquet" and _suffix(name) == ".parquet"):
        raise UserError(f"{where} is {form}, must be a plain file in UTF-8, or what its name says: unpack or convert it")
    read = READERS.get(_suffix(name))
    if read is None:
        raise UserError(f"{where}: must be one of {', '.join(READERS)}, plain, .gz or .zst, or in a .zip: convert it")
    yield from read(content, table, where)


def _unpacked(content: bytes, where: str) -> bytes:
    if content.startswith(b"\x1f\x8b"):
        with gzip.open(io.BytesIO(content)) as packed:
            return _limited(packed.read, where)
    if content.startswith(ZSTD_MAGIC):
        import pyarrow

        with pyarrow.CompressedInputStream(pyarrow.BufferReader(content), "zstd") as packed:
            return _limited(packed.read, where)
    return content


def _limited(read: Callable[[int], bytes], where: str) -> bytes:
    found = read((MAX_MIB << 20) + 1)
    if len(found) > MAX_MIB << 20:
        raise UserError(f"{where} unpacks to more than {MAX_MIB} MiB, which no suite is: name a smaller file")
    return found


def _json_lines(content: bytes, _table: Table, where: str) -> Iterator[Row]:
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip() and line.strip() != b"\xef\xbb\xbf":
            yield _object(parse(line, f"{where}, line {number}"), f"{where}, line {number}")


def _json(content: bytes, table: Table, where: str) -> Iterator[Row]:
    """One list of objects, alone or as the only list of an object; JSON Lines whose name says .json are read as such."""
    text = content.decode("utf-8-sig")
    try:
        found = parse_text(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            yield from _json_lines(content, table, where)
            return
        raise UserError(f"{where}, line {error.lineno}: not valid JSON ({error.msg}): mend the line") from None
    if isinstance(found, dict):
        lists = [key for key in found if isinstance(found[key], list) and (key in LISTS or len(found) == 1)]
        found = found[lists[0]] if len(lists) == 1 else [found]
    if not isinstance(found, list):
        raise UserError(f"{where}: a {type(found).__name__}, must be a list of objects: convert it")
    for number, value in enumerate(found, 1):
        yield _object(value, f"{where}, element {number}")


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{where}: a {type(value).__name__}, must be a JSON object: mend or remove it")
    return value


def _separated(content: bytes, table: Table, where: str, delimiter: str = ",") -> Iterator[Row]:
    """The reader wants line ends as they are; a BOM is no part of the first name."""
    lines = io.StringIO(content.decode("utf-8-sig"), newline="")
    csv.field_size_limit(1 << 24)
    reader = csv.DictReader(lines, table.columns, strict=True, delimiter=delimiter)
    for number, row in enumerate(reader, 1):
        if None in row or None in row.values():
            columns = column_names(reader.fieldnames or ())
            raise UserError(f"{where}, row {number}: must have as many cells as there are columns ({columns}): mend or remove the row")
        yield row


def _parquet(content: bytes, _table: Table, _where: str) -> Iterator[Row]:
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(io.BytesIO(content)).iter_batches():
        yield from batch.to_pylist()


READERS: Mapping[str, Callable[[bytes, Table, str], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _separated,
    ".tsv": lambda content, table, where: _separated(content, table, where, "\t"),
    ".parquet": _parquet,
}


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn whatever a broken file makes its reader raise into one line that names the file and shows none of its text."""
    try:
        yield
    except SluiceError:
        raise
    except OSError as error:
        if error.strerror is None:  # of gzip: not a gzipped file
            raise UserError(f"{path} cannot be read ({type(error).__name__}): must be whole; bring it in again") from None
        raise UserError(f"{path} cannot be read ({error.strerror}): it must be readable; see its owner and mode") from None
    except Exception as error:  # of zipfile, zlib, lzma, csv, gzip, pyarrow: each has its own, and some raise struct.error or IndexError
        kind = "broken CSV" if isinstance(error, csv.Error) else type(error).__name__
        raise UserError(f"{path} cannot be read ({kind}): must be whole, and what its name says; bring it in again") from None
