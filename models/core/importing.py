"""What only imports do: replace files of a folder together."""

import errno
import filecmp
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from models.core.errors import UserError


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
