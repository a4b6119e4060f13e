"""One line of JSON to its value: by orjson where nothing in it could be what orjson lets pass, else by the project's own strict decoder.

orjson takes the last of two equal keys, long integers as rounded floats, and more levels than others do; it refuses halves of surrogate
pairs and a BOM, which the strict decoder reads. So a line goes to the strict decoder where orjson refuses it, or where a count over its
bytes says that it might hold one of these. With the counts 1.3 KB take 5 microseconds, the strict decoder takes 8.
"""

import json
from typing import Any

import orjson

from models.core.given import MAX_DEPTH, parse_text

SHAPES = bytes(ord("0") if 48 <= byte < 58 else ord(" ") if byte in b" \t\r\n" else ord("x") if byte != 58 else byte for byte in range(256))
"""Every digit as a 0, every blank as one, a colon, and x for the rest."""
LONG = b"0" * 19
"""As many digits as a 64-bit integer may have; more are rounded by orjson."""


class Fault(ValueError):
    """Why a row is quarantined: `reason` is counted, `detail` says where in the row, never what it holds."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason


def value_of(line: bytes) -> dict[str, Any]:
    """The object of one line. Raises Fault where it is no JSON, no object, or holds what only some readers take."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        value = _strict(line)
    else:
        if not _is_plain(line, _keys(value, MAX_DEPTH)):
            value = _strict(line)
    if not isinstance(value, dict):
        raise Fault("not a JSON object", f"a {type(value).__name__}")
    return value


def _is_plain(line: bytes, keys: int) -> bool:
    """Whether the bytes write just these keys, each once, and no long number."""
    shape = line.translate(SHAPES)
    if LONG in shape:
        return False
    if line.count(b":") == keys:
        return True
    if b" :" in shape or b'\\\\":' in line:  # a blank between a key and its colon, a text or key that ends in a backslash: not counted here
        return False
    return line.count(b'":') - line.count(b'\\":') == keys  # the quote before a colon in a text is escaped


def _keys(value: Any, depth: int) -> int:
    """How many keys there are at all levels; far too few where there are more levels than `depth`."""
    if depth == 0:
        return -(1 << 60)
    if type(value) is dict:
        count = len(value)
        for inner in value.values():
            if type(inner) is dict or type(inner) is list:
                count += _keys(inner, depth - 1)
        return count
    return sum([_keys(inner, depth - 1) for inner in value if type(inner) is dict or type(inner) is list]) if type(value) is list else 0


def _strict(line: bytes) -> Any:
    try:
        return parse_text(line.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise Fault("not valid JSON", f"{error.msg}, column {error.colno}") from None
    except ValueError as error:
        raise Fault("not valid JSON", str(error).partition("; use sys")[0]) from None


def dumped(record: dict[str, Any]) -> bytes:
    """A record as one line of JSON."""
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
