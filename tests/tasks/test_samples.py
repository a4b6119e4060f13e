"""A model's answers to the questions: the same however they are batched, and marked where they are cut, empty or repeat themselves."""

import pytest

from models.core.files import write_lines
from models.core.given import read_lines
from models.core.work import Work
from models.train import generation
from tasks.samples import SamplesInputs, SamplesOutputs, SamplesParams, flags, samples
from tests.tiny import tiny_model

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


def answers(model, tmp_path, rows, **changes):
    write_lines(tmp_path / "questions.jsonl", rows)
    params = SamplesParams(**{"max_new_tokens": 12, "batch_size": 8, **changes})
    inputs = SamplesInputs(model=model, questions=tmp_path / "questions.jsonl")
    metrics = samples(params, inputs, SamplesOutputs(answers=tmp_path / "answers.jsonl"), Work(tmp_path / "work", tmp_path / "reports"))
    return list(read_lines(tmp_path / "answers.jsonl")), metrics


def rows(count):
    prompts = [f"{'Tell me more. ' * (n % 3)}What is {n}?" for n in range(count)]
    return [{"id": f"q{n}", "from": "own", "prompt": [{"role": "user", "content": text}]} for n, text in enumerate(prompts)]


def test_an_answer_does_not_depend_on_what_is_asked_beside_it(model, tmp_path):
    together, metrics = answers(model, tmp_path, rows(6))
    alone, _ = answers(model, tmp_path, rows(6), batch_size=1)
    assert together == alone
    assert [row["id"] for row in together] == [f"q{n}" for n in range(6)]
    assert metrics.answers == 6
    assert metrics.cut == sum("cut" in row["flags"] for row in together)


def test_a_question_without_room_for_an_answer_is_not_asked(model, tmp_path):
    long = {"id": "long", "from": "own", "prompt": [{"role": "user", "content": "word " * 400}]}
    found, metrics = answers(model, tmp_path, [*rows(1), long])
    assert found[1]["flags"] == ["too-long"]
    assert (metrics.answers, metrics.too_long) == (1, 1)


def test_a_short_question_is_not_padded_to_a_page_of_text(model, tmp_path, monkeypatch):
    asked, plain = [], generation.batches
    monkeypatch.setattr(generation, "batches", lambda *given, **more: asked.append(len(given[2])) or plain(*given, **more))
    page = {"id": "page", "from": "own", "prompt": [{"role": "user", "content": "word " * 90}]}
    found, _ = answers(model, tmp_path, [page, *rows(2)])
    assert [row["id"] for row in found] == ["page", "q0", "q1"]
    assert asked == [2, 1]


@pytest.mark.parametrize(
    ("text", "ended", "found"),
    [
        ("The town lies at the river.", True, []),
        ("The town lies", False, ["cut"]),
        ("  \n", True, ["empty"]),
        ("It is so so so so so so so so", False, ["cut", "repeats"]),
        ("It is it. " * 5, True, ["repeats"]),
        ("one two three. " * 5 + "one tw", False, ["cut", "repeats"]),
        ("........", True, []),
        ("He said no, no, no.", True, []),
        ("1010, 1010, 1010", True, []),
    ],
)
def test_what_is_wrong_with_an_answer_at_first_sight(text, ended, found):
    assert flags(text, ended) == found
