"""What people bring, read: refused in one line where it is no plain file in UTF-8, or no JSON that can be written again."""

import codecs
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from models.core.errors import UserError

MAX_DEPTH = 200
"""Levels of JSON: a thread of 60 messages has 125. Python's own limit depends on how deep the caller is."""
NOT_PLAIN = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
FOREIGN: Mapping[str, re.Pattern[bytes]] = {
    name: re.compile(head, re.DOTALL)
    for name, head in {
        "packed (gzip)": rb"\x1f\x8b",
        "packed (zip)": rb"PK(?:\x03\x04|\x05\x06)",
        "packed (xz)": rb"\xfd7zXZ\x00",
        "packed (bzip2)": rb"BZh[1-9]1AY&SY",
        "packed (zstd)": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",
        "packed (lz4)": rb"\x04\x22\x4d\x18",
        "packed (7z)": rb"7z\xbc\xaf\x27\x1c",
        "packed (rar)": rb"Rar!\x1a\x07",
        "packed (lzip)": rb"LZIP[\x00\x01]",
        "packed (compress)": rb"\x1f\x9d",
        "packed (tar)": rb".{257}ustar",
        "Parquet": rb"PAR1",
        "Arrow": rb"ARROW1",
        "SQLite": rb"SQLite format 3\x00",
        "PDF": rb"%PDF-",
        "a Git LFS pointer": rb"version https://git-lfs\.github\.com/",
        "UTF-32": rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff|[\x01-\x7f]\x00\x00\x00|\x00\x00\x00[\x01-\x7f]",
        "UTF-16": rb"\xff\xfe|\xfe\xff|(?:[\x01-\x7f]\x00){2}|(?:\x00[\x01-\x7f]){2}",
    }.items()
}
"""What a file is that is not text in UTF-8, by how it begins."""
HEAD = 512
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
AnyModel = TypeVar("AnyModel", bound=BaseModel)


def checked(kind: type[AnyModel], value: Any, where: str) -> AnyModel:
    """Build one item; the message names the key and the fault, never the value, which may be text that must not be shown."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, fault['loc'])) or 'item'}: {fault['msg']}" for fault in error.errors()]
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        faults = " ".join("; ".join(one[:300] for one in found[:3]).split()) + more
        raise UserError(f"{where}: {faults}; must be one {kind.__name__} item with {', '.join(kind.model_fields)}") from None


def require_file(path: Path, missing: str = "a file must be there; bring it in with 'dvc add' or 'dvc pull'") -> None:
    """Raise UserError where `path` is no plain file: missing, a link to nothing, a folder, or what a reader would wait for, as a pipe."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise UserError(f"{path} is a link to {os.readlink(path)}, which is missing: mend the link, or 'dvc pull'") from None
        raise UserError(f"{path} is missing: {missing}") from None
    except OSError as error:
        raise unreadable(path, error) from None
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is {NOT_PLAIN.get(stat.S_IFMT(mode), 'no file')}, must be a plain file: name or put the file itself")


def require_pulled(path: Path) -> None:
    """Raise UserError where DVC's pointer to `path` is there, and what it points to is not."""
    pointer = path.with_name(f"{path.name}.dvc")
    if not os.path.lexists(path) and pointer.is_file():
        raise UserError(f"{path} is missing, and {pointer.name} says that it must be there: 'dvc pull' brings it")


def unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read ({error.strerror or error}): it must be readable; see its owner and mode")


def foreign(head: bytes) -> str:
    """What a file is that is not text in UTF-8, by its first HEAD bytes; "" for text."""
    return next((form for form, begins in FOREIGN.items() if begins.match(head)), "")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A plain file, open at its first byte. Raises UserError where it cannot be read or is packed, UTF-16 or another form than text."""
    require_file(path)
    try:
        with path.open("rb") as file:
            if form := foreign(file.read(HEAD)):
                raise UserError(f"{path} is {form}, must be a plain file in UTF-8: unpack or convert it, then name what comes out")
            file.seek(0)
            yield file
    except OSError as error:
        raise unreadable(path, error) from None


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, every line end a newline, without a BOM. Raises UserError where it is something else."""
    with opened(path) as file:
        content = file.read()
    if b"\x00" in content:
        raise UserError(f"{path} holds a NUL byte (at {content.index(0)}): must be text in UTF-8; convert it, or name another file")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): must be text in UTF-8; convert it") from None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file; blank lines are skipped, a BOM is no part of a line.

    Raises UserError naming the file and the 1-based line where the file is none that can be read, or holds anything but one object a line.
    """
    with opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.removeprefix(codecs.BOM_UTF8).strip():
                continue
            value = parse(line, f"{path}, line {number}")
            if not isinstance(value, dict):
                raise UserError(f"{path}, line {number}: a {type(value).__name__}, must be a JSON object: mend or remove the line")
            yield value


def parse(line: bytes, where: str) -> Any:
    """The value of one line of JSON; half a surrogate pair, which no file can hold, becomes U+FFFD.

    Raises UserError naming `where` for what is no JSON, and for what Python takes and others do not: NaN, Infinity, a key that comes
    twice, numbers of more than 4300 digits, more than MAX_DEPTH levels.
    """
    try:
        return parse_text(line.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        fault = f"{error.msg}, column {error.colno}"
    except ValueError as error:
        fault = str(error).partition("; use sys")[0]
    raise UserError(f"{where}: not valid JSON ({fault}); every line must be one JSON object: mend or remove the line")


def parse_text(text: str) -> Any:
    """`parse`, of text. Raises ValueError."""
    _require_shallow(text)
    value = DECODER.decode(text)
    return DECODER.decode(whole(json.dumps(value, ensure_ascii=False))) if HALF_PAIR.search(text) else value


def whole(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _require_shallow(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for found in BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > MAX_DEPTH:
            raise json.JSONDecodeError(f"nested more than {MAX_DEPTH} levels deep", text, found.start())


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {whole(twice)[:40]!r} comes twice")
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:20]} is larger than a float can be")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_number)
