"""Sources stage: the raw records and the benchmark suites, generated or taken from data/raw. Validation reads them next."""

import os
from pathlib import Path
from shutil import copyfile
from typing import Annotated, Literal

from pydantic import Field

from models.core.errors import UserError
from models.core.files import write_lines
from models.core.given import read_lines, require_file
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
    records.mkdir(parents=True)
    counts = {}
    for kind, fields in FIELDS.items():
        path = raw / f"{kind}.jsonl"
        counts[kind] = 0
        if not os.path.lexists(path):  # prepare says so where a stage reads it
            if path.with_name(f"{path.name}.dvc").exists():
                raise UserError(f"{path} is missing, and {path.name}.dvc says that it must be there: 'dvc pull' brings it")
            continue
        for record in read_lines(path):
            counts[kind] += 1
            if missing := sorted(set(fields) - set(record)):
                raise UserError(
                    f"{path}, record {counts[kind]}: {', '.join(missing)} is missing; a record of {kind} has "
                    f"{', '.join(sorted(fields))}: mend or remove it"
                )
        if not counts[kind]:
            raise UserError(f"{path} is empty: at least one record must be there; see data/README.md")
        copyfile(path, records / path.name)
    if not any(counts.values()):
        raise UserError(f"{raw} holds no records: one of {', '.join(f'{kind}.jsonl' for kind in FIELDS)} must be there; see data/README.md")
    return counts


def _copy_suites(raw: Path, names: tuple[str, ...], suites: Path) -> dict[str, int]:
    from models.score import harness  # lm-eval loads here

    counts = {}
    for name in names:
        folder = raw / "suites" / name
        held = _suite_files(name, folder)
        found = harness.read(folder)
        counts[name] = len(found)
        for path in held:
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
    held = sorted(folder.rglob("*"))
    for path in (folder, *held):
        if not os.path.isdir(path):
            require_file(path, must)
        if not os.access(path, os.R_OK):
            raise UserError(f"{path} cannot be read: {must}; see its owner and mode")
    files = [path for path in held if path.is_file()]
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
