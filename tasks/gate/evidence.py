"""What the gate knows of one model on one suite: the files of a benchmark, read and checked. A broken file is evidence too, of nothing."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from models.core.errors import UserError
from models.core.files import read_json
from models.core.given import read_lines
from models.core.sets import OfSet
from tasks.gate.health import health_sheet
from tasks.gate.verdicts import Evidence

IDENTITY = (  # equal, or two scores are not comparable
    "suite_md5",
    "harness",
    "scoring",
    "of_set",
    "template_md5",
    "chat",
    "dtype",
    "batch_size",
    "shots",
    "seed",
    "max_new_tokens",
    "sampling",
    "limits",
)
OF_ANSWERS = ("answer", "predicted", "log_likelihoods")  # what a metric of a whole set needs of an item's record


class Item(BaseModel):
    """What every per-item record holds, whatever its suite adds."""

    id: str
    subject: str
    score: float = Field(strict=True, ge=0, le=1, allow_inf_nan=False)
    flags: list[str]
    response: str = ""
    predicted: int | None = Field(default=None, ge=0)
    answer: int | None = Field(default=None, ge=0)
    log_likelihoods: list[float | None] | None = None


def load_evidence(folder: Path, contamination: Path | None, model_md5: str | None = None) -> Evidence:
    """What a benchmark folder holds, and which of its items leaked: those that the file `contamination` lists; None where the caller knows.

    `model_md5` names the model that it must be of; None where any may be. Files that are missing, cut, or contradict themselves or their
    model make evidence that says so in `unreadable`, and holds no score. So does a list of leaked items that is not there: no list is not
    an empty one.
    """
    try:
        facts = read_json(folder / "evidence.json", None)
        if not isinstance(facts, dict) or not isinstance(facts.get("chance"), int | float):
            raise UserError("evidence.json is missing or cut off")
        if model_md5 is not None and facts.get("model_md5") != model_md5:
            raise UserError(f"scores are those of another model (md5 {facts.get('model_md5')}, must be {model_md5})")
        items = list(read_lines(folder / "items.jsonl"))
        of_set = _of_set(facts, items)
        if facts.get("available", True):
            _check(items, facts.get("items"))
        leaked = {} if contamination is None else leaks(contamination)
    except UserError as error:
        return unreadable(str(error).replace(f"{folder}/", ""))
    return Evidence(
        scores={item["id"]: float(item["score"]) for item in items} if facts.get("available", True) else None,
        chance=facts["chance"],
        target=facts.get("target"),
        of_set=of_set,
        answers={} if of_set is None else {item["id"]: {key: item.get(key) for key in OF_ANSWERS} for item in items},
        identity=identity(facts),
        subjects={item["id"]: item["subject"] for item in items},
        health=health_sheet(items),
        contaminated=leaked,
    )


def _of_set(facts: Mapping[str, Any], items: Iterable[Mapping[str, Any]]) -> OfSet | None:
    """The suite's metric, where it is one of the whole set. Raises UserError where the records do not hold what it needs."""
    if facts.get("of_set") is None:
        return None
    try:
        of_set = OfSet.model_validate(facts["of_set"])
    except ValidationError:
        raise UserError(f"evidence.json names no metric of a set: {str(facts['of_set'])[:60]}") from None
    for item in items:
        if not isinstance(item.get("answer"), int) or not 0 <= item["answer"] < of_set.classes:
            raise UserError(f"items.jsonl: item {item.get('id')} does not say which class is right, which metric {of_set.metric} needs")
    return of_set


def leaks(listing: Path) -> dict[str, list[str]]:
    """Where each leaked item stands in training text, by id. Raises UserError where there is no such list, or it is none."""
    if not listing.is_file():
        raise UserError(f"which of its items training text holds is not known: {listing.parent.name}/{listing.name} is missing")
    try:
        return {str(leak["id"]): [str(place) for place in leak["where"]] for leak in read_lines(listing)}
    except (KeyError, TypeError):
        raise UserError(f"{listing.parent.name}/{listing.name} is no list of leaked items: each line must be {{id, where}}") from None


def unreadable(why: str) -> Evidence:
    """Evidence that says nothing but why."""
    return Evidence(scores={}, chance=0.0, identity={}, unreadable=why)


def identity(facts: Mapping[str, Any]) -> dict[str, str | int | float | None]:
    """What must be equal for two scores to be comparable, of what `evidence.json` says."""
    return {key: value if isinstance(value := facts.get(key), str | int | float | None) else json.dumps(value) for key in IDENTITY}


def _check(items: Iterable[Mapping[str, Any]], count: int | None) -> None:
    """Raise UserError for records that are none, that come twice, or whose score is not what their answer earned."""
    known: set[str] = set()
    for number, record in enumerate(items, 1):
        try:
            item = Item.model_validate(record)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            raise UserError(f"record {number} of items.jsonl: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        if item.id in known:
            raise UserError(f"record {number} of items.jsonl: {item.id} comes twice")
        known.add(item.id)
        if item.answer is not None and item.score != (item.predicted == item.answer):
            raise UserError(f"record {number} of items.jsonl: {item.id} has score {item.score:g}, its answer earns another")
    if count is not None and len(known) != count:
        raise UserError(f"items.jsonl holds {len(known)} records, evidence.json says {count}")
