"""What makes a score is what the golden file holds, or its version was raised: scores of two versions are never compared."""

import copy
import json
import shutil
from pathlib import Path

import pytest

from models.score import evaluation, suites
from tasks.gate.evidence import IDENTITY
from tests import scoring

RAISE = (
    "Raise SCORING['choices'] in models/score/evaluation.py, or, where it is this suite alone, `version` in "
    "models/score/suite_tasks/mmlu.yaml"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model that follows a rule, and every suite in its published form."""
    folder = tmp_path_factory.mktemp("scoring")
    scoring.make_suites(folder / "suites")
    return scoring.make_model(folder / "model"), folder / "suites"


def facts(made, suite):
    return json.loads(json.dumps(scoring.facts(made[0], made[1] / suite)))


@pytest.mark.parametrize("suite", suites.FORMATS)
def test_what_moves_a_score_is_as_it_was_or_its_version_is_raised(made, suite):
    wrong = scoring.fault(suite, facts(made, suite), scoring.golden().get(suite))
    assert not wrong, wrong


def test_the_golden_file_is_as_it_would_be_written():
    assert scoring.GOLDEN.read_text(encoding="utf-8") == scoring._text(scoring.golden())
    assert list(scoring.golden()) == list(suites.FORMATS)


def with_task(tmp_path: Path, monkeypatch, old: str, new: str):
    """The suites' tasks, with mmlu's changed."""
    folder = tmp_path / "suite_tasks"
    shutil.copytree(evaluation.TASKS, folder)
    task = folder / "mmlu.yaml"
    text = task.read_text(encoding="utf-8")
    assert old in text
    task.write_text(text.replace(old, new), encoding="utf-8")
    monkeypatch.setattr(evaluation, "TASKS", folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [("The following are", "These are"), ("num_fewshot: 0", "num_fewshot: 0\ntarget_delimiter: ''"), ("shots: 5", "shots: 4")],
    ids=["prompt", "continuation", "shots"],
)
def test_whatever_changes_what_is_asked_must_raise_a_version(made, tmp_path, monkeypatch, old, new):
    kept = scoring.golden()["mmlu"]
    with_task(tmp_path, monkeypatch, old, new)
    assert RAISE in scoring.fault("mmlu", facts(made, "mmlu"), kept)
    with_task(tmp_path / "raised", monkeypatch, "version: 1", "version: 2")
    raised = scoring.fault("mmlu", facts(made, "mmlu"), kept)
    assert raised.endswith("write the file anew: python -m tests.scoring")


def test_a_comment_in_a_task_moves_no_score(made, tmp_path, monkeypatch):
    with_task(tmp_path, monkeypatch, "task: mmlu", "# asked as it always was\ntask: mmlu")
    assert scoring.fault("mmlu", facts(made, "mmlu"), scoring.golden()["mmlu"]) == ""


def test_whatever_changes_what_is_read_out_of_an_answer_must_raise_a_version(made, monkeypatch):
    program = evaluation._program
    monkeypatch.setattr(evaluation, "_program", lambda item, response, chat: program(item, response.strip(), chat))
    wrong = scoring.fault("humaneval", facts(made, "humaneval"), scoring.golden()["humaneval"])
    assert "what is read is not what scoring.json holds: a score may move. Raise SCORING['code']" in wrong


def test_whatever_changes_what_a_reader_yields_must_raise_a_version(made, monkeypatch):
    monkeypatch.setattr(suites, "LETTERS", "BACD")
    assert RAISE in scoring.fault("mmlu", facts(made, "mmlu"), scoring.golden()["mmlu"])


def test_a_version_never_goes_back_and_a_suite_without_facts_is_named():
    kept = scoring.golden()["mmlu"]
    older = copy.deepcopy(kept) | {"task": kept["task"] - 1}
    assert scoring.fault("mmlu", older, kept).endswith("a version never goes back")
    assert scoring.fault("new", kept, None) == "new is not in scoring.json: write the file anew: python -m tests.scoring"


def test_the_version_of_the_scoring_code_tells_evaluations_apart():
    assert {"scoring", "harness", "task_version"} <= set(IDENTITY)
    kinds = {evaluation.KINDS.get(form.kind, "choices") for form in suites.FORMATS.values()}
    assert set(evaluation.SCORING) == kinds
