"""The flow `retrain`: data to champion. The one door to Prefect's flows, tasks and artifacts."""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import Flow, flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Cancelled, Completed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.urls import url_for

from flows.host import courier, processes
from flows.host.failures import one_line, told
from flows.host.masking import masked
from flows.host.services import shared_api
from flows.host.spool import Run
from flows.host.tracking import Tracker
from flows.host.workspace import find, prepare_environment
from flows.registry import identity, release
from flows.registry.decisions import Registry, registry_of
from flows.registry.record import CHAMPION
from flows.screen.tables import score_rows, scores, stage_rows
from flows.stages.attempt import StageResult, attempt, is_news, main_metric
from flows.stages.pipeline import Stage, git_commit, read_metrics
from flows.stages.place import Local, Place
from flows.stages.runner import FLOW_RUN, PARENT
from flows.stages.session import Session, exclusive, opened
from models.core.errors import SluiceError, StageError, Unavailable
from models.core.files import write_json

SHOWN = {"sluice": True}  # marks the log records that the terminal shows
WATCH_S = 2.0  # between two looks at the flow run's own state


class RunResult(release.Release):
    """What a retraining came to."""

    stages: list[StageResult]
    seconds: float


def _retryable(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether another attempt may end otherwise; not where the flow is stopped."""
    return isinstance(state.result(raise_on_failure=False), Unavailable) and not processes.stopping()


@task(name="stage", cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=_retryable, retry_delay_seconds=5)
@told()
def run_stage(place: Place, stage: Stage, env: Mapping[str, str]) -> StageResult:
    """Make one attempt at one stage where its place is, its output in this task's log."""
    logger = get_run_logger()
    done = attempt(place, stage, env, lambda line: is_news(line) and logger.info("%s", line, extra=SHOWN))
    logger.info("%s  %s in %.1f s  %s", stage.name, done.state, done.seconds, done.metric, extra=SHOWN)
    return done


def _execute(session: Session, place: Place, parent: str | None, started: float, results: list[StageResult]) -> None:
    """Run what changed, siblings at once; the rest is `unchanged`. How each ended goes to `results`, of a run that fails as well.

    Raises the first failure after all that can end has ended.
    """
    futures: dict[str, PrefectFuture[Any]] = {}
    env = {**session.env, FLOW_RUN: str(flow_run.id), **({PARENT: parent} if parent else {})}
    for name, stage in session.pipeline.stages.items():
        if name in session.changes:
            options = run_stage.with_options(name=name, task_run_name=name, retries=stage.retries)
            upstream = [futures[up] for up in stage.upstream if up in futures]
            futures[name] = options.submit(place=place, stage=stage, env=env, return_state=False, wait_for=upstream)
    failures: list[Exception] = []
    for name, stage in session.pipeline.stages.items():
        if name in session.left_out:
            continue
        future = futures.get(name)
        if future is None:
            metric = main_metric(read_metrics(session.workspace.root, stage))
            shutil.rmtree(session.workspace.work / name, ignore_errors=True)  # what 'dvc repro' left there is on record
            results.append(StageResult(name=name, state="unchanged", seconds=0, metric=metric))
            continue
        future.wait()
        if future.state.is_pending():  # for ever: a stage upstream failed
            continue
        outcome = future.state.result(raise_on_failure=False)
        if isinstance(outcome, StageResult):
            results.append(outcome)
        else:
            results.append(StageResult(name=name, state="failed", seconds=0, metric=""))
            failures.append(outcome)
    if failures:
        _remember(session, results, started)
        raise next((error for error in failures if isinstance(error, SluiceError)), StageError(str(failures[0])))


def _remember(session: Session, results: list[StageResult], started: float) -> float:
    """Keep the run for `sluice status`; return its seconds."""
    rows = [{"name": r.name, "state": r.state, "seconds": r.seconds} for r in results]
    seconds = round(time.monotonic() - started, 1)
    write_json(session.workspace.state / "last_run.json", {"stages": rows, "seconds": seconds})
    return seconds


def _is_cancelled(client: SyncPrefectClient, identity: UUID) -> bool:
    """Whether the flow run is to stop: cancelled from the page, marked crashed, or deleted while it ran."""
    try:
        state = client.read_flow_run(identity).state
    except ObjectNotFound:
        return True
    except Exception:
        return False  # a server that is away for a moment is no reason to stop
    return state is not None and (state.is_cancelling() or state.is_cancelled() or state.is_crashed())


@contextmanager
def _watched() -> Iterator[threading.Event]:
    """Look at the flow run's own state; kill every child when it is being cancelled. Prefect would leave them running."""
    cancelled, over = threading.Event(), threading.Event()
    identity = UUID(str(flow_run.id))

    def watch() -> None:
        if over.wait(WATCH_S):
            return
        with get_client(sync_client=True) as client:
            while not _is_cancelled(client, identity):
                if over.wait(WATCH_S):
                    return
        cancelled.set()
        processes.stop_all()

    watcher = threading.Thread(target=watch, name="state-watcher", daemon=True)
    watcher.start()
    try:
        yield cancelled
    finally:
        over.set()


def _flow(opens: Callable[[], contextlib.AbstractContextManager[Session]]) -> Flow[[], Any]:
    """The flow on the session that `opens` opens."""

    @flow(name="retrain", task_runner=cast(Any, ThreadPoolTaskRunner(max_workers=32)), persist_result=False, log_prints=False)
    @told()
    def retrain() -> Any:
        """Retrain, benchmark, gate, register, promote, in the workspace of the current folder: what DVC says must run, and nothing else.

        Returns a RunResult; a refused version ends the run Completed under the name Refused, a cancelled run Cancelled.
        """
        started = time.monotonic()
        processes.reset()
        with opens() as session, _watched() as cancelled:
            try:
                result = _retrain(session, started)
            except BaseException:
                if cancelled.is_set():
                    return Cancelled(message="cancelled; finished stages are kept, the next run carries on")
                raise
            finally:
                processes.stop_all()
        if result.decision in ("refuse", "undecided", "invalid"):
            return Completed(name="Refused", message=masked(result.reason)[:2000], data=result)
        return result

    return retrain


@contextmanager
def _here() -> Iterator[Session]:
    """The session of a worker's run: nobody has opened one for it."""
    workspace = find()
    prepare_environment(workspace)
    with exclusive(workspace), opened(workspace, registry_of) as session:
        yield session


retrain = _flow(_here)  # what prefect.yaml deploys


def retrain_here(session: Session) -> Any:
    """Run the flow on an open session, in this process; return its state. Heartbeats, which take a second to end, only where it works."""
    with handed_over(), temporary_settings({} if session.changes else {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        return _flow(lambda: contextlib.nullcontext(session))(return_state=True)


@contextmanager
def handed_over() -> Iterator[None]:
    """Have the last log records and events of a flow reach its server before the block ends: that may be this run's own, and stop."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    try:
        yield
    finally:
        for worker in (APILogWorker, EventsWorker):
            worker.drain_all(timeout=10)


def _retrain(session: Session, started: float) -> RunResult:
    logger, tracker, results = get_run_logger(), Tracker(session.workspace, session.model), list[StageResult]()
    if not session.changes:
        logger.info("nothing changed: no stage has to run", extra=SHOWN)
        courier.deliver(session.workspace, _say)
        if _unsettled(session).exists():
            with tracker.answering():
                release.settle(tracker)
        same = release.unchanged(session)
        if same is None:
            with tracker.answering():
                same = release.recorded_decision(session)
        if same is not None:
            _unsettled(session).unlink(missing_ok=True)
            _execute(session, Local(session.workspace), None, started, results)
            return _finish(session, same, results, started, "")
    session.warm_up()
    _unsettled(session).touch()
    parent = Run(session.workspace, session.model, f"retrain {flow_run.name}", _tags(session))
    with courier.at_work(session.workspace, _say) as post:
        try:
            parent.params(session.params)
            with contextlib.suppress(Unavailable), tracker.answering():  # the stages do not need it: what they report waits
                release.settle(tracker)
            _execute(session, Local(session.workspace), parent.key, started, results)
            run_id = post.id_of(parent)
            outcome = _publish(session, tracker, parent, run_id)
            said = _report(session, parent, results, started, outcome, "", run_id)
        except BaseException as error:
            stopped = processes.stopping() or not isinstance(error, Exception)  # a signal, whatever it is raised as: no failure
            if not stopped:
                _report(session, parent, results, started, None, str(error) or type(error).__name__, None)
            parent.end("KILLED" if stopped else "FAILED", str(error))
            raise
        parent.end("FINISHED")
    _unsettled(session).unlink(missing_ok=True)
    return _finish(session, outcome, results, started, said)


def _report(
    session: Session,
    parent: Run,
    results: list[StageResult],
    started: float,
    outcome: release.Release | None,
    failure: str,
    run_id: str | None,
) -> str:
    """Make the run's report and keep it with its run; return the verdict as Markdown, "" where none was made: no run fails for it."""
    from flows.pages import facts, report

    tracker = Tracker(session.workspace, session.model)
    registry = Registry(tracker) if outcome else None
    try:
        url, page = (tracker.run_url(run_id, part=part) if run_id else "" for part in ("", f"/artifacts/reports/{report.PAGE}"))
        links = {"MLflow run": url, "Prefect run": url_for("flow-run", obj_id=str(flow_run.id)) if shared_api(session.workspace) else None}
        known = {name: masked(link) for name, link in links.items() if link}
        found = facts.collect(session, results, time.monotonic() - started, outcome, failure, known, registry)
        kept = report.keep(session.workspace, found)
        parent.reports(kept)
        if failure:  # its last word is the failure itself; a run that ended well names its report beside its tables
            get_run_logger().info("what there is to look at: %s", (kept / report.PAGE).relative_to(session.workspace.root), extra=SHOWN)
        if page:
            create_link_artifact(link=page, link_text="Report", key="report", description="One page to read")
        said = report.verdict(found, page)
        parent.tags({"mlflow.note.content": said})
        if registry and outcome and outcome.decision != "unchanged":
            registry.client.update_model_version(registry.name, outcome.version, description=said)
    except Exception as error:
        get_run_logger().warning("the report was not made: %s", one_line(error, 300), extra=SHOWN)
        return ""
    return said


def _publish(session: Session, tracker: Tracker, parent: Run, run_id: str) -> release.Release:
    """Gate, register and promote, which need MLflow; return how that ended.

    Raises Unavailable where MLflow is away: the stages are done and recorded, and the next run begins here.
    """
    with tracker.answering():
        url = tracker.run_url(run_id)
        create_link_artifact(
            link=url, link_text="MLflow run", key="mlflow-run", description="Params, metrics and curves of this retraining"
        )
        parent.tags(_runs_of_stages(session, tracker))
        parent.results(scores(session.pipeline), 0)
        release.settle(tracker)
        outcome = _release(session, run_id)
    parent.tags({"sluice.verdict": outcome.decision})
    return outcome


def _unsettled(session: Session) -> Path:
    """There from a run's beginning until it has ended well: what it left open in MLflow is for the next one to settle."""
    return session.workspace.state / "unsettled"


def _say(line: str) -> None:
    print(f"sluice: {line}", file=sys.stderr, flush=True)


@task(task_run_name="gate", cache_policy=NO_CACHE, persist_result=False)
@told()
def gate(session: Session) -> release.Comparison | None:
    """Compare the candidate with the champion, item by item; None where they are the same model."""
    registry = registry_of(session.workspace, session.params)
    champion = registry.at(CHAMPION)
    found = None if release.is_same(session, registry, "", champion) else release.compare(session, registry, "", champion)
    if found is not None:
        for verdict in found.result.suites:
            get_run_logger().info("gate  %s: %s, %s", verdict.suite, verdict.verdict, verdict.reason, extra=SHOWN)
    return found


@task(task_run_name="register", cache_policy=NO_CACHE, persist_result=False)
@told()
def register(session: Session, parent: str) -> str:
    """Register the candidate, or find the version that holds it."""
    return release.register_candidate(session, parent)


@task(task_run_name="promote", cache_policy=NO_CACHE, persist_result=False)
@told()
def promote(session: Session, found: release.Comparison, version: str, parent: str) -> release.Release:
    """Record the decision; move the alias `champion` where the gate lets the version through."""
    return release.carry_out(session, found, version, parent)


def _release(session: Session, parent: str) -> release.Release:
    known = release.recorded_decision(session)
    if known is not None:
        return known
    found = gate(session)
    if found is None:
        same = release.unchanged(session)
        assert same is not None
        return same
    return promote(session, found, register(session, parent), parent)


def _tags(session: Session) -> dict[str, str]:
    """The flow run and the commit; the page of the run where its server outlives it."""
    tags = {"prefect.flow_run_id": str(flow_run.id), "git.commit": git_commit(session.workspace.root)}
    page = url_for("flow-run", obj_id=str(flow_run.id)) if shared_api(session.workspace) else None
    return tags | ({"prefect.flow_run_url": page} if page else {})


def _runs_of_stages(session: Session, tracker: Tracker) -> dict[str, str]:
    """By tag, the run that produced each stage's result, this time or an earlier one."""
    recorded = session.pipeline.recorded_signatures()
    found = {name: tracker.run_of(recorded[name]) for name in session.pipeline.stages if name in recorded}
    unknown = {name: recorded[name] for name, run_id in found.items() if run_id is None}
    if unknown:  # accepted under another hash, or made elsewhere
        before = identity.earlier(Registry(tracker), unknown)
        found |= {name: next(filter(None, map(tracker.run_of, signatures)), None) for name, signatures in before.items()}
    return {f"sluice.run.{name.replace('@', '/')}": run_id for name, run_id in found.items() if run_id}


def _finish(session: Session, outcome: release.Release, results: list[StageResult], started: float, said: str) -> RunResult:
    """Leave the run's artifacts on Prefect's page; `said` is the verdict in Markdown."""
    if session.changes:
        create_table_artifact(table=stage_rows(results), key="stages", description="What ran, and its main metric")
        create_table_artifact(table=score_rows(session.pipeline), key="scores", description="Score ± standard error (items)")
    words = said or f"**{outcome.decision}**: {masked(outcome.reason)}"
    create_markdown_artifact(markdown=words, key="verdict", description="The gate's decision")
    return RunResult(**outcome.model_dump(), stages=results, seconds=_remember(session, results, started))
