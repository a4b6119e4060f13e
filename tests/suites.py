"""Suites in folders, as the stage `sources` leaves them."""

import json
from collections.abc import Iterable
from pathlib import Path
from shutil import copyfile
from typing import Any

from models.score import asking
from models.score import items as kinds
from models.score import suite as suites

PERPLEXITY = "format: text\nitems: documents.jsonl\nfields: {subject: source}\n"
KNOWN = [*suites.catalogue(), "perplexity"]


def described(folder: Path) -> Path:
    """Put the suite.yaml of the suite of this folder's name into it; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.name == "perplexity":
        (folder / suites.FILE).write_text(PERPLEXITY, encoding="utf-8")
    else:
        copyfile(suites.CATALOGUE / f"{folder.name}.yaml", folder / suites.FILE)
    return folder


def own(folder: Path, description: str, rows: Iterable[Any] = (), file: str = "items.jsonl") -> Path:
    """A suite that says of itself what `description` does; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / suites.FILE).write_text(description, encoding="utf-8")
    (folder / file).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return folder


def file_of(folder: Path) -> Path:
    """The file with the items of a suite that is described in its folder."""
    found = suites.load(folder)
    assert not isinstance(found, suites.HarnessSuite)
    return folder / found.items.file


def tasks(suite: Path, settings: Any, tokenizer: Any) -> dict[str, Any]:
    """The suite as lm-eval's `evaluate` takes it."""
    found = suites.load(suite)
    assert not isinstance(found, suites.HarnessSuite)
    items = kinds.subset(kinds.read(suite), settings.items, settings.items_seed)
    task = asking.task(suite.name, found, items, kinds.shots(suite, found), tokenizer)
    return {"tasks": {suite.name: task}, "groups": {}, "group_map": {}}
