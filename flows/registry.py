"""The model registry: versions keyed by content, aliases moved only where the gate saw them, every decision on record."""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from flows import lease, record, services
from flows.record import CHAMPION, PREVIOUS, Decision
from flows.tracking import PIPELINE, PROMOTIONS, Tracker
from flows.workspace import locked, read_json
from models.errors import Refused, StageError, UserError
from models.records import folder_md5, read_lines
from tasks.gate import Evidence, GateResult
from tasks.health import health

IDENTITY = (  # equal, or two scores are not comparable
    "suite_md5",
    "harness",
    "task_version",
    "template_md5",
    "chat",
    "dtype",
    "batch_size",
    "shots",
    "seed",
    "max_new_tokens",
    "sampling",
)
SERVING = ("mlflow", "torch", "transformers", "accelerate")


def load_evidence(folder: Path, contamination: Path) -> Evidence:
    """What a benchmark folder holds, and which of its items leaked: those that the file `contamination` lists, none without it."""
    facts = read_json(folder / "evidence.json", None)
    if facts is None:
        raise StageError(f"{folder / 'evidence.json'} is missing or cut off: delete the folder, then 'sluice run' restores or repeats it")
    items = list(read_lines(folder / "items.jsonl"))
    return Evidence(
        scores={item["id"]: float(item["score"]) for item in items} if facts.get("available", True) else None,
        chance=facts["chance"],
        identity={key: facts.get(key) for key in IDENTITY},
        subjects={item["id"]: item["subject"] for item in items},
        health=health(items),
        contaminated={leak["id"]: leak["where"] for leak in read_lines(contamination)} if contamination.is_file() else {},
    )


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
            known = ", ".join(str(version.version) for version in self.versions()) or "none yet: 'sluice run' registers one"
            named = f"; aliases: {', '.join(sorted(aliases))}" if aliases else ""
            raise UserError(f"{self.name} has no version or alias {number!r}; registered: {known}{named}") from None

    def versions(self) -> Sequence[Any]:
        """All versions, newest first."""
        found = self.client.search_model_versions(f"name = '{self.name}'", max_results=1000)
        return sorted(found, key=lambda version: int(version.version), reverse=True)

    def at(self, alias: str) -> Any | None:
        """The version that the alias points at, or None."""
        number = self.aliases().get(alias)
        return None if number is None else self.client.get_model_version(self.name, number)

    def aliases(self) -> dict[str, str]:
        """Version number by alias."""
        from mlflow.exceptions import MlflowException

        try:
            return {alias: str(number) for alias, number in self.client.get_registered_model(self.name).aliases.items()}
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise self.tracker.unavailable(error) from None

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
        """The version that holds exactly this folder: found by its md5, else logged with its evidence and provenance, and created."""
        model_md5 = folder_md5(folder)
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
                scores = json.dumps(
                    {suite: score(load_evidence(path, contamination / f"{suite}.jsonl")) for suite, path in evidence.items()},
                    sort_keys=True,
                )
                with self._lease():  # an upload may be long, and others wait: only the last look and the version itself are alone
                    version = self.find(model_md5) or self._create_version(
                        logged, run_id, {**tags, "sluice.model_md5": model_md5, "sluice.scores": scores}
                    )
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

    def evidence_of(self, version: Any) -> dict[str, Evidence]:
        """The per-item evidence that was registered with a version, by suite."""
        with tempfile.TemporaryDirectory() as folder:
            for part in ("evidence", "contamination"):
                if self.client.list_artifacts(version.run_id, part):
                    self.client.download_artifacts(version.run_id, part, folder)
            paths = sorted(path for path in (Path(folder) / "evidence").glob("*") if path.is_dir())
            return {path.name: load_evidence(path, Path(folder) / "contamination" / f"{path.name}.jsonl") for path in paths}

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the registry's only writer: on this machine, and among all that share a Prefect server."""
        with locked(self.lock_file), self._lease():
            yield

    @contextlib.contextmanager
    def _lease(self) -> Iterator[None]:
        """Be the only writer among all that share a Prefect server; nothing to wait for where none is shared."""
        api = services.shared_api(self.tracker.workspace)
        with lease.held(f"sluice-registry-{self.name}", api) if api else contextlib.nullcontext():
            yield

    def items_of(self, version: Any) -> dict[str, list[dict[str, Any]]]:
        """The per-item records that were registered with a version, by suite."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(self.client.download_artifacts(version.run_id, "evidence", folder))
            return {suite.name: list(read_lines(suite / "items.jsonl")) for suite in sorted(path.iterdir()) if suite.is_dir()}

    def model_folder(self, version: Any, into: Path) -> Path:
        """Fetch a version's model folder. Raises StageError where its content is not the one that was registered."""
        import mlflow

        path = Path(mlflow.artifacts.download_artifacts(f"models:/{self.name}/{version.version}", dst_path=str(into))) / "model"
        found, registered = folder_md5(path), version.tags.get("sluice.model_md5")
        if found != registered:
            raise StageError(f"version {version.version}: the stored model has md5 {found}, must have {registered}: its files were changed")
        return path

    def put_on_record(
        self, decision: Decision, parent: str | None = None, result: GateResult | None = None, items: Mapping[str, Any] | None = None
    ) -> str:
        """Put one decision on record, under the lock, and move the alias that it names; return the run's id.

        The run is open while the alias moves: a crash in between is settled by `settle`.
        """
        run_id = self.tracker.start(PROMOTIONS, f"{decision.verdict} {decision.version or ''}".strip(), record.tags_of(decision, parent))
        if result is not None:
            record.log_evidence(self.tracker, run_id, result, items or {})
        head = record.link(self.tracker, run_id)
        if decision.alias:
            self._move(decision)
        record.set_head(self.tracker, head)
        self.tracker.end(run_id, "FINISHED")
        return run_id

    def _move(self, decision: Decision) -> None:
        if decision.previous:
            self.client.set_registered_model_alias(self.name, PREVIOUS, decision.previous)
        elif PREVIOUS in self.aliases():
            self.client.delete_registered_model_alias(self.name, PREVIOUS)
        self.client.set_registered_model_alias(self.name, decision.alias, decision.version)

    def promote(
        self,
        version: str,
        seen: str | None,
        verdict: str,
        reason: str,
        parent: str | None = None,
        result: GateResult | None = None,
        items: Mapping[str, Any] | None = None,
    ) -> str:
        """Make `version` champion if the champion still is the version `seen`; return the id of the record.

        Raises Refused where somebody else was faster: the comparison that justified the move no longer holds.
        """
        with self.lock():
            current = self.aliases().get(CHAMPION)
            if current != seen:
                raise Refused(f"champion is version {current} now, the gate compared with {seen}: nothing was moved; run the gate again")
            return self.put_on_record(Decision(verdict, reason, CHAMPION, version, current, current), parent, result, items)

    def rollback(self, reason: str) -> tuple[str, str]:
        """Return champion to the version before it on the record; return (from, to). Raises UserError where there is none."""
        with self.lock():
            current = self.aliases().get(CHAMPION)
            target = self._before(current)
            if current is None or target is None:
                raise UserError(f"{self.name} has no earlier champion to return to; 'sluice history' lists what was promoted")
            self.put_on_record(Decision("rollback", reason, CHAMPION, target, current, self._before(target)))
            return current, target

    def _before(self, version: str | None) -> str | None:
        """The champion that the promotion of `version` replaced."""
        for run in record.decisions(self.tracker):
            tags = run.data.tags
            if tags.get("sluice.alias") == CHAMPION and tags.get("sluice.version") == version and tags.get("sluice.verdict") != "rollback":
                return tags.get("sluice.previous") or None
        return None

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
            for run in record.decisions(self.tracker)
        ]

    def audit(self) -> list[record.Finding]:
        """What on the record, or beside it, no decision explains."""
        return record.audit(self.tracker, self.aliases())

    def settle(self) -> None:
        """Close what a crash left open: a decision that was carried out is FINISHED, any other dead run KILLED."""
        dead = self.tracker.dead_runs(PROMOTIONS)
        if dead:
            with self.lock():
                for run in dead:
                    self._settle(run.data.tags, run.info.run_id)
        self.tracker.close_dead_runs()

    def _settle(self, tags: Mapping[str, str], run_id: str) -> None:
        """A linked record was carried out if the model names it as the newest, or the alias has moved already."""
        own, head = f"{tags.get('sluice.sequence')}:{tags.get('sluice.record')}", record.head(self.tracker)
        moved = bool(tags.get("sluice.alias")) and self.aliases().get(tags["sluice.alias"]) == tags.get("sluice.version")
        if "sluice.record" in tags and (own == head or (moved and tags.get("sluice.before", "") == head.partition(":")[2])):
            record.set_head(self.tracker, own)
            self.tracker.end(run_id, "FINISHED")


def score(evidence: Evidence) -> dict[str, float | int | None]:
    """Mean, its standard error sqrt(s² / n), and n, recomputed from the items."""
    if not evidence.scores:
        return {"value": None, "stderr": None, "n": 0}
    values, n = list(evidence.scores.values()), len(evidence.scores)
    mean = sum(values) / n
    variance = sum((value - mean) ** 2 for value in values) / max(n - 1, 1)
    return {"value": mean, "stderr": (variance / n) ** 0.5, "n": n}


def _iso(milliseconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def file_md5(path: Path) -> str:
    """The md5 of a file's bytes."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
