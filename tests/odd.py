"""What stands in the place of a plain file, and what a person must be told of it; and JSON that no reader expects."""

import bz2
import gzip
import json
import lzma
import os
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

NOBODY = 65534
LONG = "<5000 digits>"


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.jsonl", "{}")


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # an address may have 107 characters
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


PLACES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a folder": (lambda path: path.mkdir(), "is a folder, must be a plain file"),
    "a pipe": (os.mkfifo, "is a pipe, must be a plain file"),
    "a socket": (_socket, "is a socket, must be a plain file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a device, must be a plain file"),
    "a link to nothing": (lambda path: path.symlink_to("gone"), "is a link to gone, which is missing"),
    "a link to itself": (_loop, "cannot be read (Too many levels of symbolic links)"),
    "nothing": (lambda _path: None, "is missing"),
    "what fails to be read": (lambda path: path.symlink_to("/proc/self/mem"), "cannot be read (Input/output error)"),
}
FORMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"{}")), "is packed (gzip)"),
    "bzip2": (lambda path: path.write_bytes(bz2.compress(b"{}")), "is packed (bzip2)"),
    "xz": (lambda path: path.write_bytes(lzma.compress(b"{}")), "is packed (xz)"),
    "zstd": (lambda path: path.write_bytes(b"\x28\xb5\x2f\xfd\x04\x00"), "is packed (zstd)"),
    "zip": (_zip, "is packed (zip)"),
    "Parquet": (lambda path: path.write_bytes(b"PAR1\x15\x04"), "is Parquet"),
    "UTF-16": (lambda path: path.write_text('{"id": "a"}\n', encoding="utf-16"), "is UTF-16, must be a plain file in UTF-8"),
    "UTF-16 without a BOM": (lambda path: path.write_text('{"id": "a"}\n', encoding="utf-16-be"), "is UTF-16"),
    "a pointer of Git LFS": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "is a Git LFS pointer"),
}
ODD = PLACES | FORMS
"""How each is made, and what is said of it: what is no file or cannot be opened, and files in another form than text."""


@contextmanager
def without_rights() -> Iterator[None]:
    """Be a user whom the modes of files concern."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


TEXTS = st.sampled_from(
    ["", " ", "None", "nan", "a\ud83db", "\udc4d", "\x00", "\ufeff", "A", "AB", "a/b", "\u2028", "*** START OF"]
) | st.text(max_size=9)
NUMBERS = st.sampled_from([0, -1, 1.0, 1e308, LONG, float("nan"), float("inf"), True]) | st.integers(-2, 9)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | NUMBERS | TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)


def dumped(value: Any) -> str:
    """JSON as others write it: with NaN, halves of surrogate pairs and numbers of any length."""
    return json.dumps(value).replace(f'"{LONG}"', "7" * 5000)


@st.composite
def altered(draw: st.DrawFn, good: Any) -> Any:
    """A good value with one part of it replaced, taken away, or wrapped."""
    if isinstance(good, dict) and good and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(good)))
        kept = {name: value for name, value in good.items() if name != key}
        return kept if draw(st.integers(0, 3)) == 0 else {**kept, key: draw(altered(good[key]))}
    if isinstance(good, list) and good and draw(st.booleans()):
        place = draw(st.integers(0, len(good) - 1))
        return [*good[:place], draw(altered(good[place])), *good[place + 1 :]]
    return draw(VALUES)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes that are cut, or have a piece overwritten, put in twice or taken out."""
    start = draw(st.integers(0, len(content)))
    end = draw(st.integers(start, min(len(content), start + 40)))
    piece = draw(
        st.binary(max_size=6)
        | st.sampled_from([b"\n", b"\r", b"\x00", b'"', b"[" * 5000, b"\xff\xfe", b"\xef\xbb\xbf", content[start:end] * 2])
    )
    return content[:start] + piece + draw(st.sampled_from([content[end:], b""]))
