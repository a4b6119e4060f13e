"""DVC's listing of a tracked folder, `MD5.dir`: JSON that names its files. It lies in a cache or a remote that others may write to, and is
believed only as far as its name vouches for it, and within its folder."""

import functools
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from models.core.errors import StageError

MD5 = re.compile(r"[0-9a-f]{32}")
SUFFIX, OBJECTS = ".dir", "files/md5"  # the second: where a cache keeps them
FAILED = 255  # DVC's own exit code


def files(objects: Path, md5: str) -> dict[str, Path]:
    """The files of a folder, by relative path, as the cache whose objects lie in `objects` holds them. Nothing outside of it is looked at.

    Raises StageError where the listing is not there, or not what its name says, or names what is no file in the folder and the cache.
    """
    listing = _place(objects, md5.removesuffix(SUFFIX), SUFFIX)
    try:
        text = listing.read_bytes()
    except FileNotFoundError:
        raise StageError(f"{md5} is not in DVC's cache: 'dvc fetch' it from the remote, then ask again") from None
    if hashlib.md5(text, usedforsecurity=False).hexdigest() + SUFFIX != md5:
        raise StageError(f"{listing} has another content than its name says: remove it, 'dvc fetch' brings it from the remote")
    try:
        entries = json.loads(text)
        found = {str(entry["relpath"]): _place(objects, str(entry["md5"])) for entry in entries}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StageError(f"{listing} is no listing of DVC's: it is not to be used; 'dvc add' the folder anew") from None
    for name, path in found.items():
        if fault := _fault(name, found, len(entries)) or _leads_out(path, objects):
            raise StageError(f"{listing} names {name!r}, {fault}: it is not to be used; 'dvc add' the folder anew")
    return found


def fault(objects: Path, hashes: Iterable[str]) -> str:
    """What is wrong with the listings among these, before DVC is let write what they name; "" where nothing is, or one is not here yet."""
    for md5 in (md5 for md5 in hashes if md5.endswith(SUFFIX)):
        try:
            if _place(objects, md5.removesuffix(SUFFIX), SUFFIX).is_file():
                files(objects, md5)
        except StageError as error:
            return str(error)
    return ""


def dvc(*words: str) -> list[str]:
    """The command `dvc WORDS`, guarded as in `run_dvc`: for what brings or writes files that another hand may have listed."""
    return [sys.executable, "-P", str(Path(__file__).with_name("guarded_dvc.py")), *words]


class _LeadsOutError(BaseException):
    """A listing leads out of its folder. No Exception: DVC takes any for a listing that is not there, and goes on."""


def run_dvc(words: Sequence[str]) -> int:
    """What `dvc WORDS` does, in this process; return its exit code. A listing that leads out of its folder is refused where DVC reads it.

    Wherever it comes from: a `pull` writes by what it has fetched a moment ago, where nobody can look at it in between, a stage's outputs
    may be restored from the cache of runs, and older data lies in another folder of the cache.
    """
    from dvc.cli import main

    _guard()
    try:
        return int(main(list(words)))
    except _LeadsOutError as refused:
        print(f"ERROR: {refused}", file=sys.stderr, flush=True)
        return FAILED


@functools.cache
def _guard() -> None:
    from dvc_data.hashfile.tree import Tree

    read = Tree.__dict__["from_list"].__func__  # all of DVC's listings, those in dvc.lock too, become a tree there

    def from_list(cls: type[Any], entries: Sequence[Mapping[str, Any]], hash_name: str | None = None) -> Any:
        names = {str(entry["relpath"]) for entry in entries}
        for entry in entries:
            name, md5 = str(entry["relpath"]), str(entry.get("md5", "0" * 32))
            wrong = _fault(name, names, len(entries)) or ("" if MD5.fullmatch(md5) else f"whose content is {md5!r}, must be an md5")
            if wrong:
                raise _LeadsOutError(f"a folder's listing names {name!r}, {wrong}: it is not to be used, nothing was written by it")
        return read(cls, entries, hash_name)

    Tree.from_list = classmethod(from_list)  # type: ignore[method-assign, assignment]


def _place(objects: Path, md5: str, suffix: str = "") -> Path:
    """Where the cache keeps that content. Raises StageError for what is no md5, which might lead anywhere."""
    if not MD5.fullmatch(md5):
        raise StageError(f"{md5 + suffix!r} is no md5 of DVC's: nothing is read by that name; restore what names it ('git checkout')")
    return objects / md5[:2] / (md5[2:] + suffix)


def _fault(name: str, all_names: Any, count: int) -> str:
    """Why that is no path of a file in a folder of these files."""
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\0" in name or not parts:
        return "must be a path inside of the folder"
    if count != len(all_names) or any(str(parent) in all_names for parent in list(PurePosixPath(name).parents)[:-1]):
        return "which is there twice, or a file and a folder at once"
    return ""


def _leads_out(path: Path, objects: Path) -> str:
    inside = path.resolve().is_relative_to(objects.resolve())
    return "" if inside else f"whose content in the cache is a link to {path.resolve()}, must be a file of the cache"
