"""Frozen, closed records and JSON Lines files: the form in which every floor hands data to the next.

What people bring is read here as well, and refused in one line where it is no plain file in UTF-8, or no JSON that can be written again.
"""

import codecs
import errno
import filecmp
import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

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
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)
AnyModel = TypeVar("AnyModel", bound=BaseModel)


class Record(BaseModel):
    """A frozen set of named values that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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


def unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read ({error.strerror or error}): it must be readable; see its owner and mode")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A plain file, open at its first byte. Raises UserError where it cannot be read or is packed, UTF-16 or another form than text."""
    require_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
            for form, begins in FOREIGN.items():
                if begins.match(head):
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


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write one JSON object a line, keys in the order given, and return how many. Parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as lines:
        for record in records:
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


@contextmanager
def replacing(places: Sequence[Path]) -> Iterator[Mapping[Path, BinaryIO]]:
    """Files to be written in the places of others: all are renamed into them at the end, or, where something fails, none.

    One in which nothing was written leaves its place empty, and no empty folder; one that is the same as what is there leaves that alone.
    A place is never written through: DVC may have linked it to its cache. A kill between two renames leaves whole files, some of before
    and some of after, and drafts that the next call for these places removes: doing the same again puts it right. Raises UserError where
    the system says no, OSError where the disk is full.
    """
    new = {folder for place in places for folder in place.parents if not folder.is_dir()}
    try:
        with ExitStack() as stack, writing(places[0].parent):
            for place in places:
                place.parent.mkdir(parents=True, exist_ok=True)
            drafts = {place: stack.enter_context(_beside(place, "draft").open("wb", buffering=1 << 20)) for place in places}
            yield drafts
            stack.close()
            _rename_all([(place, _beside(place, "draft").stat().st_size > 0) for place in places if not _is_same(place)])
    finally:
        for place in places:
            for leftover in (_beside(place, "draft"), _beside(place, "kept")):
                with suppress(OSError):
                    leftover.unlink(missing_ok=True)
        for folder in sorted({*new, *(place.parent for place in places)}, reverse=True):
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _is_same(place: Path) -> bool:
    """Whether the draft is what stands in its place."""
    return place.is_file() and filecmp.cmp(place, _beside(place, "draft"), shallow=False)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


def _rename_all(files: Sequence[tuple[Path, bool]]) -> None:
    """Put each draft in its place, or remove the file; where that fails, put back what stood in the places before."""
    begun: list[tuple[Path, bool]] = []
    try:
        for path, stays in files:
            stood = os.path.lexists(path)
            if stood:
                _keep(path, _beside(path, "kept"))
            begun.append((path, stood))
            if stays:
                _beside(path, "draft").replace(path)
            else:
                path.unlink(missing_ok=True)
    except BaseException:
        for path, stood in reversed(begun):
            with suppress(OSError):
                _beside(path, "kept").replace(path) if stood else path.unlink(missing_ok=True)
        raise


def _keep(path: Path, other: Path) -> None:
    """Give a file a second name; a copy where the file system has no hard links."""
    other.unlink(missing_ok=True)
    try:
        os.link(path, other, follow_symlinks=False)
    except OSError:
        shutil.copyfile(path, other, follow_symlinks=False)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what a system says against writing into one line; a full disk is no mistake of the user's."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = error.filename2 or error.filename or folder
        raise UserError(f"{place} cannot be written ({error.strerror}): nothing was changed; see owner and mode of {folder}") from None


def read_json(path: Path, default: Any) -> Any:
    """The file's value; `default` where it is missing or was cut off by a crash."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return default


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, keys in the order given, whole or not at all."""
    write_whole(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: beside its place, then renamed. Parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def folder_md5(folder: Path) -> str:
    """The md5 of a folder's content: of the sorted lines "md5 of the file, relative path"."""
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'md5').hexdigest()} {path.relative_to(folder).as_posix()}\n")
    return hashlib.md5("".join(lines).encode(), usedforsecurity=False).hexdigest()
