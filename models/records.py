"""Frozen, closed records and JSON Lines files: the form in which every floor hands data to the next."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from models.errors import UserError


class Record(BaseModel):
    """A frozen set of named values that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file; blank lines are skipped.

    Raises UserError naming the file and the 1-based line where the file is missing, is not UTF-8, or holds anything but one object a line.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: a JSON Lines file must be there; bring it in with 'dvc add' or 'dvc pull'")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                raise UserError(
                    f"{path}, line {number}: not valid JSON ({error}); every line must be one JSON object: mend or remove the line"
                ) from None
            if not isinstance(value, dict):
                raise UserError(f"{path}, line {number}: a {type(value).__name__}, must be a JSON object: mend or remove the line")
            yield value


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write one JSON object a line, keys in the order given, and return how many. Parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as lines:
        for record in records:
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


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
