"""What the flow makes of how an attempt at a stage ends, wherever that was made: no process is started here for a stage."""

import os
import threading

import pytest
from dvc.repo import Repo
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner

from flows.host import processes, services
from flows.host.workspace import Workspace, prepare_environment
from flows.run import retrain
from flows.stages import attempt
from flows.stages.pipeline import Pipeline
from flows.stages.place import Outcome
from flows.stages.runner import FLOW_RUN, PARENT, started_line
from flows.stages.session import Session
from models.core.errors import StageError, Unavailable, UserError
from tests.places import ASTRAY, AWAY, DONE, LATE, REFUSED, Scripted, stage_named

ONE = stage_named("one")
BUSY = "ERROR: '/w/artifacts/one' is busy, it is being blocked by:"


@pytest.fixture(autouse=True)
def going_on(monkeypatch):
    """No flow of an earlier test is being stopped, and nobody waits."""
    processes.reset()
    monkeypatch.setattr(attempt, "BUSY_PAUSE_S", 0)
    monkeypatch.setattr(retrain.run_stage, "retry_delay_seconds", 0)


def attempted(place, on_line=lambda _line: None):
    return attempt.attempt(place, ONE, {}, on_line)


def test_every_line_is_heard_in_its_order_and_without_a_secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "planted-in-line")
    heard = []
    attempted(Scripted(lines=("one  step 1", "", "asked with planted-in-line")), heard.append)
    assert heard == ["one  step 1", "", "asked with ***"]


@pytest.mark.parametrize(
    ("lines", "left", "state"),
    [
        ((), DONE.left, "ran"),
        ((started_line("one"),), {}, "ran"),  # the disk was full when it would have left its outcome
        (("Stage 'one' is cached - skipping run, checking out outputs",), {}, "restored"),
        (("Stage 'one' didn't change, skipping",), {}, "unchanged"),
    ],
)
def test_a_stage_ran_or_was_restored_or_had_not_changed(lines, left, state):
    done = attempted(Scripted({"one": [Outcome(0, left, {"loss": 0.25, "tokens": 9})]}, lines))
    assert (done.state, done.metric, done.seconds) == (state, "loss 0.25", left.get("seconds", 0))


@pytest.mark.parametrize(
    ("outcome", "kind", "said"),
    [
        (AWAY, Unavailable, "the server is away"),
        (ASTRAY, StageError, "loss is no number"),
        (REFUSED, UserError, "params.yaml: seed must be a number"),
        (LATE, StageError, "stage 'one' ran past its limit of 60 s (meta.timeout_s in dvc.yaml) and was stopped"),
        (Outcome(-9), Unavailable, "stage 'one' was ended by signal 9 (out of memory?); its last word: no output"),
        (Outcome(255), StageError, "stage 'one' ended without a word: no output"),
    ],
    ids=("away", "astray", "refused", "late", "killed", "silent"),
)
def test_an_attempt_that_is_not_done_is_raised_as_what_happened_and_made_once(outcome, kind, said):
    place = Scripted({"one": [outcome]})
    with pytest.raises(kind) as raised:
        attempted(place)
    assert (type(raised.value), str(raised.value), place.attempted) == (kind, said, ["one"])


def test_a_path_that_is_busy_for_a_moment_costs_no_attempt_of_the_flow_s():
    place, told = Scripted({"one": [Outcome(255), Outcome(255), Outcome(255)]}, (BUSY,)), []
    place.outcomes["one"].append(DONE)
    assert attempted(place, told.append).state == "ran"
    assert place.attempted == ["one"] * 4


def test_a_path_that_stays_busy_is_left_to_the_flow_s_own_retry():
    place = Scripted({"one": [Outcome(255)] * attempt.BUSY_TRIES}, (BUSY,))
    with pytest.raises(Unavailable, match="is busy"):
        attempted(place)
    assert len(place.attempted) == attempt.BUSY_TRIES


YAML = """stages:
  above: {cmd: 'true', outs: [above], metrics: [{above.json: {cache: false}}], meta: {retries: 2}}
  below: {cmd: 'true', deps: [above], outs: [below], metrics: [{below.json: {cache: false}}]}
  aside: {cmd: 'true', outs: [aside], metrics: [{aside.json: {cache: false}}]}
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A workspace of three stages that are all to run; Prefect's server for it."""
    root = tmp_path_factory.mktemp("place")
    (root / "dvc.yaml").write_text(YAML)
    Repo.init(str(root), no_scm=True).close()
    workspace, before = Workspace(root), dict(os.environ)
    workspace.state.mkdir()
    os.environ.pop("PREFECT_API_URL", None)
    prepare_environment(workspace)
    pipeline = Pipeline(workspace)
    with services.prefect_api(workspace) as prefect:
        prefect.wait()
        with temporary_settings({PREFECT_API_URL: prefect.url}), retrain.handed_over():
            yield Session(workspace, pipeline, {}, {name: ["changed"] for name in pipeline.stages}, {"WARM": "1"})
    os.environ.clear()
    os.environ.update(before)


def retrained(session, place, monkeypatch):
    """How each stage ended in a flow on that place, and what the flow itself raised."""
    monkeypatch.setattr(Session, "left_out", [])
    results, raised = [], []

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=4))
    def stages():
        try:
            retrain._execute(session, place, "a run's key", 0.0, results)
        except Exception as error:
            raised.append(error)

    stages()
    return {done.name: done.state for done in results}, raised


@pytest.mark.server
def test_a_stage_that_was_away_twice_is_tried_three_times_and_what_needs_it_waits(session, monkeypatch):
    place = Scripted({"above": [AWAY, AWAY, DONE]})
    states, raised = retrained(session, place, monkeypatch)
    assert (states, raised) == ({"above": "ran", "below": "ran", "aside": "ran"}, [])
    assert sorted(place.attempted) == ["above", "above", "above", "aside", "below"]
    assert [name for name in place.attempted if name != "aside"][-1] == "below"
    assert {(env["WARM"], env[PARENT], bool(env[FLOW_RUN])) for env in place.envs} == {("1", "a run's key", True)}


@pytest.mark.server
@pytest.mark.parametrize("outcome", [ASTRAY, REFUSED, LATE], ids=("astray", "refused", "late"))
def test_a_stage_that_would_end_the_same_way_is_tried_once_and_only_what_needs_it_is_left(session, monkeypatch, outcome):
    place = Scripted({"above": [outcome]})
    states, raised = retrained(session, place, monkeypatch)
    assert (states, [type(error) for error in raised]) == (
        {"above": "failed", "aside": "ran"},
        [UserError if outcome is REFUSED else StageError],
    )
    assert sorted(place.attempted) == ["above", "aside"]


@pytest.mark.slow
def test_stages_that_need_nothing_of_each_other_are_at_work_at_once(session, monkeypatch):
    monkeypatch.setattr(session.pipeline, "stages", {name: session.pipeline.stages[name] for name in ("above", "aside")})
    states, raised = retrained(session, Scripted(together=threading.Barrier(2)), monkeypatch)
    assert (states, raised) == ({"above": "ran", "aside": "ran"}, [])
