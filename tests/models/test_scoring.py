"""What makes a score is what the golden file holds, or its version was raised: scores of two versions are never compared."""

import copy
import json
import shutil
from pathlib import Path

import pytest

from models.score import asking, evaluation, grading, items
from models.score import suite as suites
from tasks.gate.evidence import IDENTITY
from tests import scoring

RAISE = "Raise SCORING['choice'] in models/score/evaluation.py, unless models/score/catalogue/mmlu.yaml was changed"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model that follows a rule, and every suite in its published form."""
    folder = tmp_path_factory.mktemp("scoring")
    scoring.make_suites(folder / "suites")
    return scoring.make_model(folder / "model"), folder / "suites"


def facts(made, suite):
    return json.loads(json.dumps(scoring.facts(made[0], made[1] / suite)))


@pytest.mark.parametrize("suite", scoring.descriptions())
def test_what_moves_a_score_is_as_it_was_or_its_version_is_raised(made, suite):
    wrong = scoring.fault(suite, facts(made, suite), scoring.golden().get(suite))
    assert not wrong, wrong


def test_the_golden_file_is_as_it_would_be_written():
    assert scoring.GOLDEN.read_text(encoding="utf-8") == scoring._text(scoring.golden())
    assert list(scoring.golden()) == list(scoring.descriptions())


def edited(made, tmp_path: Path, old: str, new: str) -> Path:
    """The suite mmlu, its suite.yaml changed."""
    folder = tmp_path / "mmlu"
    shutil.copytree(made[1] / "mmlu", folder)
    path = folder / suites.FILE
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return folder


def md5_of(folder: Path) -> str:
    return evaluation._suite_md5(folder, suites.load(folder), items.read(folder))


@pytest.mark.parametrize(
    ("old", "new"),
    [("The following are", "These are"), ("count: 5", "count: 4"), ("by: letter", "by: continuation")],
    ids=["prompt", "shots", "continuation"],
)
def test_whatever_a_suite_says_of_how_it_is_asked_is_part_of_its_scores_identity(made, tmp_path, old, new):
    changed = edited(made, tmp_path, old, new)
    assert RAISE in scoring.fault("mmlu", json.loads(json.dumps(scoring.facts(made[0], changed))), scoring.golden()["mmlu"])
    assert md5_of(changed) != md5_of(made[1] / "mmlu")


@pytest.mark.parametrize(("old", "new"), [("# MMLU", "# MMLU, as ever"), ("licence: MIT", "licence: mit"), ("about: 57", "about: all 57")])
def test_what_moves_no_score_is_not(made, tmp_path, old, new):
    assert md5_of(edited(made, tmp_path, old, new)) == md5_of(made[1] / "mmlu")


def test_whatever_changes_a_formats_own_prompt_must_raise_a_version(made, monkeypatch):
    monkeypatch.setattr(suites, "TEXT_PROMPT", suites.TEXT_PROMPT.replace("Answer:", "A:"))
    assert "Raise SCORING['exact']" in scoring.fault("own-exact", facts(made, "own-exact"), scoring.golden()["own-exact"])


def test_whatever_changes_what_is_read_out_of_an_answer_must_raise_a_version(made, monkeypatch):
    program = grading._program
    monkeypatch.setattr(grading, "_program", lambda item, response, chat: program(item, response.strip(), chat))
    wrong = scoring.fault("humaneval", facts(made, "humaneval"), scoring.golden()["humaneval"])
    assert "what is read is not what scoring.json holds: a score may move. Raise SCORING['code']" in wrong


def test_whatever_changes_what_a_reader_yields_must_raise_a_version(made, monkeypatch):
    monkeypatch.setattr(items, "LETTERS", "BACD")
    monkeypatch.setattr(asking, "LETTERS", "BACD")
    assert RAISE in scoring.fault("mmlu", facts(made, "mmlu"), scoring.golden()["mmlu"])


def test_a_version_never_goes_back_and_a_suite_without_facts_is_named():
    kept = scoring.golden()["mmlu"]
    older = copy.deepcopy(kept) | {"scoring": "choice 0"}
    assert scoring.fault("mmlu", older, kept).endswith("a version never goes back")
    assert scoring.fault("new", kept, None) == "new is not in scoring.json: write the file anew: python -m tests.scoring"


def test_the_version_of_the_scoring_code_tells_evaluations_apart():
    assert {"scoring", "harness", "suite_md5"} <= set(IDENTITY)
    assert set(evaluation.SCORING) == set(suites.FORMATS)
    assert {suites.parse(text, name).format for name, text in scoring.descriptions().items()} == set(suites.FORMATS)
