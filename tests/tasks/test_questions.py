"""What models are asked: own prompts first, held-out ones for the rest, and those that provoke."""

import json

import pytest

from models.core.errors import UserError
from models.core.files import write_lines
from models.core.given import read_lines
from tasks.questions import OWN, QuestionsInputs, QuestionsOutputs, QuestionsParams, questions


def said(role, content):
    return {"role": role, "content": content}


@pytest.fixture
def inputs(tmp_path):
    (tmp_path / "raw").mkdir()
    prompts = [{"id": f"p{n}", "prompt": [said("user", f"What is {n}?")]} for n in range(30)]
    write_lines(tmp_path / "prompts" / "held_out.jsonl", prompts)
    return QuestionsInputs(raw=tmp_path / "raw", prompts=tmp_path / "prompts")


def asked(inputs, tmp_path, count=20, seed=1):
    out = tmp_path / "questions.jsonl"
    metrics = questions(QuestionsParams(seed=seed, count=count), inputs, QuestionsOutputs(questions=out))
    return list(read_lines(out)), metrics


def test_twenty_held_out_prompts_and_as_many_that_provoke(inputs, tmp_path):
    rows, metrics = asked(inputs, tmp_path)
    assert (metrics.own, metrics.held_out, metrics.provoking) == (0, 20, 20)
    assert metrics.questions == len({row["id"] for row in rows}) == 40
    assert all(row["prompt"][-1]["role"] == "user" for row in rows)


def test_own_prompts_come_first_and_are_texts_or_messages(inputs, tmp_path):
    own = [{"prompt": "Who are you?"}, {"id": "kind", "prompt": [said("system", "Be kind."), said("user", "Hello")]}]
    write_lines(inputs.raw / OWN, own)
    rows, metrics = asked(inputs, tmp_path, count=5)
    assert (metrics.own, metrics.held_out) == (2, 3)
    assert [row["id"] for row in rows[:2]] == ["own/1", "own/kind"]
    assert rows[0]["prompt"] == [said("user", "Who are you?")]


def test_more_data_keeps_the_questions_that_are_there(inputs, tmp_path):
    before, _ = asked(inputs, tmp_path, count=20)
    more = [*read_lines(inputs.prompts / "held_out.jsonl"), {"id": "new", "prompt": [said("user", "And now?")]}]
    write_lines(inputs.prompts / "held_out.jsonl", more[::-1])
    after, _ = asked(inputs, tmp_path, count=20)
    assert len({row["id"] for row in before} - {row["id"] for row in after}) <= 1


def test_a_held_out_prompt_that_is_an_own_one_is_asked_once(inputs, tmp_path):
    write_lines(inputs.raw / OWN, [{"prompt": "What is 3?"}])
    rows, _ = asked(inputs, tmp_path, count=30)
    assert sum(row["prompt"] == [said("user", "What is 3?")] for row in rows) == 1


def test_without_prompts_conversations_are_asked_up_to_the_last_question(inputs, tmp_path):
    talk = [said("user", "Hi"), said("assistant", "Hello"), said("user", "And now?"), said("assistant", "Bye")]
    calls = [said("user", "Time?"), {**said("assistant", ""), "tool_calls": []}, said("tool", "5"), said("assistant", "Five")]
    calls[1]["tool_calls"] = [{"type": "function", "function": {"name": "clock", "arguments": {}}}]
    again = [*calls, said("user", "Sure?"), said("assistant", "Yes")]
    rows = [{"id": f"c{n}", "messages": messages} for n, messages in enumerate((talk, calls, again))]
    write_lines(tmp_path / "instructions" / "held_out.jsonl", rows)
    found, metrics = asked(QuestionsInputs(raw=inputs.raw, instructions=tmp_path / "instructions"), tmp_path)
    assert metrics.held_out == 2, "what a tool said before the question, no model can be given"
    assert sorted(row["prompt"][-1]["content"] for row in found if row["from"] == "held-out") == ["And now?", "Time?"]


@pytest.mark.parametrize(
    ("row", "said_of_it"),
    [
        ({"prompt": ""}, "record 1: prompt is not a list"),
        ({"prompt": [said("assistant", "Hi")]}, "record 1: prompt has the roles assistant"),
        ({"question": "Hi"}, "record 1: prompt is not a list"),
    ],
)
def test_an_own_prompt_that_is_none_is_one_line(inputs, tmp_path, row, said_of_it):
    (inputs.raw / OWN).write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=said_of_it):
        asked(inputs, tmp_path)


def test_own_prompts_that_were_not_pulled_are_asked_for(inputs, tmp_path):
    (inputs.raw / f"{OWN}.dvc").write_text("outs:\n- path: samples.jsonl\n")
    with pytest.raises(UserError, match=r"samples\.jsonl is missing, and samples\.jsonl\.dvc says .* 'dvc pull' brings it"):
        asked(inputs, tmp_path)


def test_two_own_prompts_of_one_name_are_refused(inputs, tmp_path):
    write_lines(inputs.raw / OWN, [{"id": "a", "prompt": "Hi"}, {"id": "a", "prompt": "Ho"}])
    with pytest.raises(UserError, match="record 2: the id a comes twice"):
        asked(inputs, tmp_path)
