"""dvc.yaml as a user has changed it: stages removed, renamed, doubled, another candidate, other models."""

import pytest
from ruamel.yaml import YAML

from flows.host.workspace import Workspace
from flows.registry import release
from flows.stages.parameters import check, load, stage_params
from flows.stages.pipeline import Pipeline, bindings, contract
from flows.stages.wiring import wire
from models.core.errors import UserError
from tests.shapes import POLISH, edit, only_sft, polished
from tests.workspaces import make_workspace


@pytest.fixture
def workspace(tmp_path):
    return Workspace(make_workspace(tmp_path / "sluice"))


def of(workspace):
    return Pipeline(workspace), load(workspace.params_file)


def test_a_task_may_be_done_twice_and_what_comes_after_it_may_be_missing(workspace):
    polished(workspace.root)
    pipeline, params = of(workspace)
    check(params, pipeline.stages.values(), workspace.root)
    stage = pipeline.stage("polish")
    assert contract(stage) == contract(pipeline.stage("sft"))
    assert stage_params(params, stage, contract(stage)).epochs == params["polish"]["epochs"]
    assert stage.bind(contract(stage).inputs, stage.artifacts) == {
        "base": "artifacts/sft",
        "instructions": "artifacts/prepared/instructions",
    }
    assert {(cell.model, cell.suite) for cell in pipeline.cells} == {(m, s) for m in ("sft", "polish") for s in params["suites"]}
    assert release.candidate_folder(workspace.root, params) == workspace.root / "artifacts" / "polish"
    assert set(release.candidate_evidence(pipeline, params)) == set(params["gate"]["suites"])
    assert pipeline.needed(params) == set(pipeline.stages)


def test_kinds_that_nobody_reads_are_in_no_stage(workspace):
    only_sft(workspace.root)
    pipeline, params = of(workspace)
    check(params, pipeline.stages.values(), workspace.root)
    stage = pipeline.stage("prepare")
    assert set(stage.bind(contract(stage).outputs, stage.outs)) == {"documents", "instructions", "dropped", "portrait"}
    assert set(pipeline.stages) == pipeline.needed(params)
    assert release.candidate_folder(workspace.root, params).name == "sft"


def test_what_neither_the_candidate_nor_a_score_needs_is_left_out(workspace, monkeypatch):
    edit(workspace.root, "params.yaml", lambda values: values.update({"models": ["base", "sft"], "candidate": "sft"}))
    pipeline, params = of(workspace)
    check(params, pipeline.stages.values(), workspace.root)
    assert set(pipeline.stages) - pipeline.needed(params) == {"reward", "rlhf"}
    assert pipeline.targets(params) == ["benchmark", "samples", "contamination"]
    monkeypatch.chdir(workspace.root)
    collected = [node for target in pipeline.targets(params) for node in pipeline.repo.stage.collect(target, with_deps=True)]
    assert {node.name for node in collected} - {None} == pipeline.needed(params)  # what 'dvc repro TARGETS' looks at


def test_of_dvc_lock_what_a_run_needs_goes_with_its_version(workspace):
    """DVC keeps the entries of stages that are left out, or were there before another recipe: of another pipeline's data."""
    lock, entry = workspace.root / "dvc.lock", {"cmd": "x", "outs": []}
    edit(workspace.root, "params.yaml", lambda values: values.update({"models": ["base", "sft"], "candidate": "sft"}))
    pipeline, params = of(workspace)
    assert pipeline.lock_of(params) is None
    needed = dict.fromkeys(sorted(pipeline.needed(params)), entry)
    with lock.open("w") as file:
        YAML().dump({"schema": "2.0", "stages": needed}, file)
    assert pipeline.lock_of(params) == lock.read_bytes()
    whole = lock.read_bytes()
    with lock.open("w") as file:
        YAML().dump({"schema": "2.0", "stages": {"gone": entry, **needed, "rlhf": entry}}, file)
    assert YAML(typ="safe").load(pipeline.lock_of(params)) == YAML(typ="safe").load(whole)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"candidate": "rhlf"}, "candidate names 'rhlf', which no stage of dvc.yaml makes; did you mean rlhf?"),
        ({"models": ["base", "sft"]}, "candidate is 'rlhf', must be among models: the gate needs its scores"),
        ({"candidate": None}, "candidate names None, which no stage of dvc.yaml makes"),
    ],
)
def test_a_candidate_that_nobody_makes_or_scores_is_said_before_anything_runs(workspace, changed, said):
    edit(workspace.root, "params.yaml", lambda values: values.update(changed))
    pipeline, params = of(workspace)
    with pytest.raises(UserError) as raised:
        check(params, pipeline.stages.values(), workspace.root)
    assert said in str(raised.value)


def test_a_model_that_nobody_makes_is_said_before_anything_runs(workspace):
    edit(workspace.root, "params.yaml", lambda values: values.update({"models": ["base", "sfft", "rlhf"]}))
    pipeline, params = of(workspace)
    with pytest.raises(UserError, match=r"models names 'sfft', which no stage of dvc.yaml makes; did you mean sft"):
        check(params, pipeline.stages.values(), workspace.root)


def test_a_stage_whose_task_does_not_exist_says_how_it_is_named(workspace):
    edit(workspace.root, "dvc.yaml", lambda whole: whole["stages"].update(polish={**POLISH, "cmd": "sluice stage polish"}))
    with pytest.raises(UserError, match=r"no function polish\(\) in tasks/polish.py.* says task=NAME in its command"):
        contract(of(workspace)[0].stage("polish"))


def test_only_words_that_bind_are_bindings():
    words = ["sluice", "stage", "x", "model=artifacts/a", "task=sft", "--flag=1", "PATH-X=2", "y"]
    assert bindings(words) == {"model": "artifacts/a", "task": "sft"}


OWN = """  # mine
  ours:
    cmd: sh ours.sh
    deps: [ours.sh, tasks/sft.py]  # by hand
    outs: [artifacts/ours]

  again:
    cmd: sluice stage again task=sft base=artifacts/sft sft=artifacts/again
    deps:
      - artifacts/sft
      # what it learns from
      - artifacts/prepared/instructions
    outs: [artifacts/again]  # kept
"""


def test_wiring_writes_the_code_and_lock_of_tasks_and_no_other_line(workspace):
    path = workspace.root / "dvc.yaml"
    path.write_text(before := path.read_text() + OWN)
    assert wire(workspace.root) == ["again"]
    after = path.read_text()
    assert wire(workspace.root) == []
    stages = YAML(typ="safe").load(after)["stages"]
    code = [dep for dep in stages["sft"]["deps"] if dep.endswith((".py", ".lock"))]
    assert stages["again"]["deps"] == [*code, "artifacts/sft", "artifacts/prepared/instructions"]
    start = before.index("    deps:\n      - artifacts/sft\n")
    assert after[:start] == before[:start]
    assert after.endswith("    outs: [artifacts/again]  # kept\n")
