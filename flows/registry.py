"""The model registry: versions keyed by content, aliases moved only where the gate saw them, every decision on record."""

import contextlib
import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from flows import lease, record, services, tracking
from flows.evidence import load_evidence, unreadable
from flows.record import CHAMPION, PREVIOUS, REJECTED, ROLLBACK, Chain, Decision, Known
from flows.tracking import PIPELINE, PROMOTIONS, Tracker, all_pages, is_dead, is_mine
from flows.workspace import locked
from models.errors import Refused, StageError, UserError
from models.records import folder_md5, read_lines
from tasks import anchor
from tasks.anchor import Standing
from tasks.gate import Evidence, GateResult

UNHEARD_S = 3600.0  # no decision takes an hour to put on record
SHOWN = 20  # versions in a message
SERVING = ("mlflow", "torch", "transformers", "accelerate")


class Registry:
    """The versions of one model. Every change is made under one lock and can be repeated."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker, self.name = tracker, tracker.model
        self.lock_file = tracker.workspace.lock_file("registry")

    @property
    def client(self) -> Any:
        return self.tracker.client

    def version(self, number: str) -> Any:
        """That version, by number or alias. Raises UserError where there is none."""
        from mlflow.exceptions import MlflowException

        aliases = self.aliases()
        try:
            return self.client.get_model_version(self.name, aliases.get(number, number.removeprefix("v")))
        except MlflowException:
            found = self.versions()
            known = ", ".join(str(version.version) for version in found[:SHOWN]) or "none yet: 'sluice run' registers one"
            known += f" and {len(found) - SHOWN} older ones" if len(found) > SHOWN else ""
            named = f"; aliases: {', '.join(sorted(aliases))}" if aliases else ""
            raise UserError(f"{self.name} has no version or alias {number!r}; registered: {known}{named}") from None

    def named(self, name: str, which: str) -> Any:
        """That version, by number or alias, of any registered model. Raises UserError where there is none."""
        from mlflow.exceptions import MlflowException

        try:
            by_number = which.isdecimal()
            return (self.client.get_model_version if by_number else self.client.get_model_version_by_alias)(name, which)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise self.tracker.unavailable(error) from None
            raise UserError(f"the registry has no version or alias {which!r} of {name}; 'sluice status' shows what there is") from None

    def versions(self) -> Sequence[Any]:
        """All versions, newest first."""
        filters, order = f"name = '{self.name}'", ["version_number ASC"]
        found = all_pages(
            lambda token: self.client.search_model_versions(filters, max_results=tracking.PAGE, order_by=order, page_token=token)
        )
        return sorted(found, key=lambda version: int(version.version), reverse=True)

    def at(self, alias: str) -> Any | None:
        """The version that the alias points at, or None."""
        number = self.aliases().get(alias)
        return None if number is None else self.client.get_model_version(self.name, number)

    def aliases(self) -> dict[str, str]:
        """Version number by alias."""
        known = self.tracker.registered_model()
        return {} if known is None else {alias: str(number) for alias, number in known.aliases.items()}

    def find(self, model_md5: str) -> Any | None:
        """The version with that content, or None."""
        return next((version for version in self.versions() if version.tags.get("sluice.model_md5") == model_md5), None)

    def register(
        self,
        folder: Path,
        evidence: Mapping[str, Path],
        contamination: Path,
        provenance: Sequence[Path],
        parent: str | None,
        tags: Mapping[str, str],
    ) -> Any:
        """The version that holds exactly this folder: found by its md5, else logged with its evidence and provenance, and created.

        Raises StageError where the evidence cannot be read, or is another model's.
        """
        model_md5 = folder_md5(folder)
        found = {suite: load_evidence(path, contamination / f"{suite}.jsonl", model_md5) for suite, path in evidence.items()}
        for suite, shown in found.items():
            if shown.unreadable:
                raise StageError(f"{evidence[suite]}: {shown.unreadable}; delete the folder, then 'sluice run' restores or repeats it")
        with locked(self.lock_file):
            known = self.find(model_md5)
            if known is not None:
                return known
            run_id = self.tracker.start(PIPELINE, "register", tags, parent)
            try:
                logged = self._log_model(folder, run_id)
                for suite, path in evidence.items():
                    self.client.log_artifacts(run_id, str(path), f"evidence/{suite}")
                self.client.log_artifacts(run_id, str(contamination), "contamination")
                for file in provenance:
                    self.client.log_artifact(run_id, str(file), "provenance")
                own = {
                    "sluice.model_md5": model_md5,
                    "sluice.evidence_md5": self._evidence_md5(run_id),
                    "sluice.scores": json.dumps({suite: score(shown) for suite, shown in found.items()}),
                }
                with self._lease():  # an upload may be long, and others wait: only the last look and the version itself are alone
                    version = self.find(model_md5) or self._create_version(logged, run_id, {**tags, **own})
            except BaseException as error:
                self.tracker.end(run_id, "FAILED", str(error))
                raise
            self.tracker.end(run_id, "FINISHED")
            return version

    def _log_model(self, folder: Path, run_id: str) -> Any:
        import mlflow

        mlflow.set_experiment(experiment_id=self.tracker.experiment_id(PIPELINE))
        with mlflow.start_run(run_id=run_id):
            return mlflow.transformers.log_model(
                str(folder),
                name="model",
                task="llm/v1/chat",
                pip_requirements=[f"{name}=={package_version(name).partition('+')[0]}" for name in SERVING],
            )

    def _create_version(self, logged: Any, run_id: str, tags: Mapping[str, str]) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.name, description="Versions pass a statistical gate; load models:/NAME@champion.")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return self.client.create_model_version(self.name, logged.model_uri, run_id, tags=dict(tags), model_id=logged.model_id)

    def registered(self, version: Any, chain: Chain | None = None) -> Known:
        """What identifies a version and what was registered with it, by the record where one vouches for it; as in `chain`, where that was
        read already.

        Raises UserError where the whole record was deleted.
        """
        if version.name != self.name:
            return Registry(Tracker(self.tracker.workspace, version.name)).registered(version)
        known = record.known(chain or record.read(self.tracker), str(version.version), version.tags)
        if known.doubt:
            self.tracker.kept_experiment(PROMOTIONS)
        return known

    def evidence_of(self, version: Any) -> dict[str, Evidence]:
        """The per-item evidence that was registered with a version, by suite; where its files are not those any more, it says so."""
        known = self.registered(version)
        with self._stored_evidence(version.run_id) as folder:
            paths = sorted(path for path in (folder / "evidence").glob("*") if path.is_dir())
            leaked = folder / "contamination"
            wrong = self._changed_evidence(version, known, folder)
            if wrong:
                return dict.fromkeys({*(path.name for path in paths), *self._scored(version)}, unreadable(wrong))
            model_md5 = known.content.get("model_md5", "")
            return {path.name: load_evidence(path, leaked / f"{path.name}.jsonl", model_md5) for path in paths}

    def _changed_evidence(self, version: Any, known: Known, folder: Path) -> str:
        """Why what is stored as a version's evidence is not what was registered; empty where it is."""
        if known.doubt:
            return f"version {version.version}: {known.doubt}"
        expected, found = known.content.get("evidence_md5", "none"), folder_md5(folder) if any(folder.iterdir()) else "none"
        if found == expected:
            return ""
        return (
            f"evidence of version {version.version} is not what was registered: its stored files have md5 {found}, "
            f"must have {expected} ({known.by}): they were changed"
        )

    def _scored(self, version: Any) -> list[str]:
        """The suites that a version was registered with scores of."""
        return list(json.loads(version.tags.get("sluice.scores", "{}")))

    @contextlib.contextmanager
    def _stored_evidence(self, run_id: str | None) -> Iterator[Path]:
        """A folder with what a run holds of evidence and contamination, for as long as the block lasts; empty where it holds none."""
        with tempfile.TemporaryDirectory() as folder:
            for part in ("evidence", "contamination"):
                if run_id and self.client.list_artifacts(run_id, part):
                    self.client.download_artifacts(run_id, part, folder)
            yield Path(folder)

    def _evidence_md5(self, run_id: str) -> str:
        with self._stored_evidence(run_id) as folder:
            return folder_md5(folder)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the registry's only writer, on this machine and among all that share a Prefect server, once what crashes left open is settled.

        Whoever holds the lease knows that every decision still open elsewhere is dead; without one, it is after a time that none takes.
        """
        with locked(self.lock_file), self._lease():
            unheard_s = UNHEARD_S if services.shared_api(self.tracker.workspace) is None else -math.inf
            for run in self.tracker.open_runs(PROMOTIONS):
                if is_mine(run) or is_dead(run, unheard_s):
                    self._settle(run)
            yield

    @contextlib.contextmanager
    def _lease(self) -> Iterator[None]:
        """Be the only writer among all that share a Prefect server; nothing to wait for where none is shared."""
        api = services.shared_api(self.tracker.workspace)
        with lease.held(f"sluice-registry-{self.name}", api) if api else contextlib.nullcontext():
            yield

    def items_of(self, version: Any) -> dict[str, list[dict[str, Any]]]:
        """The per-item records that were registered with a version, by suite. Raises StageError where they are not those any more."""
        with self._stored_evidence(version.run_id) as folder:
            if wrong := self._changed_evidence(version, self.registered(version), folder):
                raise StageError(wrong)
            suites = sorted(path for path in (folder / "evidence").glob("*") if (path / "items.jsonl").is_file())
            return {suite.name: list(read_lines(suite / "items.jsonl")) for suite in suites}

    def provenance(self, version: Any, into: Path) -> Path:
        """Fetch the dvc.lock, params.yaml and requirements.lock that were registered with a version, into a folder.

        Raises StageError, naming the file, where there are none, or they are not those any more.
        """
        found, known = self._provenance_md5s(version, into), self.registered(version)
        if not found:
            raise StageError(f"version {version.version} was registered without its provenance: register it again from its commit")
        if known.doubt:
            raise StageError(f"version {version.version}: {known.doubt}")
        for name, key in record.FILES.items():
            has, must = found.get(key, "none"), known.content.get(key, "none")
            if has != must:
                raise StageError(
                    f"{name} of version {version.version} is not what was registered: its stored file has md5 {has}, "
                    f"must have {must} ({known.by}): it was changed"
                )
        return into / "provenance"

    def _provenance_md5s(self, version: Any, into: Path) -> dict[str, str]:
        """Fetch a version's provenance; the md5 of each file that there is, under its name in record.FILES."""
        if not (version.run_id and self.client.list_artifacts(version.run_id, "provenance")):
            return {}
        folder = Path(self.client.download_artifacts(version.run_id, "provenance", str(into)))
        return {key: file_md5(folder / name) for name, key in record.FILES.items() if (folder / name).is_file()}

    def model_folder(self, version: Any, into: Path) -> Path:
        """Fetch a version's model folder. Raises StageError where its content is not the one that was registered."""
        import mlflow

        try:
            path = Path(mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}", dst_path=str(into))) / "model"
        except Exception as error:  # of the store's own library: no such file, no credentials, no such scheme
            cause = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            raise StageError(f"version {version.version}: its stored model cannot be fetched ({cause})") from None
        if not path.is_dir():
            raise StageError(f"version {version.version}: its stored model is gone")
        found, known = folder_md5(path), self.registered(version)
        registered = known.content.get("model_md5")
        if known.doubt or found != registered:
            wrong = f"the stored model has md5 {found}, must have {registered} ({known.by}): its files were changed"
            raise StageError(f"version {version.version}: {known.doubt or wrong}")
        return path

    def put_on_record(
        self,
        decision: Decision,
        parent: str | None = None,
        result: GateResult | None = None,
        items: Mapping[str, Any] | None = None,
        accepted: Sequence[record.Finding] = (),
        evidence: Path | None = None,
    ) -> str:
        """Put one decision on record, under the lock, and move the alias that it names; return the run's id.

        Of RESCORED, `evidence` is the benchmark folder, of its suite's name.

        The run is open while the alias moves: a crash in between is settled by the next writer. Raises Refused, with nothing moved, where
        champion is not what it `was` any more.
        """
        chain = record.read(self.tracker)
        standings = self._standings_after(chain, decision, result)
        tags = record.tags_of(decision, parent) | self._content(chain, decision.version) | {"sluice.anchors": record.anchors_tag(standings)}
        if accepted:
            tags["sluice.accepted"] = " ".join(sorted(record.doubts(chain)))
        run_id = self.tracker.start(PROMOTIONS, f"{decision.verdict} {decision.version or ''}".strip(), tags)
        try:
            if result is not None:
                record.log_evidence(self.tracker, run_id, result, items or {})
            if accepted:
                record.log_accepted(self.tracker, run_id, accepted)
            if evidence is not None:
                self.client.log_artifacts(run_id, str(evidence), f"evidence/{evidence.name}")
            head = record.link(self.tracker, run_id, chain)
            if decision.alias:
                self._require_champion(decision.was)  # once more: a clone that shares no Prefect server holds another lock
                self.client.set_registered_model_alias(self.name, decision.alias, decision.version)
                self._set_previous(decision.previous)
            record.set_head(self.tracker, head)
        except BaseException:
            with contextlib.suppress(Exception):  # where the store is away, the next writer settles it
                self._settle(self.client.get_run(run_id))
            raise
        self.tracker.end(run_id, "FINISHED")
        return run_id

    def standings(self) -> dict[str, Standing]:
        """Each suite's anchor, by the newest sound record that says; empty before the first champion."""
        return record.standings(record.read(self.tracker))

    def _standings_after(self, chain: Chain, decision: Decision, result: GateResult | None) -> dict[str, Standing]:
        """The suites' anchors once the decision is carried out."""
        now, version = record.standings(chain), decision.version or ""
        promoted = version if decision.alias == CHAMPION else None
        if decision.verdict == record.ANCHORED:
            return anchor.pinned(now, decision.suites, version)
        if decision.verdict == ROLLBACK:
            return self._standings_at(chain, version, now)
        if result is not None:
            looked = {verdict.suite: verdict.anchor for verdict in result.suites if verdict.anchor is not None}
            return anchor.after_gate(now, [verdict.suite for verdict in result.suites], looked, promoted)
        return (
            now if promoted is None else anchor.after_person(now, self._scored(self.client.get_model_version(self.name, version)), version)
        )

    def _standings_at(self, chain: Chain, champion: str, now: Mapping[str, Standing]) -> dict[str, Standing]:
        """The anchors that held when `champion` was promoted last. A look that was had at one of them since is not given back."""
        runs = record.decisions(chain)
        made = next(
            (run for run in runs if run.data.tags.get("sluice.alias") == CHAMPION and run.data.tags.get("sluice.version") == champion), None
        )
        then = (made and record.anchors_of(made)) or dict(now)
        known = [standings for run in runs if (standings := record.anchors_of(run))]
        for suite, standing in then.items():
            looks = [found[suite].looks for found in known if suite in found and found[suite].version == standing.version]
            then[suite] = standing.model_copy(update={"looks": max(looks, default=standing.looks)})
        return then

    def pin_anchor(self, version: str, suites: Sequence[str], reason: str) -> dict[str, Standing]:
        """Make a registered version the anchor of `suites`, on record; return all anchors then.

        Raises UserError where nothing is champion yet, or the version was never scored on one of them.
        """
        found = self.version(version)
        self._require_intact(str(found.version))
        missing = [suite for suite in suites if suite not in self._scored(found)]
        if missing:
            known = ", ".join(self._scored(found)) or "none"
            raise UserError(f"version {found.version} was never scored on {', '.join(missing)} (scored: {known}): pin one that was")
        with self.lock():
            current = self.aliases().get(CHAMPION)
            if current is None:
                raise UserError("nothing is champion yet: the first champion is the first anchor; 'sluice run' makes it")
            self.put_on_record(Decision(record.ANCHORED, reason, "", str(found.version), current, suites=tuple(suites)))
        return self.standings()

    def _content(self, chain: Chain, number: str | None) -> dict[str, str]:
        """What identifies a version on record, as the first record of it has it."""
        content = self.registered(self.client.get_model_version(self.name, number), chain).content if number else {}
        return {f"sluice.{key}": content.get(key, "") for key in record.VERSION} if content else {}

    def _stored(self, number: str) -> dict[str, str]:
        """The same as it is now: the model by its tag, evidence and provenance by their files."""
        version = self.client.get_model_version(self.name, number)
        found = record.content_of(version.tags)
        if "evidence_md5" in found:
            found["evidence_md5"] = self._evidence_md5(version.run_id)
        with tempfile.TemporaryDirectory() as folder:
            stored = self._provenance_md5s(version, Path(folder))
        return {**found, **dict.fromkeys(record.FILES.values(), ""), **stored}

    def _require_intact(self, number: str) -> None:
        """Raise StageError where a version's files are not those that were registered, UserError where Sluice did not register it."""
        version = self.client.get_model_version(self.name, number)
        if "sluice.model_md5" not in version.tags:
            raise UserError(f"version {number} was not registered by Sluice: nothing is known of its model; 'sluice run' registers one")
        with tempfile.TemporaryDirectory() as folder:
            self.model_folder(version, Path(folder))

    def _require_champion(self, seen: str | None) -> None:
        current = self.aliases().get(CHAMPION)
        if current != seen:
            raise Refused(f"champion is version {current} now, the gate compared with {seen}: nothing was moved; run the gate again")

    def _require_looks(self, result: GateResult | None) -> None:
        """Raise Refused where another decision had this look at an anchor, or a person pinned another, since the gate compared."""
        compared = {verdict.suite: verdict.anchor for verdict in (result.suites if result else ()) if verdict.anchor is not None}
        standings = self.standings() if compared else {}
        for suite, held in compared.items():
            now = standings.get(suite)
            if now is not None and (held.version, held.look) != (now.version, now.looks + 1):
                raise Refused(
                    f"the anchor of {suite} is version {now.version} after {now.looks} looks now, the gate compared with version "
                    f"{held.version} at look {held.look}: nothing was moved; run the gate again"
                )

    def _set_previous(self, version: str | None) -> None:
        if version:
            self.client.set_registered_model_alias(self.name, PREVIOUS, version)
        elif PREVIOUS in self.aliases():
            self.client.delete_registered_model_alias(self.name, PREVIOUS)

    def promote(
        self,
        version: str,
        seen: str | None,
        verdict: str,
        reason: str,
        parent: str | None = None,
        result: GateResult | None = None,
        items: Mapping[str, Any] | None = None,
        inputs: str = "",
    ) -> str:
        """Make `version` champion if the champion still is the version `seen`, and the anchors those of `result`; return the record's id.

        Raises Refused where somebody else was faster: the comparison that justified the move no longer holds. Raises StageError where the
        stored model is not the one that was registered.
        """
        self._require_intact(version)
        with self.lock():
            self._require_champion(seen)
            self._require_looks(result)
            return self.put_on_record(Decision(verdict, reason, CHAMPION, version, seen, seen, inputs=inputs), parent, result, items)

    def rollback(self, reason: str) -> tuple[str, str]:
        """Return champion to the version before it on the record; return (from, to). Raises UserError where there is none."""
        with self.lock():
            current, kept = self.aliases().get(CHAMPION), {str(version.version) for version in self.versions()}
            if current is None:
                raise UserError(f"{self.name} has no champion to return from; 'sluice promote VERSION' makes one")
            earlier = [version for version in record.champions(self.decisions()) if version in kept]
            if current in earlier:  # where it was moved by hand, what came after it is no way back
                del earlier[len(earlier) - 1 - earlier[::-1].index(current) :]
            if not earlier:
                raise UserError(f"{self.name} has no earlier champion to return to; 'sluice history' lists what was promoted")
            target = earlier[-1]
            self._require_intact(target)
            previous = next((version for version in reversed(earlier) if version != target), None)
            self.put_on_record(Decision(ROLLBACK, reason, CHAMPION, target, current, previous))
            return current, target

    def decisions(self) -> list[Any]:
        """The decisions on record that nobody edited or forged, newest first: what may be acted on."""
        return record.decisions(record.read(self.tracker))

    def turned_down(self, version: str) -> str:
        """What a person decided against a version, in a line, where that is the last word on it; the gate does not overrule people."""
        for run in self.decisions():
            tags = run.data.tags
            about, verdict = tags.get("sluice.version") == version, tags.get("sluice.verdict")
            if about and tags.get("sluice.alias") == CHAMPION:
                return ""
            if (about and verdict == REJECTED) or (verdict == ROLLBACK and tags.get("sluice.was") == version):
                done = "rejected" if about else "rolled back"
                return f"version {version} was {done} on {_iso(run.info.start_time)[:10]} ({tags.get('sluice.reason', '')})"
        return ""

    def note(self, decision: Decision, parent: str | None, result: GateResult, items: Mapping[str, Any]) -> None:
        """Put on record a decision that moves nothing, unless it is the last one about its version already."""
        with self.lock():
            same = {key: value for key, value in record.tags_of(decision, None).items() if key != "sluice.by"}
            runs = (run.data.tags for run in self.decisions())
            last: Mapping[str, str] = next((tags for tags in runs if tags.get("sluice.version") == decision.version), {})
            if {key: last.get(key) for key in same} != same:
                self.put_on_record(decision, parent, result, items)

    def history(self) -> list[dict[str, Any]]:
        """Every decision, newest first."""
        return [
            {
                "time": _iso(run.info.start_time),
                "version": run.data.tags.get("sluice.version") or None,
                "alias": run.data.tags.get("sluice.alias") or None,
                "verdict": run.data.tags.get("sluice.verdict"),
                "reason": run.data.tags.get("sluice.reason"),
                "run_id": run.info.run_id,
            }
            for run in filter(record.decides, record.read(self.tracker).runs)
        ]

    def audit(self) -> list[record.Finding]:
        """What on the record, or beside it, no decision explains."""
        with self.lock():
            return self._audit()

    def _audit(self) -> list[record.Finding]:
        chain, kept = record.read(self.tracker), {str(version.version) for version in self.versions()}
        named = {run.data.tags.get("sluice.version", "") for run in chain.runs if "sluice.model_md5" in run.data.tags}
        versions = {number: self._stored(number) for number in named & kept}
        return record.audit(self.tracker, chain, self.aliases(), versions)

    def accept(self, reason: str) -> list[record.Finding]:
        """Put on record that what `audit` finds is known, and why: it finds it no more. Raises UserError where it finds nothing."""
        with self.lock():
            findings = self._audit()
            if not findings:
                raise UserError("there is nothing to accept: the registry is as its record says")
            aliases = self.aliases()
            stands = Decision(record.ACCEPTED, reason, "", aliases.get(CHAMPION), None, aliases.get(PREVIOUS))
            self.put_on_record(stands, accepted=findings)
        return findings

    def settle(self) -> None:
        """Close what a crash left open: a decision that was carried out is FINISHED, any other dead run KILLED."""
        if self.tracker.open_runs(PROMOTIONS):
            with self.lock():
                pass
        self.tracker.close_dead_runs()

    def _settle(self, run: Any) -> None:
        """A linked record was carried out if the model names it as the newest, or champion has moved already; what is left is done then."""
        tags, chain = run.data.tags, record.read(self.tracker)
        head, followed = chain.head, {later.data.tags.get("sluice.before") for later in chain.runs}
        if tags.get("sluice.record", "") in followed - {""}:  # opened again by another hand
            self.tracker.end(run.info.run_id, "FINISHED")
            return
        own = f"{tags.get('sluice.sequence')}:{tags.get('sluice.record')}"
        moved = bool(tags.get("sluice.alias")) and self.aliases().get(tags["sluice.alias"]) == tags.get("sluice.version")
        if "sluice.record" in tags and (own == head or (moved and tags.get("sluice.before", "") == head.partition(":")[2])):
            if moved:
                self._set_previous(tags.get("sluice.previous"))
            record.set_head(self.tracker, own)
            self.tracker.end(run.info.run_id, "FINISHED")
        else:
            self.tracker.end(run.info.run_id, "KILLED", "the process ended before the decision was carried out")


def score(evidence: Evidence) -> dict[str, float | int | None]:
    """Mean, its standard error sqrt(s² / n) (of two items or more), and n, recomputed from the items."""
    if not evidence.scores:
        return {"value": None, "stderr": None, "n": 0}
    values, n = list(evidence.scores.values()), len(evidence.scores)
    mean = sum(values) / n
    error = (sum((value - mean) ** 2 for value in values) / (n - 1) / n) ** 0.5 if n > 1 else None
    return {"value": mean, "stderr": error, "n": n}


def _iso(milliseconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def file_md5(path: Path) -> str:
    """The md5 of a file's bytes."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
