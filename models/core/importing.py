"""What only imports do: replace files of a folder together."""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from models.core.errors import UserError
from models.core.files import write_lines


def replace_together(folder: Path, files: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write several JSON Lines files of one folder, or, where one cannot be written, none; a file without a record is removed.

    All are written beside their places, then renamed one after another, never through a path: DVC may have linked it to its cache.
    A kill between two renames leaves whole files, some of before and some of after, and drafts that the next call removes: doing the same
    again puts it right. Raises UserError where the system says no, OSError where the disk is full.
    """
    try:
        with writing(folder):
            for name, rows in files.items():
                write_lines(_beside(folder / name, "draft"), rows)
            _rename_all([(folder / name, bool(rows)) for name, rows in files.items()])
    finally:
        for leftover in (*folder.glob(".*.jsonl.draft"), *folder.glob(".*.jsonl.kept")):
            with suppress(OSError):
                leftover.unlink(missing_ok=True)


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
