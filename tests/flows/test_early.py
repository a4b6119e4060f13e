"""The early decision, with whole models that are asked: it stops when the bet is decided, and asks nothing that training held."""

import json
import shutil
from pathlib import Path

import pytest

from models.core.errors import UserError
from models.score import evaluation
from tasks.benchmark import BenchmarkParams, scorer
from tasks.benchmark import settings as settings_of
from tasks.gate import early
from tasks.gate.verdicts import Policy
from tests.limits import ANY
from tests.suites import described
from tests.tiny import tiny_model

pytestmark = pytest.mark.long

ITEMS = 400
LIMITS = {"wall_seconds": 10, "cpu_seconds": 5, "memory_mib": 256, "processes": 8, "output_kib": 64}
BENCHMARK = {
    "batch_size": 8,
    "dtype": "float32",
    "items": {"mmlu-mini": None},
    "items_seed": 0,
    "max_new_tokens": 8,
    "sampling": {"temperature": 0.0, "samples": 1, "pass_at": 1},
    "program": LIMITS,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return [tiny_model(tmp_path_factory.mktemp("model"), seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def suites(models, tmp_path_factory):
    """One suite whose right answers are what the first model says."""
    suite = tmp_path_factory.mktemp("suites") / "mmlu-mini"
    rows = [{"id": f"q{n}", "question": f"Where is {n}?", "choices": [f"in {n * k % 97}" for k in (2, 3, 5, 7)]} for n in range(ITEMS)]
    write(suite, [{**row, "answer": 0, "subject": "places"} for row in rows])
    settings = settings_of(BenchmarkParams.model_validate(BENCHMARK), suite.name)
    said = evaluation.score_suite(models[0], suite, suite.parent / "said", settings, "cpu", lambda _done, _all: None).items
    write(suite, [{**row, "answer": item["predicted"], "subject": "places"} for row, item in zip(rows, said, strict=True)])
    return suite.parent


def write(suite: Path, rows) -> None:
    described(suite)
    (suite / "items.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def policy(one_of=(), contaminated=0.1, **rules):
    suites = {"mmlu-mini": {"margin": 0.1, "floor": None, "require": "non-inferior", **rules}}
    given = {"alpha": 0.05, "without_sandbox": "refuse", "better_on_one_of": list(one_of), "contaminated": contaminated}
    return Policy.model_validate({**given, "health": {**ANY.model_dump(), "length_ratio": 9}, "suites": suites})


def decide(candidate, champion, suites, leaked=frozenset(), **rules):
    told = []
    leaks = {"mmlu-mini": {item: ["instructions/forum"] for item in leaked}}
    asked = BenchmarkParams.model_validate(BENCHMARK)

    def make(model, suite, progress):
        return scorer(asked, model, suites / suite, "cpu", progress)

    found = early.compare(candidate, champion, policy(**rules), make, asked.items_seed, leaks, told.append)
    return found.decision, found.suites[0], told


def test_equals_are_told_after_a_part_of_the_items(models, suites):
    decision, verdict, told = decide(models[0], models[0], suites)
    assert (decision, verdict.verdict, verdict.gained, verdict.lost) == ("promote", "non-inferior", 0, 0)
    assert verdict.used < ITEMS / 4
    assert "shown after" in verdict.reason
    assert told[-1].startswith(f"mmlu-mini: {verdict.used} of {ITEMS}")


def test_one_that_loses_is_refused_before_the_end(models, suites):
    decision, verdict, _ = decide(models[1], models[0], suites)
    assert (decision, verdict.verdict) == ("refuse", "worse")
    assert verdict.lost > verdict.gained
    assert verdict.used < ITEMS


def test_items_that_training_held_are_never_asked(models, suites):
    clean = {f"q{n}" for n in range(20)}
    leaked = {f"q{n}" for n in range(ITEMS)} - clean
    decision, verdict, told = decide(models[0], models[0], suites, leaked, contaminated=1.0)
    assert (decision, verdict.verdict, verdict.used) == ("undecided", "undecided", len(clean))
    assert len(told) == 1


def test_a_suite_that_training_was_fed_is_invalid_before_anything_is_asked(models, suites):
    decision, verdict, told = decide(models[0], models[0], suites, {f"q{n}" for n in range(200)})
    assert (decision, verdict.verdict, verdict.used, told) == ("invalid", "invalid", 0, [])
    assert "200 of 400 items are in the training text (instructions/forum 200)" in verdict.reason


def test_a_floor_is_shown_by_a_bet_of_its_own(models, suites):
    assert decide(models[0], models[0], suites, floor=0.5)[0] == "promote"
    decision, verdict, _ = decide(models[1], models[1], suites, floor=0.9)
    assert (decision, verdict.verdict) == ("refuse", "below floor")
    assert verdict.used < ITEMS / 4


def test_a_champion_at_chance_shows_nothing_and_is_asked_to_the_end(models, suites, tmp_path):
    rows = [json.loads(line) for line in (suites / "mmlu-mini" / "items.jsonl").read_text().splitlines()]
    write(tmp_path / "mmlu-mini", [{**row, "answer": (row["answer"] + n) % 4} for n, row in enumerate(rows)])
    decision, verdict, _ = decide(models[0], models[0], tmp_path)
    assert (decision, verdict.verdict, verdict.used) == ("promote", "uninformative", ITEMS)
    assert decide(models[0], models[0], tmp_path, require="better")[0] != "promote"


def test_better_is_shown_against_a_champion_at_chance_too(models, suites):
    decision, verdict, _ = decide(models[0], models[1], suites, require="better")
    assert (decision, verdict.verdict) == ("promote", "better")


def test_another_chat_template_is_another_evaluation(models, suites, tmp_path):
    other = shutil.copytree(models[0], tmp_path / "other")
    template = next(other.glob("chat_template*"))
    template.write_text(template.read_text() + " ")
    decision, verdict, told = decide(other, models[0], suites)
    assert (decision, verdict.verdict, told) == ("invalid", "invalid", [])
    assert "template_md5" in verdict.reason


def test_a_choice_among_tests_is_not_made_early(models, suites):
    with pytest.raises(UserError, match="better_on_one_of"):
        decide(models[0], models[0], suites, one_of=["mmlu-mini"])


def test_batches_grow_and_hold_every_item_once():
    batches = list(early._batches(range(1000), 0, early._first_look(0.05, 0.1)))
    assert sorted(place for batch in batches for place in batch) == list(range(1000))
    assert [len(batch) for batch in batches[:4]] == [32, 32, 32, 48]
    assert batches != list(early._batches(range(1000), 1, 32))
