import json
import random
from pathlib import Path

import pytest

from models.core.content import folder_md5
from models.core.errors import StageError, UserError
from models.core.files import write_lines
from models.core.given import read_lines
from models.data import kinds
from tasks.prepare import PrepareInputs, PrepareOutputs, PrepareParams, prepare
from tests.suites import described

SHARED = Path(__file__).parents[2] / "../shared/data"
PARAMS = PrepareParams.model_validate(
    {
        "seed": 7,
        "characters": {kind: {"min": 5, "max": 2000} for kind in kinds.FIELDS},
        "near_duplicates": {"shingle_words": 3, "min_words": 10, "threshold": 0.85},
        "decontamination": {"ngram_words": 8, "min_words": 4},
        "phone_regions": ["US", "GB"],
        "held_out_share": {"documents": 0.2, "conversations": 0.2},
    }
)
QUESTION = "Which instrument does the spouse of Disa Donock play?"
PROGRAM = {
    "task_id": "mini/0",
    "prompt": 'def add_all(numbers):\n    """Return the sum."""\n',
    "entry_point": "add_all",
    "canonical_solution": "    total = 0\n    for number in numbers:\n        total += number\n    return total\n",
    "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n",
}
SAME_PROGRAM = "def f(xs):\n    s = 1\n    for x in xs:\n        s += x\n    return s"
LONG = "Far away in the hills there lives an old man who tells a new tale every night until the fire has gone out"


def said(role, content):
    return {"role": role, "content": content}


def conversation(asked, answered):
    return [said("user", asked), said("assistant", answered)]


def pair(number, asked, chosen, rejected):
    answers = {"chosen": [said("assistant", chosen)], "rejected": [said("assistant", rejected)]}
    return {"id": f"p{number}", "prompt": [said("user", asked)], **answers, "source": "s"}


def clean_records(count=40):
    return {
        "documents": [{"id": f"d{n}", "text": f"The {n}th story is about a cat.", "source": "s"} for n in range(count)],
        "instructions": [
            {"id": f"i{n}", "messages": conversation(f"What is {n}?", f"A number, {n}."), "source": "s"} for n in range(count)
        ],
        "preferences": [pair(n, f"Tell me of {n}.", f"It is {n}.", "I will not.") for n in range(count)],
        "prompts": [{"id": f"q{n}", "prompt": [said("user", f"Describe {n}.")]} for n in range(count)],
    }


def run(folder, records, params=PARAMS, made=tuple(kinds.FIELDS)):
    for kind, rows in records.items():
        write_lines(folder / "records" / f"{kind}.jsonl", rows)
    item = {"id": "0", "question": QUESTION, "choices": ["the harp", "the horn"], "answer": 0, "subject": "music"}
    write_lines(described(folder / "suites" / "gpqa-mini") / "items.jsonl", [item])
    write_lines(described(folder / "suites" / "humaneval-mini") / "items.jsonl", [PROGRAM])
    inputs = PrepareInputs(records=folder / "records", suites=folder / "suites", validation=folder / "validation.json")
    return prepare(params, inputs, written(folder, made))


def written(folder, made=tuple(kinds.FIELDS)):
    out = folder / "out"
    return PrepareOutputs(**{kind: out / kind for kind in made}, dropped=out / "dropped.jsonl", portrait=out / "portrait.json")


def split(folder, kind, name):
    return list(read_lines(folder / "out" / kind / f"{name}.jsonl"))


def reasons(folder):
    return {(drop["id"], drop["reason"], drop.get("by")) for drop in read_lines(folder / "out" / "dropped.jsonl")}


def test_clean_records_all_stay_and_none_is_in_both_splits(tmp_path):
    metrics = run(tmp_path, clean_records())
    assert metrics.kept == 160
    assert metrics.dropped == {kind: {} for kind in kinds.FIELDS}
    for kind in kinds.FIELDS:
        train, held_out = ({row["id"] for row in split(tmp_path, kind, name)} for name in ("train", "held_out"))
        assert len(train) + len(held_out) == 40
        assert not train & held_out
        assert len(held_out) == metrics.held_out[kind] > 0


def test_each_drop_is_written_down_with_its_reason_and_its_cause_but_not_its_text(tmp_path):
    records = clean_records()
    dirt = {
        "empty": " \u200b\n",
        "short": "a",
        "long": "x" * 2001,
        "first": LONG,
        "copy": f"  {LONG}\r\n",
        "near": f"{LONG.upper()}!",
        "leak": f"{LONG} and asks: {QUESTION.lower()}",
        "code": f"A sum:\n```python\n{SAME_PROGRAM}\n```",
    }
    records["documents"] += [{"id": name, "text": text, "source": "s"} for name, text in dirt.items()] + [{"id": "broken", "text": None}]
    records["instructions"].append({"id": "turns", "messages": [said("user", "Are you there?")], "source": "s"})
    records["instructions"].append({"id": "program", "messages": conversation("Add all up.", SAME_PROGRAM), "source": "s"})
    records["preferences"].append(pair(99, "Is it so?", "It is  so.", "It is so. "))
    records["preferences"].append(pair(98, "Is it so?", "It is so.", QUESTION))
    body = SAME_PROGRAM.removeprefix("def f(xs):\n")
    records["instructions"].append({"id": "body", "messages": conversation("Complete this:\ndef f(xs):", body), "source": "s"})
    run(tmp_path, records)
    assert reasons(tmp_path) == {
        ("body", "contaminated", "humaneval-mini/mini/0"),
        ("empty", "empty", None),
        ("short", "too-short", None),
        ("long", "too-long", None),
        ("copy", "duplicate", "first"),
        ("near", "near-duplicate", "first"),
        ("leak", "contaminated", "gpqa-mini/0"),
        ("code", "contaminated", "humaneval-mini/mini/0"),
        ("broken", "broken", None),
        ("turns", "broken", None),
        ("program", "contaminated", "humaneval-mini/mini/0"),
        ("p99", "same-answers", None),
        ("p98", "contaminated", "gpqa-mini/0"),
    }
    assert "spouse" not in (tmp_path / "out" / "dropped.jsonl").read_text()


def test_personal_data_is_replaced_in_every_kind_and_counted(tmp_path):
    records = clean_records()
    mail = "Write to someone@example.org, please."
    records["documents"].append({"id": "d", "text": mail, "source": "s"})
    records["instructions"].append({"id": "i", "messages": conversation(mail, f"I did: {mail}"), "source": "s"})
    records["preferences"].append(pair(77, mail, f"I did: {mail}", "No, I do not."))
    records["prompts"].append({"id": "q", "prompt": [said("user", mail)]})
    assert run(tmp_path, records).redacted == {"email": 6}
    for kind in kinds.FIELDS:
        for name in ("train", "held_out"):
            assert "example.org" not in json.dumps(split(tmp_path, kind, name))


def test_indentation_of_code_survives(tmp_path):
    records = clean_records()
    code = "def half(x):\n    if x > 1:\n        return x  /  2\n    return None"
    records["documents"].append({"id": "code", "text": code, "source": "s"})
    run(tmp_path, records)
    (found,) = (row["text"] for name in ("train", "held_out") for row in split(tmp_path, "documents", name) if row["id"] == "code")
    assert found == code


def test_siblings_of_one_question_are_in_one_split(tmp_path):
    records = clean_records()
    records["preferences"] = [pair(10 * n + m, f"Tell me of {n}.", f"It is {m}.", "I will not.") for n in range(30) for m in range(3)]
    run(tmp_path, records)
    train, held_out = ({row["prompt"][0]["content"] for row in split(tmp_path, "preferences", name)} for name in ("train", "held_out"))
    assert train
    assert held_out
    assert not train & held_out


def test_a_question_held_out_of_one_kind_is_trained_on_in_none(tmp_path):
    records = clean_records()
    asked = [f"Tell me of {n}." for n in range(40)]
    records["instructions"] = [{"id": f"i{n}", "messages": conversation(a, f"It is {n}."), "source": "s"} for n, a in enumerate(asked)]
    records["prompts"] = [{"id": f"q{n}", "prompt": [said("user", a)]} for n, a in enumerate(asked)]
    run(tmp_path, records)
    held_out = [
        {row.get("messages", row.get("prompt"))[0]["content"] for row in split(tmp_path, kind, "held_out")}
        for kind in ("instructions", "preferences", "prompts")
    ]
    assert held_out[0] == held_out[1] == held_out[2]


def test_a_new_record_moves_no_other_to_the_other_split(tmp_path):
    records = clean_records()
    run(tmp_path / "a", records)
    records["documents"].insert(0, {"id": "new", "text": "Quite another story.", "source": "s"})
    run(tmp_path / "b", records)
    before, after = ({row["id"] for row in split(tmp_path / name, "documents", "held_out")} for name in "ab")
    assert before <= after <= before | {"new"}


def test_another_seed_holds_out_others(tmp_path):
    run(tmp_path / "a", clean_records())
    run(tmp_path / "b", clean_records(), PARAMS.model_copy(update={"seed": 8}))
    assert split(tmp_path / "a", "documents", "held_out") != split(tmp_path / "b", "documents", "held_out")


def test_a_kind_of_which_nothing_is_left_is_named(tmp_path):
    with pytest.raises(StageError, match="prompts: 0 of the records can be used"):
        run(tmp_path, clean_records() | {"prompts": [{"id": "q", "prompt": []}]})


def test_only_the_kinds_that_have_an_output_are_prepared_and_must_be_there(tmp_path, capsys):
    records = clean_records()
    del records["preferences"]
    with pytest.raises(UserError, match=r"there are no preferences, which dvc.yaml has prepared as artifacts/prepared/preferences"):
        run(tmp_path, records)
    metrics = run(tmp_path, records, made=("documents", "instructions"))
    assert metrics.kept_by_kind.keys() == {"documents", "instructions"}
    assert not (tmp_path / "out" / "prompts").exists()
    assert "nobody reads the prompts that are there" in capsys.readouterr().out


def test_pairs_that_redaction_makes_equal_are_dropped_and_others_stay(tmp_path):
    records = clean_records()
    records["preferences"] += [
        pair(90, "Whom do I ask?", "Write to ann@example.org today.", "Write to bob@example.com today."),
        pair(91, "Whom do I call then?", "Write to ann@example.org today.", "Nobody."),
    ]
    metrics = run(tmp_path, records)
    assert reasons(tmp_path) == {("p90", "same-answers", None)}
    assert metrics.redacted == {"email": 1}


@pytest.mark.parametrize("nothing", ["", "  \n", "\u200b", None])
def test_a_system_message_that_says_nothing_counts_as_none(tmp_path, nothing):
    records = clean_records()
    system = {"role": "system", "content": nothing}
    records["instructions"][0]["messages"] = [system, *records["instructions"][0]["messages"]]
    records["prompts"][0]["prompt"] = [system, *records["prompts"][0]["prompt"]]
    records["preferences"][0]["prompt"] = [system, *records["preferences"][0]["prompt"]]
    metrics = run(tmp_path, records)
    assert metrics.dropped == {kind: {} for kind in kinds.FIELDS}
    for kind, field in (("instructions", "messages"), ("prompts", "prompt"), ("preferences", "prompt")):
        for name in ("train", "held_out"):
            assert all(said["role"] != "system" for row in split(tmp_path, kind, name) for said in row[field])


def test_of_few_prompts_two_are_held_out_and_where_that_cannot_be_it_is_said_before_anything_is_trained(tmp_path):
    records = clean_records()
    records["prompts"] = records["prompts"][:3]
    run(tmp_path / "three", records)
    assert (len(split(tmp_path / "three", "prompts", "train")), len(split(tmp_path / "three", "prompts", "held_out"))) == (1, 2)
    records["prompts"] = records["prompts"][:2]
    with pytest.raises(
        StageError, match=r"prompts: 2 of the records can be used, 2 of them are held out; must be 2 at least, and one more"
    ):
        run(tmp_path / "two", records)


def dirty_records():
    """Real text of all sorts as all four kinds."""
    strings = json.loads((SHARED / "dirty" / "blns.json").read_text(encoding="utf-8"))
    for name in ("alice", "pride"):
        strings += (SHARED / "documents" / f"{name}.txt").read_text(encoding="utf-8", errors="replace").split("\n\n")[:600]
    trees = map(json.loads, (SHARED / "instructions" / "oasst_en_100_tree.jsonl").read_text(encoding="utf-8").splitlines())
    strings += [text for tree in trees for text in (tree["prompt"]["text"], *(reply["text"] for reply in tree["prompt"]["replies"]))]
    source = random.Random(0)
    strings += source.sample(strings, 50) + [f"{QUESTION} {text}" for text in source.sample(strings, 20)]
    picks = source.sample(strings, 300)
    return {
        "documents": [{"id": f"d{n}", "text": text, "source": "s"} for n, text in enumerate(strings)],
        "instructions": [{"id": f"i{n}", "messages": conversation(text, picks[-n]), "source": "s"} for n, text in enumerate(picks)],
        "preferences": [pair(n, f"Which is better, number {n}?", text, picks[-n]) for n, text in enumerate(picks)],
        "prompts": [{"id": f"q{n}", "prompt": [said("user", text)]} for n, text in enumerate(picks)],
    }


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data beside the repository ({SHARED.name})")
def test_of_real_dirty_text_every_record_is_kept_or_dropped_with_a_reason_and_equal_runs_are_equal(tmp_path):
    records = dirty_records()
    metrics = run(tmp_path / "a", records)
    for kind, rows in records.items():
        assert metrics.read[kind] == len(rows) == metrics.kept_by_kind[kind] + sum(metrics.dropped[kind].values())
        assert metrics.kept_by_kind[kind] == sum(len(split(tmp_path / "a", kind, name)) for name in ("train", "held_out"))
    assert metrics.dropped["documents"]["contaminated"] >= 20
    assert metrics.dropped["documents"]["duplicate"] >= 20
    assert metrics.contaminated_left == 0
    assert run(tmp_path / "b", records) == metrics
    assert folder_md5(tmp_path / "a" / "out") == folder_md5(tmp_path / "b" / "out")


def test_what_an_answer_is_checked_by_stays_with_its_prompt_and_must_be_text(tmp_path):
    records = clean_records()
    for number, record in enumerate(records["prompts"]):
        record["answer"] = str(number) if number else 0
    assert run(tmp_path, records).dropped["prompts"] == {"broken": 1}
    kept = [*split(tmp_path, "prompts", "train"), *split(tmp_path, "prompts", "held_out")]
    assert {record["id"]: record["answer"] for record in kept} == {f"q{number}": str(number) for number in range(1, 40)}
