"""The rows that a stage made, read by the next: all that training needs of files, and steady. What people bring is read by given.py."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.core.errors import UserError


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file; blank lines are skipped.

    Raises UserError naming the file and the 1-based line where it cannot be read, or holds anything but one object a line.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _object(line, f"{path}, line {number}")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): a stage makes it; 'sluice stages' says which must run") from None


def _object(line: bytes, where: str) -> dict[str, Any]:
    again = "run the stage that makes it again"
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON ({error}); every line must be one JSON object: {again}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: a {type(value).__name__}, must be a JSON object: {again}")
    return value
