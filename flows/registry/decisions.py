"""What is decided about versions: on record, under one lock; aliases are moved only where the gate or a person said so."""

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.host import services
from flows.host.tracking import PROMOTIONS, Tracker, is_dead, is_mine
from flows.host.workspace import Workspace, locked
from flows.registry import record
from flows.registry.record import CHAMPION, PREVIOUS, REJECTED, ROLLBACK, Chain, Decision
from flows.registry.versions import Versions
from models.core.errors import Refused, UserError
from tasks.gate import anchor
from tasks.gate.anchor import Standing
from tasks.gate.verdicts import GateResult

UNHEARD_S = 3600.0  # no decision takes an hour to put on record


class Registry(Versions):
    """The versions of one model, and the decisions about them. Every change is made under one lock and can be repeated."""

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

    def put_on_record(
        self,
        decision: Decision,
        parent: str | None = None,
        result: GateResult | None = None,
        items: Mapping[str, Any] | None = None,
        accepted: Sequence[record.Finding] = (),
        evidence: Path | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> str:
        """Put one decision on record, under the lock, and move the alias that it names; return the run's id.

        Of RESCORED, `evidence` is the benchmark folder, of its suite's name; of IDENTITY, `identity` says of which stages, see
        flows/registry/identity.py.

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
                record.log_json(self.tracker, run_id, "accepted.json", [[finding.what, finding.run_id] for finding in accepted])
            if identity is not None:
                record.log_json(self.tracker, run_id, "identity.json", identity)
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
        for suite, compared_with in compared.items():
            now = standings.get(suite)
            if now is not None and (compared_with.version, compared_with.look) != (now.version, now.looks + 1):
                raise Refused(
                    f"the anchor of {suite} is version {now.version} after {now.looks} looks now, the gate compared with version "
                    f"{compared_with.version} at look {compared_with.look}: nothing was moved; run the gate again"
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

    def accept_identity(self, reason: str, stages: Mapping[str, Any]) -> None:
        """Put on record which stages keep their results though what they are made from has changed, and why."""
        self._make_model()
        with self.lock():
            self.put_on_record(Decision(record.IDENTITY, reason, "", None), identity=stages)

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


def registry_of(workspace: Workspace, params: Mapping[str, Any]) -> Registry:
    """The registry of the model that a workspace's params name."""
    return Registry(Tracker(workspace, params["model"]))


def _iso(milliseconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
