"""MLflow's runs: one parent a retraining, one child an executed stage, one record a decision."""

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from flows.host import failures, web
from flows.host.masking import masked, masked_values
from flows.host.workspace import Workspace, alive, locked, start_time
from models.core.errors import SluiceError, StageError, UserError

PIPELINE, PROMOTIONS = "pipeline", "promotions"
TRAINING_VIEW = {"mlflow.experimentKind": "custom_model_development"}  # MLflow's page takes runs without a word about it for judged traces
AS_TRAINING = "?workflowType=machine_learning"  # of an address: else a run opens among judges and traces, whatever its experiment says
ABOUT = {
    PIPELINE: "One run a retraining, and under it one a stage that was executed: params, curves (train/...), results, data.",
    PROMOTIONS: "One run a decision, chained: 'sluice history' lists them, 'sluice audit' checks them.",
}
PAGE = 1000  # entries asked for at once
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST", "INVALID_STATE")  # asking again is answered the same way


def owner_tags() -> dict[str, str]:
    """Tags that name this process for good, so that its run can be closed when it dies."""
    return {"sluice.host": socket.gethostname(), "sluice.pid": f"{os.getpid()}:{start_time(os.getpid())}"}


def _about(workspace: Workspace, tags: Mapping[str, str]) -> dict[str, str]:
    """What MLflow's page shows of a run under Created by, Source and Version."""
    return {
        "mlflow.user": failures.user_name(),
        "mlflow.source.name": f"{workspace.root.name}: sluice {tags.get('sluice.stage') or tags.get('sluice.verdict') or 'run'}",
        "mlflow.source.type": "LOCAL",
        **({"mlflow.source.git.commit": commit.removesuffix("-dirty")} if (commit := tags.get("git.commit", "")) else {}),
    }


def preload(workspace: Workspace) -> None:
    """Import MLflow now, seconds that nobody waits for; a server's REST interface may do without."""
    if not web.is_web(workspace.tracking_uri):
        import mlflow  # noqa: F401


def require_server(workspace: Workspace) -> None:
    """Raise, before anything is started, what is wrong with the server or database that MLflow is to keep runs in."""
    if workspace.tracking_uri != workspace.embedded_store:
        require_store(workspace.tracking_uri)


def require_store(uri: str) -> None:
    """Raise UserError or Unavailable where MLflow can keep nothing at `uri`: nobody answers, or refuses."""
    web.check_store(uri)
    try:
        if web.is_web(uri):
            json.loads(web.MLFLOW.get(f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1"))
        else:
            _connect(uri)
    except Exception as error:  # of whatever library opens it
        raise unavailable(uri, error) from None


def _connect(uri: str) -> None:
    """Open a database once, at once: MLflow itself tries ten times. Raises SQLAlchemyError, or ImportError where its driver is missing."""
    from sqlalchemy import create_engine

    limit = {"connect_timeout": 10} if uri.startswith("postgresql") else {}
    create_engine(uri, connect_args=limit).connect().close()


def unavailable(uri: str, error: Exception) -> SluiceError:
    """The one line for a tracking store that does not answer, or refuses."""
    if type(error).__module__ == "builtins" and isinstance(error, OSError) and error.filename:
        return failures.of_system(error)
    return web.MLFLOW.failure(uri, error)


def make_store(workspace: Workspace) -> None:
    """Make MLflow's embedded database, whole at once: one whose first migration was killed half-way cannot be opened again."""
    path = Path(os.path.realpath(workspace.embedded_store.removeprefix("sqlite:///")))  # of a checkout, its workspace's; of a loop, itself
    with locked(workspace.lock_file("mlflow")):
        if path.exists():
            return
        import mlflow

        for leftover in path.parent.glob("mlflow.draft*"):
            leftover.unlink()
        draft = path.with_suffix(".draft")
        mlflow.MlflowClient(f"sqlite:///{draft}").search_experiments(max_results=1)
        draft.replace(path)


class Tracker:
    """The tracking server or database of a workspace. Raises Unavailable, in one line, where it does not answer."""

    def __init__(self, workspace: Workspace, model: str) -> None:
        self.workspace, self.model, self.uri = workspace, model, workspace.tracking_uri
        self._ids = dict[str, str]()  # of experiments, by kind

    @cached_property
    def client(self) -> Any:
        """The client, its store migrated: once, under a lock, since two processes that open a fresh database at once both fail."""
        import mlflow
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        self.workspace.state.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        try:
            if self.uri == self.workspace.embedded_store:
                make_store(self.workspace)
            require_store(self.uri)
            client = mlflow.MlflowClient(self.uri, self.uri)  # migrates what it opens
            with locked(self.workspace.lock_file("mlflow")):
                for kind in (PIPELINE, PROMOTIONS):
                    self._ensure_experiment(client, kind)
        except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
            raise self.unavailable(error) from None
        return client

    def unavailable(self, error: Exception) -> SluiceError:
        """The one line for this store where it does not answer, or refuses."""
        return unavailable(self.uri, error)

    def _ensure_experiment(self, client: Any, kind: str) -> None:
        name = f"{self.model}/{kind}"
        known = client.get_experiment_by_name(name)
        if known is None:
            local = self.workspace.servers().get("mlflow", {}).get("url")
            own = not web.is_web(self.uri) or self.uri == local  # elsewhere the server says where artifacts go
            location = Path(os.path.realpath(self.workspace.state / "mlartifacts"), kind).as_uri() if own else None
            client.create_experiment(name, artifact_location=location, tags={**TRAINING_VIEW, "mlflow.note.content": ABOUT[kind]})
        elif known.lifecycle_stage == "active" and not TRAINING_VIEW.items() <= known.tags.items():
            with contextlib.suppress(Exception):  # who may only log may not say how a page looks
                for key, value in TRAINING_VIEW.items():
                    client.set_experiment_tag(known.experiment_id, key, value)

    def _experiment(self, kind: str) -> Any:
        return self.client.get_experiment_by_name(f"{self.model}/{kind}")

    def kept_experiment(self, kind: str) -> Any:
        """Experiment `<model>/<kind>`. Raises UserError where somebody deleted it."""
        experiment = self._experiment(kind)
        if experiment.lifecycle_stage != "active":
            restore = f"'mlflow experiments restore --experiment-id {experiment.experiment_id}' brings it back"
            raise UserError(f"MLflow's experiment {experiment.name} was deleted, runs are kept in it: {restore}")
        return experiment

    def experiment_id(self, kind: str) -> str:
        """The id of experiment `<model>/<kind>`, asked once: it never changes."""
        if kind not in self._ids:
            self._ids[kind] = str(self._experiment(kind).experiment_id)
        return self._ids[kind]

    def registered_model(self) -> Any | None:
        """The registered model with its aliases and tags, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(self.model)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise self.unavailable(error) from None

    def start(self, kind: str, name: str, tags: Mapping[str, str], parent: str | None = None, time_ms: int | None = None) -> str:
        """Open a run and return its id. Raises UserError where somebody deleted the experiment."""
        from mlflow.exceptions import MlflowException

        tags = {**owner_tags(), **_about(self.workspace, tags), **masked_values(tags), **({"mlflow.parentRunId": parent} if parent else {})}
        try:
            run = self.client.create_run(self.experiment_id(kind), time_ms, tags, name)
        except MlflowException:
            self.kept_experiment(kind)
            raise
        return str(run.info.run_id)

    def tagged(self, key: str, value: str) -> Sequence[Any]:
        """The pipeline's runs with that tag, the oldest first."""
        return sorted(self.runs(PIPELINE, f"tags.`{key}` = '{value}'"), key=lambda run: (run.info.start_time, run.info.run_id))

    def fetch(self, run_id: str, part: str, folder: Path) -> Path:
        """Fetch a part of a run's artifacts, "" for all, into a folder. Raises what keeps the folder from being written as just that."""
        try:
            return Path(self.client.download_artifacts(run_id, part, str(folder)))
        except Exception:  # MLflow says that no such artifact is there
            failures.require_room(folder)
            raise

    def log_batch(
        self, run_id: str, metrics: Sequence[tuple[str, float, int, int]], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        """Log metrics (key, value, ms, step), then params and tags, in one call: 1,000 at most, 100 of the others."""
        from mlflow.entities import Metric, Param, RunTag

        self.client.log_batch(
            run_id, [Metric(*one) for one in metrics], [Param(*one) for one in params.items()], [RunTag(*one) for one in tags.items()]
        )

    def log_inputs(self, run_id: str, data: Sequence[Mapping[str, str]]) -> None:
        """Log what a run read, {name, digest, source}, as MLflow's lineage shows it. To log them again changes nothing."""
        from mlflow.entities import Dataset, DatasetInput

        entries = [Dataset(one["name"][:500], one["digest"][:36], "dvc", json.dumps({"path": one["source"]})) for one in data]
        self.client.log_inputs(run_id, [DatasetInput(entry) for entry in entries])

    def log_metrics(self, run_id: str, metrics: Mapping[str, Any]) -> None:
        """Log the numbers among nested metrics under dotted names."""
        numbers = {key: float(value) for key, value in flatten(metrics, text=False).items() if isinstance(value, int | float)}
        self.log_batch(run_id, [(key, value, int(time.time() * 1000), 0) for key, value in numbers.items()], {}, {})

    def end(self, run_id: str, status: str, reason: str = "", time_ms: int | None = None) -> None:
        """Close a run: FINISHED, FAILED or KILLED."""
        if reason:
            self.client.set_tag(run_id, "sluice.reason", masked(reason)[:4000])
        self.client.set_terminated(run_id, status, time_ms)

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Raise Unavailable, in one line, where the store stops answering within the block, StageError where it refuses what is asked."""
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except MlflowException as error:
            if error.error_code in REFUSALS:
                raise StageError(f"MLflow refuses: {failures.one_line(error)}") from None
            raise self.unavailable(error) from None
        except (SQLAlchemyError, RequestException, ConnectionError) as error:
            raise self.unavailable(error) from None

    def runs(self, kind: str, filters: str) -> list[Any]:
        """All runs that the filter lets through, the oldest first: what is added meanwhile moves no page."""
        experiments, order = [self.experiment_id(kind)], ["attributes.start_time ASC"]
        return all_pages(lambda token: self.client.search_runs(experiments, filters, max_results=PAGE, order_by=order, page_token=token))

    def open_runs(self, kind: str) -> Sequence[Any]:
        """The RUNNING runs."""
        return self.runs(kind, "attributes.status = 'RUNNING'")

    def close_dead_runs(self) -> None:
        """Mark KILLED every run of the pipeline that its process left open. The record's are the registry's to settle.

        Not while a courier delivers, which ends such runs too: of two writers of one tag MLflow's database refuses one.
        """
        with locked(self.workspace.lock_file("spool")):
            for run in self.open_runs(PIPELINE):
                if is_dead(run):
                    self.end(run.info.run_id, "KILLED", "the process ended without closing its run")

    def run_of(self, signature: str) -> str | None:
        """The finished run that executed this stage signature last; None where the result came from elsewhere."""
        found = self.client.search_runs(
            [self.experiment_id(PIPELINE)],
            f"tags.`sluice.stage_hash` = '{signature}' and attributes.status = 'FINISHED'",
            max_results=1,
            order_by=["attributes.start_time DESC"],
        )
        return str(found[0].info.run_id) if found else None

    def run_url(self, run_id: str, kind: str = PIPELINE, part: str = "") -> str:
        """The run's page, or that of a part of it, as `/artifacts`; for an embedded database, the page that `sluice up` will serve."""
        base = web.shown(self.uri) if web.is_web(self.uri) else "http://127.0.0.1:5000"
        return f"{base.rstrip('/')}/#/experiments/{self.experiment_id(kind)}/runs/{run_id}{part}{AS_TRAINING}"


def all_pages(ask: Callable[[str | None], Any]) -> list[Any]:
    """What `ask(token)` answers, page by page."""
    page = ask(None)
    found = list(page)
    while page.token:
        page = ask(page.token)
        found += page
    return found


def is_mine(run: Any) -> bool:
    """Whether this process opened the run."""
    return bool(owner_tags().items() <= run.data.tags.items())


def is_dead(run: Any, unheard_s: float = math.inf) -> bool:
    """Whether the process of an open run is gone; of another machine, which cannot be asked, whether it began `unheard_s` seconds ago."""
    host, (pid, _, started) = run.data.tags.get("sluice.host"), run.data.tags.get("sluice.pid", "").partition(":")
    if host == socket.gethostname():
        return not (pid.isdecimal() and alive(int(pid), started))
    return host is not None and time.time() - run.info.start_time / 1000 >= unheard_s


def flatten(values: Mapping[str, Any], prefix: str = "", text: bool = True) -> dict[str, Any]:
    """Nested mappings as dotted keys; leaves as text (JSON where they are not plain) or, with text=False, as they are."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}.", text))
        else:
            flat[name] = value if not text or isinstance(value, str) else json.dumps(value)
    return flat
