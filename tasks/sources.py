"""Sources stage: the raw records and the benchmark suites, generated or taken from data/raw. Validation reads them next."""

import os
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Annotated, Literal

from pydantic import Field

from models.core.errors import UserError
from models.core.files import write_lines
from models.core.given import read_lines, require_file, require_pulled
from models.data.kinds import FIELDS
from models.score import suite
from models.world.world import SUITES, Size, generate
from tasks.stage import Inputs, Metrics, Outputs, Params, Record, Seed

LOADS = ()  # nothing heavy


class World(Size):
    """The generated micro-world, so large."""

    take: Literal["world"]


class Files(Record):
    """What data/raw holds."""

    take: Literal["files"]


class SourcesParams(Params):
    seed: Seed = Field(description="the world follows from it")
    suites: tuple[str, ...] = Field(min_length=1, description="the benchmark suites, by name")
    records: Annotated[World | Files, Field(discriminator="take", description="the generated micro-world, or what data/raw holds")]


class SourcesInputs(Inputs):
    raw: Path


class SourcesOutputs(Outputs):
    records: Path
    suites: Path


class SourcesMetrics(Metrics):
    records: int = Field(description="records of all kinds")
    documents: int
    instructions: int
    preferences: int
    prompts: int
    suite_items: dict[str, int] = Field(description="items by suite")


def _copy_records(raw: Path, records: Path) -> dict[str, int]:
    """Put each kind's files together: the one that was made by hand, then those of imports by name. Returns the records of each kind."""
    records.mkdir(parents=True)
    counts = {}
    for kind, fields in FIELDS.items():
        files = _files(raw, kind)
        counts[kind] = sum(_count(path, kind, fields) for path in files)
        if len(files) == 1:
            copyfile(files[0], records / f"{kind}.jsonl")
        elif files:  # where there is none, prepare says so where a stage reads it
            _join(files, records / f"{kind}.jsonl")
    if not any(counts.values()):
        raise UserError(
            f"{raw} holds no records: one of {', '.join(f'{kind}.jsonl' for kind in FIELDS)} must be there, or what "
            "'sluice import' brings; see data/README.md"
        )
    return counts


def record_files(raw: Path, kind: str) -> list[Path]:
    """KIND.jsonl, made by hand, and KIND/*.jsonl, a file an import, by name."""
    by_hand = raw / f"{kind}.jsonl"
    return [by_hand] * os.path.lexists(by_hand) + sorted(path for path in (raw / kind).glob("*.jsonl") if not path.name.startswith("."))


def _files(raw: Path, kind: str) -> list[Path]:
    """KIND.jsonl and KIND/*.jsonl, as far as they are there. Raises UserError for what is there as DVC's pointer only, or packed."""
    folder = raw / kind
    for pointer in (*raw.glob(f"{kind}.jsonl.dvc"), *raw.glob(f"{kind}.dvc"), *sorted(folder.glob("*.jsonl.dvc"))):
        require_pulled(pointer.with_suffix(""))
    for packed in sorted((*folder.glob("*.jsonl.gz"), *folder.glob("*.jsonl.zst"))):
        raise UserError(f"{packed} is packed, and only *.jsonl is read there: unpack it, or move it elsewhere and import it")
    return record_files(raw, kind)


def _count(path: Path, kind: str, fields: tuple[str, ...]) -> int:
    """How many records a file has. Raises UserError where one lacks a field, or there is none."""
    count = 0
    for count, record in enumerate(read_lines(path), 1):
        if missing := sorted(set(fields) - set(record)):
            raise UserError(
                f"{path}, record {count}: {', '.join(missing)} is missing; a record of {kind} has "
                f"{', '.join(sorted(fields))}: mend or remove it"
            )
    if not count:
        raise UserError(f"{path} is empty: at least one record must be there; see data/README.md")
    return count


def _join(files: list[Path], target: Path) -> None:
    """Write the files one after another, each from its first line to a line's end."""
    with target.open("wb") as out:
        for path in files:
            last = b"\n"
            with path.open("rb") as file:
                for block in iter(partial(file.read, 1 << 20), b""):
                    out.write(block)
                    last = block[-1:]
            out.write(b"" if last == b"\n" else b"\n")


def _copy_suites(raw: Path, names: tuple[str, ...], suites: Path) -> dict[str, int]:
    from models.score import harness  # lm-eval loads here

    counts = {}
    for name in names:
        folder = raw / "suites" / name
        files = _suite_files(name, folder)
        found = harness.read(folder)
        counts[name] = len(found)
        for path in files:
            copy = suites / name / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copyfile(path, copy)
        harness.write_listing(suites / name, found)
    return counts


def _suite_files(name: str, folder: Path) -> list[Path]:
    """The files in a suite's folder. Raises UserError where there is none, or one that cannot be copied: a pipe, a link to nothing."""
    must = f"it must be a folder with the files of suite {name}; add them ('dvc pull'), or change the key 'suites'"
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise UserError(f"{folder} is a file or a link to nothing: {must}")
    within = sorted(folder.rglob("*"))
    for path in (folder, *within):
        if not os.path.isdir(path):
            require_file(path, must)
        if not os.access(path, os.R_OK):
            raise UserError(f"{path} cannot be read: {must}; see its owner and mode")
    files = [path for path in within if path.is_file()]
    if not files:
        raise UserError(f"{folder} is empty: {must}")
    return files


def sources(params: SourcesParams, inputs: SourcesInputs, outputs: SourcesOutputs) -> SourcesMetrics:
    if isinstance(params.records, Files):
        counts, suite_items = _copy_records(inputs.raw, outputs.records), {}
        brought: tuple[str, ...] = params.suites
    else:
        made = tuple(name for name in params.suites if name in SUITES)
        records, suites = generate(params.seed, params.records, made)
        counts = {kind: write_lines(outputs.records / f"{kind}.jsonl", rows) for kind, rows in records.items()}
        suite_items = {name: write_lines(outputs.suites / name / "items.jsonl", rows) for name, rows in suites.items()}
        for name in made:
            copyfile(suite.CATALOGUE / f"{name}.yaml", outputs.suites / name / suite.FILE)
        brought = tuple(name for name in params.suites if name not in made)
    suite_items |= _copy_suites(inputs.raw, brought, outputs.suites)
    return SourcesMetrics(records=sum(counts.values()), suite_items=suite_items, **counts)
