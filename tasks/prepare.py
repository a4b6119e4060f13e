"""Prepare stage: normalise, decontaminate, redact, remove duplicates, split; every drop is written down with its reason."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from models.core.errors import StageError, UserError
from models.core.files import write_json, write_lines
from models.core.given import read_lines
from models.data import decontaminate, kinds, portrait
from models.data.cleaning import normalise, without_spacing
from models.data.dedupe import Nearness, first_equal, first_near
from models.data.redact import redact
from tasks.stage import Inputs, Metrics, Outputs, Params, Record, Seed

LOADS = ("rensa",)

Rows = list[dict[str, Any]]
SPLITS = ("train", "held_out")


class Characters(Record):
    min: int = Field(ge=1, description="characters of all texts of a record together; shorter ones are dropped")
    max: int = Field(ge=1, description="longer ones are dropped, never cut")

    @model_validator(mode="after")
    def bounds_are_in_order(self) -> "Characters":
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, must not be above max, {self.max}")
        return self


class Lengths(Record):
    documents: Characters | None = None  # of a kind that is not prepared
    instructions: Characters | None = None
    preferences: Characters | None = None
    prompts: Characters | None = None


class NearDuplicates(Record):
    shingle_words: int = Field(ge=1, le=20, description="words in a row that are compared as one")
    min_words: int = Field(ge=1, description="shorter records are compared for equality only")
    threshold: float = Field(ge=0.7, le=1, description="least Jaccard similarity of the shingles of near-duplicates")


class Decontamination(Record):
    ngram_words: int = Field(ge=5, le=50, description="words in a row shared with a suite item that make a record contaminated")
    min_words: int = Field(ge=3, description="an item with fewer words than ngram_words is looked for as a whole, if it has this many")


class HeldOutShare(Record):
    documents: float | None = Field(default=None, gt=0, le=0.5, description="share of the documents that no training stage sees")
    conversations: float | None = Field(
        default=None, gt=0, le=0.5, description="share of the questions that no training stage sees, in whichever kind they come"
    )


class PrepareParams(Params):
    seed: Seed = Field(description="decides, with a document's id or a conversation's question, which records are held out")
    characters: Lengths
    near_duplicates: NearDuplicates
    decontamination: Decontamination
    phone_regions: tuple[str, ...] = Field(
        description="countries (US, GB, ...) whose national phone numbers are redacted; + numbers always are"
    )
    held_out_share: HeldOutShare


class PrepareInputs(Inputs):
    records: Path
    suites: Path
    validation: Path


class PrepareOutputs(Outputs):
    documents: Path | None = None  # a kind that no stage of the pipeline reads may be missing
    instructions: Path | None = None
    preferences: Path | None = None
    prompts: Path | None = None
    dropped: Path
    portrait: Path


class PrepareMetrics(Metrics):
    kept: int = Field(description="records of all kinds that training may see or hold out")
    read: dict[str, int] = Field(description="records read, by kind: kept and dropped together")
    kept_by_kind: dict[str, int]
    held_out: dict[str, int] = Field(description="kept records that are held out, by kind")
    dropped: dict[str, dict[str, int]] = Field(description="records dropped, by kind and reason")
    redacted: dict[str, int] = Field(description="pieces of personal data replaced, by what they were")
    suite_items: int = Field(description="items that the records were compared with")
    contaminated_left: int = Field(description="written records that hold an item, counted anew from the written files: always 0")


def prepare(params: PrepareParams, inputs: PrepareInputs, outputs: PrepareOutputs) -> PrepareMetrics:
    """Write what may be trained on, in two splits a kind, one line for each record that may not, and what all that looks like.

    Prepared are the kinds that have an output. Raises UserError where one of them is not among the records, StageError where a kind has no
    two records left, or a written file still holds a suite item.
    """
    wanted = _wanted(params, inputs.records, outputs)
    benchmark = _benchmark(params, inputs.suites)
    read, kept, held_out, dropped, redacted = dict[str, int](), dict[str, int](), dict[str, int](), Rows(), Counter[str]()
    portraits, examples = dict[str, Any](), portrait.Examples(partial(_redacted, regions=params.phone_regions, counts=Counter()))
    for kind in wanted:
        records = list(read_lines(inputs.records / f"{kind}.jsonl"))
        rows, lost = _clean(kind, records, params, benchmark, redacted, examples)
        splits = _split(kind, rows, params)
        for name, part in splits.items():
            write_lines(getattr(outputs, kind) / f"{name}.jsonl", part)
        portraits[kind] = portrait.of_kind(kind, splits)
        dropped += lost
        read[kind], kept[kind], held_out[kind] = len(records), len(rows), len(splits["held_out"])
    write_lines(outputs.dropped, dropped)
    write_json(outputs.portrait, {"kinds": portraits, "dropped": examples.found})
    return PrepareMetrics(
        kept=sum(kept.values()),
        read=read,
        kept_by_kind=kept,
        held_out=held_out,
        dropped=_tally(dropped),
        redacted=dict(sorted(redacted.items())),
        suite_items=benchmark.items,
        contaminated_left=_contaminated_left(params, inputs.suites, outputs, wanted),
    )


def _wanted(params: PrepareParams, records: Path, outputs: PrepareOutputs) -> list[str]:
    """The kinds that are prepared; others that are there are told of."""
    wanted = [kind for kind in kinds.FIELDS if getattr(outputs, kind) is not None]
    for kind in kinds.FIELDS:
        held = (records / f"{kind}.jsonl").is_file()
        if held and kind not in wanted:
            print(f"prepare: nobody reads the {kind} that are there: dvc.yaml has no artifacts/prepared/{kind}", flush=True)
        if kind in wanted and not held:
            raise UserError(
                f"there are no {kind}, which dvc.yaml has prepared as artifacts/prepared/{kind}: 'sluice import' brings them, "
                "see data/README.md, or take that path and what reads it out of dvc.yaml"
            )
        if kind in wanted and getattr(params.characters, kind) is None:
            raise UserError(f"prepare.characters.{kind} is missing in params.yaml: how long may {kind} be?")
        if kind in wanted and _share(kind, params) is None:
            raise UserError(f"prepare.held_out_share.{_sharing(kind)} is missing in params.yaml: which share of {kind} is held out?")
    return wanted


def _benchmark(params: PrepareParams, folder: Path) -> decontaminate.Benchmark:
    return decontaminate.Benchmark(decontaminate.suite_texts(folder), params.decontamination.ngram_words, params.decontamination.min_words)


def _clean(
    kind: str,
    records: Rows,
    params: PrepareParams,
    benchmark: decontaminate.Benchmark,
    redacted: Counter[str],
    examples: portrait.Examples,
) -> tuple[Rows, Rows]:
    """Return the records that stay, cleaned, and a line for each that does not: {kind, id, reason} and `by`, what it is too near to."""
    kept, dropped = Rows(), Rows()

    def drop(record: Mapping[str, Any], name: str, reason: str, by: str = "") -> None:
        dropped.append({"kind": kind, "id": name, "reason": reason, **({"by": by} if by else {})})
        examples.add(kind, dropped[-1], record)

    for number, record in enumerate(records, 1):
        name = kinds.name_of(record, number)
        if kinds.is_broken(kind, record):
            drop(record, name, "broken")
            continue
        record = kinds.rewritten(kind, kinds.without_empty_system(kind, record), normalise)
        texts = [text for _, text in kinds.texts(kind, record)]
        if reason := _unusable(kind, record, texts, getattr(params.characters, kind)):
            drop(record, name, reason)
        elif items := benchmark.hits(texts):
            drop(record, name, "contaminated", min(items))
        else:
            counts = Counter[str]()
            record = kinds.rewritten(kind, record, partial(_redacted, regions=params.phone_regions, counts=counts))
            if _is_without_signal(kind, record):
                drop(record, name, "same-answers")
                continue
            redacted += counts
            kept.append(record)
    return _without_repeats(kind, kept, params.near_duplicates, drop), dropped


def _unusable(kind: str, record: Mapping[str, Any], texts: Sequence[str], characters: Characters) -> str | None:
    """Why nothing can be learned from the record, or None."""
    if not all(text.strip() for text in texts):
        return "empty"
    if sum(map(len, texts)) < characters.min:
        return "too-short"
    if sum(map(len, texts)) > characters.max:
        return "too-long"
    return "same-answers" if _is_without_signal(kind, record) else None


def _is_without_signal(kind: str, record: Mapping[str, Any]) -> bool:
    """Whether both answers of a pair are the same but for spacing: their loss stays ln 2."""
    if kind != "preferences":
        return False
    chosen, rejected = ([(said["role"], without_spacing(said["content"])) for said in record[side]] for side in ("chosen", "rejected"))
    return chosen == rejected


def _redacted(text: str, regions: Sequence[str], counts: Counter[str]) -> str:
    return redact(text, regions, counts)


def _without_repeats(kind: str, records: Rows, near: NearDuplicates, drop: Callable[[Mapping[str, Any], str, str, str], None]) -> Rows:
    """Return the records without equal and nearly equal later ones, which `drop` takes."""
    nearness = Nearness(near.shingle_words, near.min_words, near.threshold)
    for reason, repeats in (("duplicate", first_equal), ("near-duplicate", lambda fields: first_near(fields, nearness))):
        found = repeats([list(kinds.texts(kind, record)) for record in records])
        for later, earlier in sorted(found.items()):
            drop(records[later], records[later]["id"], reason, records[earlier]["id"])
        records = [record for place, record in enumerate(records) if place not in found]
    return records


def _split(kind: str, records: Rows, params: PrepareParams) -> dict[str, Rows]:
    """Return the two splits. A record's own hash decides, so that new records move none. Of a few records as many are held out as later
    stages need: one, and two prompts, over which rlhf measures a gain with its error.

    Conversations go by what the user first asks, the same way in every kind: what is held out of one kind is trained on in none. Raises
    StageError, before anything is trained, where too few are left on either side.
    """
    least = 2 if kind == "prompts" else 1
    places = [_place(record, params.seed) for record in records]
    limit = max([_share(kind, params) or 0.0, *sorted(places)[:least]])
    held_out = [place <= limit for place in places]
    if sum(held_out) < least or all(held_out):
        raise StageError(
            f"{kind}: {len(records)} of the records can be used, {sum(held_out)} of them are held out; must be {least} at least, "
            "and one more to train on: bring more, of other questions; see the reasons in dropped.jsonl or its metrics"
        )
    return {
        "train": [record for record, out in zip(records, held_out, strict=True) if not out],
        "held_out": [record for record, out in zip(records, held_out, strict=True) if out],
    }


def _sharing(kind: str) -> str:
    return "documents" if kind == "documents" else "conversations"


def _share(kind: str, params: PrepareParams) -> float | None:
    share: float | None = getattr(params.held_out_share, _sharing(kind))
    return share


def _place(record: Mapping[str, Any], seed: int) -> float:
    """A number in 0-1 that follows from the seed and a document's id or a conversation's first question."""
    messages = record.get("messages") or record.get("prompt") or ()
    key = next((message["content"] for message in messages if message["role"] == "user"), record["id"])
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:8]) / 2**64


def _tally(dropped: Rows) -> dict[str, dict[str, int]]:
    """Count the dropped records by kind and reason."""
    counts = Counter((drop["kind"], drop["reason"]) for drop in dropped)
    return {kind: {reason: count for (of, reason), count in sorted(counts.items()) if of == kind} for kind in kinds.FIELDS}


def _contaminated_left(params: PrepareParams, folder: Path, outputs: PrepareOutputs, wanted: Sequence[str]) -> int:
    """Compare what was written with the items once more, from the files; return 0 or raise StageError naming a record and an item."""
    benchmark = _benchmark(params, folder)
    for kind, split in product(wanted, SPLITS):
        for record in read_lines(getattr(outputs, kind) / f"{split}.jsonl"):
            if items := benchmark.hits([text for _, text in kinds.texts(kind, record)]):
                raise StageError(f"{kind}, {record['id']}: holds suite item {min(items)} after decontamination, must hold none")
    return 0
