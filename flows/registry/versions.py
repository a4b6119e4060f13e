"""The versions of a model in MLflow's registry: keyed by content, with the evidence and provenance that they were registered with."""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from flows.host import failures, lease, services, tracking
from flows.host.tracking import PIPELINE, PROMOTIONS, Tracker, all_pages
from flows.host.workspace import locked
from flows.registry import record
from flows.registry.record import Chain, Known
from models.core.content import folder_md5
from models.core.errors import StageError, UserError
from models.core.given import read_lines
from models.core.sets import answers, mean, stderr, value
from tasks.gate.evidence import load_evidence, unreadable
from tasks.gate.verdicts import Evidence

SHOWN = 20  # versions in a message
SERVING = ("mlflow", "torch", "transformers", "accelerate")


class Versions:
    """The versions of one model."""

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
                    "sluice.scores": json.dumps({suite: estimate(shown) for suite, shown in found.items()}),
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

    def _make_model(self) -> None:
        """Have the registry know the model: what is on record hangs on it."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.name, description="Versions pass a statistical gate; load models:/NAME@champion.")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _create_version(self, logged: Any, run_id: str, tags: Mapping[str, str]) -> Any:
        self._make_model()
        return self.client.create_model_version(self.name, logged.model_uri, run_id, tags=dict(tags), model_id=logged.model_id)

    def registered(self, version: Any, chain: Chain | None = None) -> Known:
        """What identifies a version and what was registered with it, by the record where one vouches for it; as in `chain`, where that was
        read already.

        Raises UserError where the whole record was deleted.
        """
        if version.name != self.name:
            return Versions(Tracker(self.tracker.workspace, version.name)).registered(version)
        known = record.known(chain or record.read(self.tracker), str(version.version), version.tags)
        if known.doubt:
            self.tracker.kept_experiment(PROMOTIONS)
        return known

    def content_md5(self, version: Any) -> str | None:
        """The md5 of a version's model, by the record or else its tags; None where Sluice did not register it."""
        return self.registered(version).content.get("model_md5")

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
                    self.tracker.fetch(run_id, part, Path(folder))
            yield Path(folder)

    def _evidence_md5(self, run_id: str) -> str:
        with self._stored_evidence(run_id) as folder:
            return folder_md5(folder)

    @contextlib.contextmanager
    def _lease(self) -> Iterator[None]:
        """Be the only writer among all that share a Prefect server; nothing to wait for where none is shared."""
        api = services.shared_api(self.tracker.workspace)
        with lease.acquired(f"sluice-registry-{self.name}", api) if api else contextlib.nullcontext():
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
        folder = self.tracker.fetch(version.run_id, "provenance", into)
        return {key: file_md5(folder / name) for name, key in record.FILES.items() if (folder / name).is_file()}

    def model_folder(self, version: Any, into: Path) -> Path:
        """Fetch a version's model folder. Raises StageError where its content is not the one that was registered."""
        import mlflow

        try:
            path = Path(mlflow.artifacts.download_artifacts(f"models:/{version.name}/{version.version}", dst_path=str(into))) / "model"
        except Exception as error:  # of the store's own library: no such file, no credentials, no such scheme
            failures.require_room(into)
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


def estimate(evidence: Evidence) -> dict[str, float | int | None]:
    """The mean, its standard error sqrt(s² / n) (of two items or more), and n, from the items; or the metric of the whole set."""
    if not evidence.scores:
        return {"value": None, "stderr": None, "n": 0}
    if evidence.of_set is not None:
        found = answers(evidence.answers.values(), evidence.of_set)
        return {"value": float(value(evidence.of_set, found)), "stderr": stderr(evidence.of_set, found), "n": len(evidence.scores)}
    middle, error = mean(list(evidence.scores.values()))
    return {"value": middle, "stderr": error, "n": len(evidence.scores)}


def file_md5(path: Path) -> str:
    """The md5 of a file's bytes."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
