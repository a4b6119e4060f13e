"""What a stage made, saved beside its work until DVC has it on record.

DVC hashes what a stage published, for minutes where it is gigabytes. A process that is killed meanwhile leaves no entry in dvc.lock: DVC
would delete all of it and train again. Hard links keep it: they take no room, and the next run of the same execution puts them in place.
"""

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.core.files import read_json, write_json

NAME, RESULTS = "finished", "results.json"


def save(folder: Path, outputs: Mapping[str, Path], results: Mapping[str, Any]) -> None:
    """Save a stage's outputs, by field, and its results in its work folder: whole or not at all. Nothing where files cannot be linked."""
    draft = folder / f"{NAME}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    with contextlib.suppress(OSError):  # a file system without links: then a kill costs what it did
        draft.mkdir(parents=True)
        for field, path in outputs.items():
            _link(path, draft / field)
        write_json(draft / RESULTS, results)
        draft.rename(folder / NAME)


def load(folder: Path, outputs: Mapping[str, Path]) -> dict[str, Any] | None:
    """Put what is saved of a stage at these paths and return its results; None where nothing is."""
    saved = folder / NAME
    results: dict[str, Any] | None = read_json(saved / RESULTS, None)
    if results is None or not all((saved / field).exists() for field in outputs):
        return None
    for field, path in outputs.items():
        _link(saved / field, path)
    return results


def is_saved(folder: Path) -> bool:
    return (folder / NAME).exists()


def clear(folder: Path, keep: bool) -> None:
    """Delete the work of a stage that has ended, under this and other signatures; what is saved too, unless it is to be kept."""
    for path in (*folder.parent.iterdir(), *folder.iterdir()) if folder.is_dir() else ():
        if path != folder and not (keep and path == folder / NAME):
            shutil.rmtree(path, ignore_errors=True)


def drop(folder: Path) -> None:
    """Save nothing any more."""
    shutil.rmtree(folder / NAME, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file)
    else:
        _link_file(source, target)


def _link_file(source: str | Path, target: str | Path) -> None:
    """Link a file once its bytes are on the disk: the power may fail as well."""
    with open(source, "rb") as file:
        os.fsync(file.fileno())
    os.link(source, target)
