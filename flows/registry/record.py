"""The record of promotions: one MLflow run a decision, each chained to the one before by hash, so that an edited or removed one is found.
What a version got when it was scored again stands there too, as the artifacts of a record that decides nothing.

A record's hash covers its name, tags, params, metrics, start and artifacts, and the hash before it; the registered model carries the newest
one's.
Records are FINISHED runs of `<model>/promotions`; a run that a crash left open is settled by the next writer, see `Registry.settle`.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.host.failures import user_name
from flows.host.masking import masked
from flows.host.tracking import PROMOTIONS, Tracker
from models.core.content import folder_md5
from models.core.errors import StageError
from models.core.files import read_json, write_json, write_lines
from tasks.gate.anchor import Standing
from tasks.gate.verdicts import GateResult

CHAMPION, PREVIOUS = "champion", "previous"
ROLLBACK, REJECTED, ACCEPTED, ANCHORED = "rollback", "rejected", "accepted", "anchor"  # verdicts of people; the gate's: "promote", ...
IDENTITY = "identity"  # of no version: what stages made before their code or packages changed stands for what they would make now
RESCORED = "rescored"  # no decision: the record holds what the version got when it was scored again
CONTENT = ("verdict", "reason", "alias", "version", "was", "previous", "pipeline_run", "by", "artifacts", "sequence", "before")
FILES = {"dvc.lock": "data_md5", "params.yaml": "params_md5", "requirements.lock": "environment_md5"}  # a version's provenance
TEXTS = ("pretrained", "scores")  # tags of a version that a record has the md5 of
VERSION = ("model_md5", "evidence_md5", *FILES.values(), "commit", *TEXTS)  # of the version decided about; older records hold fewer
LATER = ("anchors", "inputs", "accepted")  # the anchors after the decision, what identifies all that it was made from, see `trusted`
OWN = (*CONTENT, *VERSION, *LATER, "record", "kind", "host", "pid")  # what tags a record has, each after "sluice."
TAGS = "its tags"
HEAD = "sluice.record_head"  # tag of the registered model: "sequence:hash" of the newest record


@dataclass(frozen=True)
class Decision:
    """One line of the record: what was decided about a version, and which alias moved ("" for none).

    `was` is the champion until then, which the version was compared with; `previous` who is that from now on; `suites` those that a pinned
    anchor is for; `inputs` the hash of all that the gate decided from, see flows/registry/release.py; of RESCORED the key of the
    evaluation, see flows/registry/rebaseline.py.
    """

    verdict: str
    reason: str
    alias: str
    version: str | None
    was: str | None = None
    previous: str | None = None
    suites: tuple[str, ...] = ()
    inputs: str = ""


@dataclass(frozen=True)
class Chain:
    """The runs on record as they were read, newest first, those that decide nothing among them, and the head that vouches for them."""

    runs: Sequence[Any]
    head: str


@dataclass(frozen=True)
class Finding:
    """Something on the record, or beside it, that no decision explains."""

    what: str
    run_id: str | None = None


@dataclass(frozen=True)
class Known:
    """What identifies a version and all that was registered with it, of VERSION, and who says so.

    `doubt` is why nothing may be taken for what was registered; a version that was never decided on has its tags only, which whoever may
    edit tags can change.
    """

    content: Mapping[str, str]
    by: str
    doubt: str = ""

    @property
    def words(self) -> str:
        """Who says so, and what that is worth."""
        weak = "its tags: nothing was decided about it yet, until then whoever may edit tags can change them unseen"
        return self.doubt or (weak if self.by == TAGS else self.by)


def tags_of(decision: Decision, parent: str | None) -> dict[str, str]:
    """What a record says, as the tags of its run."""
    return {
        "sluice.verdict": decision.verdict,
        "sluice.reason": masked(decision.reason)[:4000],
        "sluice.alias": decision.alias,
        "sluice.version": decision.version or "",
        "sluice.was": decision.was or "",
        "sluice.previous": decision.previous or "",
        "sluice.by": user_name(),
        **({"sluice.pipeline_run": parent} if parent else {}),
        **({"sluice.inputs": decision.inputs} if decision.inputs else {}),
    }


def log_evidence(tracker: Tracker, run_id: str, result: GateResult, items: Mapping[str, Any]) -> None:
    """Log the gate's whole result, the per-item table behind it, and its numbers as metrics."""
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "gate.json", result.model_dump(mode="json"))
        for suite, rows in items.items():
            write_lines(Path(folder) / "items" / f"{suite}.jsonl", rows)
        tracker.client.log_artifacts(run_id, folder)
    for verdict in result.suites:
        facts = verdict.model_dump()
        numbers = {key: value for key, value in facts.items() if isinstance(value, float)}
        drift = {key: value for key, value in (facts["anchor"] or {}).items() if isinstance(value, float)}
        tracker.log_metrics(run_id, {verdict.suite: numbers | ({"anchor": drift} if drift else {})})


def link(tracker: Tracker, run_id: str, chain: Chain) -> str:
    """Give a record its place after those of `chain`; return the new head. Only the holder of the registry's lock may.

    Raises StageError where the head was tampered with: a new record would hide it.
    """
    newest = head(tracker)  # of now: a clone that shares no Prefect server holds another lock
    sequence, _, before = newest.partition(":")
    if wrong := _no_head(Chain(chain.runs, newest)):
        raise StageError(f"registered model {tracker.model}: {wrong}")
    tracker.client.set_tag(run_id, "sluice.artifacts", _artifacts(tracker, run_id))
    own = _number(sequence) + 1
    tracker.client.set_tag(run_id, "sluice.sequence", str(own))
    tracker.client.set_tag(run_id, "sluice.before", before)
    found = digest(tracker.client.get_run(run_id))
    tracker.client.set_tag(run_id, "sluice.record", found)
    return f"{own}:{found}"


def _no_head(chain: Chain) -> str:
    """What is wrong where the head names no record; empty before the first."""
    sequence, _, before = chain.head.partition(":")
    if (_number(sequence) and before) or not (chain.head or any("sluice.record" in run.data.tags for run in chain.runs)):
        return ""
    return f"its tag {HEAD} is {chain.head!r}; 'sluice audit' says what it must be: put it back"


def _number(text: str) -> int:
    """A sequence number; 0 where somebody wrote something else there."""
    return int(text) if text.isdecimal() else 0


def head(tracker: Tracker) -> str:
    """The newest record's "sequence:hash"; empty before the first, and where there is no such model."""
    known = tracker.registered_model()
    return "" if known is None else str(known.tags.get(HEAD, ""))


def set_head(tracker: Tracker, value: str) -> None:
    tracker.client.set_registered_model_tag(tracker.model, HEAD, value)


def digest(run: Any) -> str:
    """The hash of all that a record says; SHA-256 in hex."""
    content = {key: run.data.tags.get(f"sluice.{key}", "") for key in CONTENT}
    content |= {key: run.data.tags[f"sluice.{key}"] for key in (*VERSION, *LATER) if f"sluice.{key}" in run.data.tags}
    whole = {"content": content, "metrics": dict(sorted(run.data.metrics.items())), "params": dict(sorted(run.data.params.items()))}
    whole |= {"name": run.info.run_name, "start": run.info.start_time}
    return hashlib.sha256(json.dumps(whole, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _artifacts(tracker: Tracker, run_id: str) -> str:
    """The md5 of the run's artifacts, names and bytes; empty without any."""
    with tempfile.TemporaryDirectory() as folder:
        return fetched(tracker, run_id, folder)


def fetched(tracker: Tracker, run_id: str, folder: str) -> str:
    """The same, the artifacts fetched into a folder."""
    return folder_md5(tracker.fetch(run_id, "", Path(folder))) if tracker.client.list_artifacts(run_id) else ""


def read(tracker: Tracker) -> Chain:
    """The record as it is now. A run that the head names already is on it, though its writer has not closed it yet."""
    runs, newest = _closed(tracker), head(tracker)
    if newest and not any(map(_named_by(newest), runs)):  # written since, or being written; or it was removed
        named = filter(_named_by(newest), tracker.open_runs(PROMOTIONS))
        runs = list({run.info.run_id: run for run in (*named, *_closed(tracker))}.values())
    runs.sort(key=lambda run: (_number(run.data.tags.get("sluice.sequence", "")), run.info.start_time), reverse=True)
    return Chain(runs, newest)


def _closed(tracker: Tracker) -> list[Any]:
    return tracker.runs(PROMOTIONS, "attributes.status = 'FINISHED'")


def _named_by(newest: str) -> Callable[[Any], bool]:
    hashed = newest.partition(":")[2]
    return lambda run: run.data.tags.get("sluice.record") == hashed


def decides(run: Any) -> bool:
    """Whether a record is a decision, and not evidence alone."""
    return bool(run.data.tags.get("sluice.verdict") != RESCORED)


def rescored(tracker: Tracker, key: str) -> Iterator[Path]:
    """Fetch the evidence of that key that the head vouches for, newest first; a folder lasts until the next is asked for.

    Evidence whose files are not those that were put on record is passed over.
    """
    for run in trusted(read(tracker))[0]:
        tags = run.data.tags
        if (tags.get("sluice.verdict"), tags.get("sluice.inputs")) == (RESCORED, key):
            with tempfile.TemporaryDirectory() as folder:
                if fetched(tracker, run.info.run_id, folder) == tags["sluice.artifacts"]:
                    yield Path(folder) / "evidence"


def decisions(chain: Chain) -> list[Any]:
    """The decisions on record that nobody edited or forged, newest first: what may be acted on."""
    return list(filter(decides, sound(chain)))


def sound(chain: Chain) -> list[Any]:
    """Of these runs those that stand in the chain as they were decided, newest first: none edited, or put there by another hand."""
    found = []
    last, _, expected = chain.head.partition(":")
    place = _number(last) + 1
    for run in chain.runs:
        tags, number = run.data.tags, _number(run.data.tags.get("sluice.sequence", ""))
        in_chain = tags.get("sluice.record") == expected or number < place - 1  # or those between were removed
        if not 0 < number < place or not in_chain:
            continue
        if digest(run) == tags.get("sluice.record"):
            found.append(run)
        place, expected = number, tags.get("sluice.before", "")
    return found


def doubts(chain: Chain) -> set[str]:
    """What the head does not vouch for: "#3", a record that is gone or was edited, and the ids of runs that are no sound record."""
    vouched = sound(chain)
    ids = {run.info.run_id for run in chain.runs if "sluice.record" in run.data.tags} - {run.info.run_id for run in vouched}
    return ids | _places(1, _number(chain.head.partition(":")[0])) - {f"#{run.data.tags['sluice.sequence']}" for run in vouched}


def _places(first: int, last: int) -> set[str]:
    return {f"#{number}" for number in range(first, last + 1)}


def trusted(chain: Chain) -> tuple[list[Any], set[str]]:
    """The records that the head vouches for through all records between, newest first, and what is in doubt.

    Below a record that is gone or was edited nothing is sure: whoever took it away may have written what is there. A person who accepts it,
    on record, passes over it.
    """
    found, accepted, place = list[Any](), set[str](), _number(chain.head.partition(":")[0])
    for run in sound(chain):
        tags, number = run.data.tags, _number(run.data.tags["sluice.sequence"])
        if not accepted >= _places(number + 1, place):
            break
        found.append(run)
        if tags.get("sluice.verdict") == ACCEPTED:  # older ones do not say what
            accepted |= set(tags["sluice.accepted"].split()) if "sluice.accepted" in tags else _places(1, number)
        place = number - 1
    return found, doubts(chain) - accepted


def known(chain: Chain, number: str, tags: Mapping[str, str]) -> Known:
    """What is known of a version: as it was when it was first decided on, by a record that the head vouches for; else by its tags."""
    (runs, doubtful), own = trusted(chain), content_of(tags)
    about = [run.data.tags for run in runs if run.data.tags.get("sluice.version") == number and "sluice.model_md5" in run.data.tags]
    if about:
        recorded = {key: run[f"sluice.{key}"] for run in about for key in VERSION if f"sluice.{key}" in run}  # the first one's word counts
        content = {key: value for key, value in {**own, **recorded}.items() if value}
        return Known(content, f"record {about[-1]['sluice.sequence']}")
    if wrong := _no_head(chain):
        return Known(own, TAGS, f"what was decided about it is not known: the registered model lost its place in the record, {wrong}")
    claimed = {run.info.run_id for run in chain.runs if run.data.tags.get("sluice.version") == number}
    if any(one.startswith("#") for one in doubtful) or doubtful & claimed:
        todo = "'sluice audit' names them, 'sluice audit --accept WHY' puts on record that they are known"
        return Known(own, TAGS, f"what was decided about it is not known, records are missing or were edited: {todo}")
    return Known(own, TAGS)


def content_of(tags: Mapping[str, str]) -> dict[str, str]:
    """What identifies a version, of VERSION, by its own tags."""
    found = {key: tags[f"sluice.{key}"] for key in VERSION if f"sluice.{key}" in tags}
    found |= {key: hashlib.md5(found[key].encode(), usedforsecurity=False).hexdigest() for key in TEXTS if key in found}
    return found | ({"commit": tags["git.commit"]} if tags.get("git.commit") else {})


def anchors_of(run: Any) -> dict[str, Standing] | None:
    """The suites' anchors after a decision, as its record has them; None on a record that is older than anchors."""
    tag = run.data.tags.get("sluice.anchors")
    return None if tag is None else {suite: Standing.model_validate(value) for suite, value in json.loads(tag).items()}


def standings(chain: Chain) -> dict[str, Standing]:
    """Each suite's anchor, by the newest sound record that says; empty before the first champion."""
    return next((found for run in decisions(chain) if (found := anchors_of(run)) is not None), {})


def anchors_tag(standings: Mapping[str, Standing]) -> str:
    """The same as a record has it."""
    return json.dumps({suite: standing.model_dump(mode="json") for suite, standing in sorted(standings.items())})


def champions(newest_first: Sequence[Any]) -> list[str]:
    """The champions that rollbacks walk, oldest first: a promotion adds one, a rollback forgets those after the one it returns to."""
    walked: list[str] = []
    for run in reversed(newest_first):
        tags = run.data.tags
        if tags.get("sluice.alias") != CHAMPION:
            continue
        version, was = tags.get("sluice.version", ""), tags.get("sluice.was", "")
        if tags.get("sluice.verdict") == ROLLBACK:
            while walked and walked[-1] == was:
                walked.pop()
            while version in walked and walked[-1] != version:
                walked.pop()
        elif was and walked[-1:] != [was]:  # moved around the gate
            walked.append(was)
        if walked[-1:] != [version]:
            walked.append(version)
    return walked


def audit(tracker: Tracker, chain: Chain, aliases: Mapping[str, str], versions: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """All that does not fit: records edited, removed or added by another hand, aliases that no record put where they are, and versions
    that are not those decided about. What a person accepted, on record, is no finding any more.

    All was read under the registry's lock; `versions` holds, of each, what VERSION names, as it is stored now.
    """
    runs = list(reversed(chain.runs))
    strangers = [run for run in runs if "sluice.record" not in run.data.tags]
    linked = [run for run in runs if "sluice.record" in run.data.tags]
    found = [
        *(Finding("a record that Sluice did not write: it has no place in the chain", run.info.run_id) for run in strangers),
        *_broken_links(tracker, linked, chain.head),
        *_unexplained_moves(linked, aliases),
        *_changed_versions(linked, versions),
    ]
    known = _accepted(tracker, sound(chain))
    return [finding for finding in found if [finding.what, finding.run_id] not in known]


def log_json(tracker: Tracker, run_id: str, name: str, value: Any) -> None:
    """Log a value as an artifact of its record, before that is linked: its hash covers it."""
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / name, value)
        tracker.client.log_artifacts(run_id, folder)


def _accepted(tracker: Tracker, runs: Sequence[Any]) -> list[list[str | None]]:
    found: list[list[str | None]] = []
    for run in runs:
        if run.data.tags.get("sluice.verdict") == ACCEPTED:
            with tempfile.TemporaryDirectory() as folder:
                found += read_json(tracker.fetch(run.info.run_id, "accepted.json", Path(folder)), [])
    return found


def _changed_versions(linked: Sequence[Any], versions: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """Versions whose content, by the first record about each, is not what is stored."""
    recorded: dict[str, dict[str, str]] = {}
    for run in linked:
        tags = run.data.tags
        if "sluice.model_md5" in tags:
            said = {key: tags[f"sluice.{key}"] for key in VERSION if f"sluice.{key}" in tags}
            number = tags.get("sluice.version", "")
            recorded[number] = {**said, **recorded.get(number, {})}
    files = {key: name for name, key in FILES.items()}
    for number in recorded.keys() & versions.keys():
        for key, then in recorded[number].items():
            now, what = versions[number].get(key, ""), files.get(key, key.removesuffix("_md5"))
            if now != then:
                has = "is" if key == "commit" else "has md5"
                yield Finding(f"the {what} of version {number} {has} {now or 'none'}, decided on was {then or 'none'}: it was changed")


def _broken_links(tracker: Tracker, linked: Sequence[Any], newest: str) -> Iterator[Finding]:
    sequence, before = 0, ""
    for run in linked:
        tags, number = run.data.tags, _number(run.data.tags.get("sluice.sequence", ""))
        name = f"record {number} ({tags.get('sluice.verdict', '')} {tags.get('sluice.version', '')})".replace(" )", ")")
        if number > sequence + 1:
            yield Finding(f"{_numbers(sequence + 1, number - 1)} missing from the record")
        elif number <= sequence:
            yield Finding(f"{name} stands twice on the record", run.info.run_id)
        elif tags.get("sluice.before", "") != before:
            yield Finding(f"{name} does not follow the record before it", run.info.run_id)
        if digest(run) != tags["sluice.record"]:
            yield Finding(f"{name} was edited: its name, tags, numbers or start are not those that were decided on", run.info.run_id)
        elif _artifacts(tracker, run.info.run_id) != tags.get("sluice.artifacts", ""):
            yield Finding(f"{name} was edited: its evidence is not what was decided on", run.info.run_id)
        foreign = sorted(key for key in tags if _foreign(key))
        if foreign:
            yield Finding(f"{name} was added to: {', '.join(foreign)}", run.info.run_id)
        sequence, before = max(sequence, number), tags["sluice.record"]
    last, _, hashed = newest.partition(":")
    if _number(last) > sequence:
        yield Finding(f"{_numbers(sequence + 1, _number(last))} missing from the record")
    elif (_number(last), hashed) != (sequence, before):
        yield Finding(f"the registered model's tag {HEAD} is {newest!r}, must name the newest record, {sequence}:{before}")


def _foreign(tag: str) -> bool:
    """Whether neither Sluice nor MLflow gives a record such a tag; a note is what a person wrote on MLflow's page."""
    if tag.startswith("mlflow."):
        return tag == "mlflow.note.content"
    return tag.removeprefix("sluice.") not in OWN


def _numbers(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"


def _unexplained_moves(linked: Sequence[Any], aliases: Mapping[str, str]) -> Iterator[Finding]:
    """Replay the record: where each move began, and where the aliases must stand now."""
    champion, previous = "", ""
    for run in linked:
        tags = run.data.tags
        if tags.get("sluice.verdict") == ACCEPTED:
            champion, previous = tags.get("sluice.version", ""), tags.get("sluice.previous", "")
        if tags.get("sluice.alias") != CHAMPION:
            continue
        began = tags.get("sluice.was", "")
        if began != champion:
            moved = f"{CHAMPION} went from version {champion or 'none'} to {began or 'none'} on no record"
            yield Finding(f"before record {tags.get('sluice.sequence', '?')}, {moved}", run.info.run_id)
        champion, previous = tags.get("sluice.version", ""), tags.get("sluice.previous", "")
    for alias, recorded in ((CHAMPION, champion), (PREVIOUS, previous)):
        if aliases.get(alias, "") != recorded:
            yield Finding(
                f"alias {alias} is at version {aliases.get(alias) or 'none'}, on record at {recorded or 'none'}: moved around the gate"
            )
