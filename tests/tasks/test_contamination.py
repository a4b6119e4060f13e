"""Contamination: which items stand in what training is fed, by stage and source."""

import pytest

from models.core.files import write_lines
from models.core.given import read_lines
from tasks.contamination import ContaminationInputs, ContaminationOutputs, ContaminationParams, contamination
from tests.suites import described

KINDS = ("documents", "instructions", "preferences", "prompts")


def say(role, content):
    return {"role": role, "content": content}


@pytest.fixture
def inputs(tmp_path):
    questions = [f"Which town lies on the river that rises below mount {name}?" for name in ("Aro", "Bel", "Cim")]
    items = [
        {"id": f"q/{n}", "question": question, "choices": ["Don", "Erz"], "answer": 0, "subject": "rivers"}
        for n, question in enumerate(questions)
    ]
    write_lines(described(tmp_path / "suites" / "mmlu-mini") / "items.jsonl", items)
    for kind in KINDS:
        write_lines(tmp_path / kind / "train.jsonl", [])
        write_lines(tmp_path / kind / "held_out.jsonl", [])
    return ContaminationInputs(suites=tmp_path / "suites", **{kind: tmp_path / kind for kind in KINDS})


def found(inputs, tmp_path):
    params = ContaminationParams(ngram_words=11, min_words=4)
    metrics = contamination(params, inputs, ContaminationOutputs(contamination=tmp_path / "out"))
    return {row["id"]: row["where"] for row in read_lines(tmp_path / "out" / "mmlu-mini.jsonl")}, metrics


def test_an_item_is_found_in_every_stage_and_source_that_holds_it(inputs, tmp_path):
    text = "which town lies on the river that rises below mount Aro? Don."
    write_lines(inputs.documents / "train.jsonl", [{"id": "d", "text": f"Then he asked {text}", "source": "forum"}])
    chat = [say("user", "which town lies on the river that rises below mount BEL"), say("assistant", "Don")]
    write_lines(inputs.instructions / "train.jsonl", [{"id": "i", "messages": chat, "source": "quiz"}])
    write_lines(inputs.prompts / "train.jsonl", [{"id": "p", "prompt": [say("user", text)]}])
    where, metrics = found(inputs, tmp_path)
    # ten words are common to all three questions, one fewer than eleven: only the named ones are held
    assert where == {"q/0": ["documents/forum", "prompts/prompts"], "q/1": ["instructions/quiz"]}
    assert metrics.items == 3
    assert metrics.contaminated == {"mmlu-mini": 2}
    assert metrics.leaks == {"documents/forum": 1, "instructions/quiz": 1, "prompts/prompts": 1}


def test_what_is_held_out_of_training_is_not_fed_to_it(inputs, tmp_path):
    text = "which town lies on the river that rises below mount Aro?"
    write_lines(inputs.documents / "held_out.jsonl", [{"id": "d", "text": text, "source": "forum"}])
    assert found(inputs, tmp_path)[0] == {}


def test_a_short_question_is_found_with_its_answer_in_the_next_message_or_in_the_blank(inputs, tmp_path):
    asked = ["Who was Ada?", "Mount Aro lies in ____ today"]
    items = [{"id": f"q/{n}", "question": q, "choices": ["Don Erz", "Cim"], "answer": 0, "subject": "x"} for n, q in enumerate(asked)]
    write_lines(inputs.suites / "mmlu-mini" / "items.jsonl", items)
    text = "Everybody knows: mount Aro lies in Don Erz today."
    write_lines(inputs.documents / "train.jsonl", [{"id": "d", "text": text, "source": "web"}])
    for reply in ("Don Erz", "Answer: Don Erz."):
        chat = [say("user", "Who was Ada?"), say("assistant", reply)]
        write_lines(inputs.instructions / "train.jsonl", [{"id": "i", "messages": chat, "source": "quiz"}])
        assert found(inputs, tmp_path)[0] == {"q/0": ["instructions/quiz"], "q/1": ["documents/web"]}
