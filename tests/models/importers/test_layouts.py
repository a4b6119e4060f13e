"""Rows of every layout become the records that they say, and what is not clear is named."""

import csv
import io
import json

import pyarrow
import pyarrow.parquet
import pytest

from models.core.errors import UserError
from models.core.given import read_lines
from models.data import kinds
from models.data.importers.bringing import Wanted, bring


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


ASKED, GOOD, BAD = user("Name a colour."), assistant("Green."), assistant("No.")
CONVERSATION = {"instructions": {"messages": [ASKED, GOOD]}}
PAIR = {"preferences": {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}}
HH = "\n\nHuman: Name a colour.\n\nAssistant: {}"
RATED = [{"response": "No.", "overall_score": 2.0}, {"response": "Green.", "overall_score": 8.0}, {"response": "Red.", "overall_score": 7}]
FLAT = {  # layouts without lists, which a table holds as they are
    "alpaca": ({"instruction": "Name a colour.", "input": "", "output": "Green."}, CONVERSATION),
    "prompt-completion": ({"prompt": "Name a colour.", "completion": "Green."}, CONVERSATION),
    "question and answer": ({"question": "Name a colour.", "answer": "Green."}, CONVERSATION),
    "hh": ({"chosen": HH.format("Green."), "rejected": HH.format("No.")}, PAIR),
    "pairs of texts": ({"prompt": "Name a colour.", "chosen": "Green.", "rejected": "No."}, PAIR),
    "llmbar": ({"input": "Name a colour.", "output_1": "No.", "output_2": "Green.", "label": "2"}, PAIR),
    "prompts": ({"prompt": "Name a colour."}, {"prompts": {"prompt": [ASKED]}}),
    "documents": ({"text": "Once upon a time.", "url": "x"}, {"documents": {"text": "Once upon a time."}}),
}
NESTED = {
    "chat": ({"messages": [ASKED, GOOD], "id": 7}, CONVERSATION),
    "ultrachat": ({"prompt": "Name a colour.", "prompt_id": "x", "messages": [ASKED, GOOD]}, CONVERSATION),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Name a colour."}, {"from": "gpt", "value": "Green."}]},
        CONVERSATION,
    ),
    "ultrafeedback, binarized": (
        {"prompt": "Name a colour.", "messages": [ASKED, GOOD], "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD], "score_chosen": 8.0},
        PAIR,
    ),
    "pairs without a prompt": ({"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}, PAIR),
    "pairs of lists": ({"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}, PAIR),
    "ultrafeedback": ({"instruction": "Name a colour.", "models": ["a"], "completions": RATED}, PAIR),
    "openai-pairs": ({"input": {"messages": [ASKED]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]}, PAIR),
}


def packed(data, packing):
    return data if not packing else pyarrow.compress(data, codec="zstd" if packing == ".zst" else "gzip", asbytes=True)


def written(rows, form):
    if form == ".jsonl":
        return "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    if form == ".json":
        return json.dumps(rows, indent=1).encode()
    if form == ".parquet":
        file = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        return file.getvalue()
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), delimiter="," if form == ".csv" else "\t")
    table.writeheader()
    table.writerows([{key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()} for row in rows])
    return text.getvalue().encode()


def brought(tmp_path, rows, wanted=None, form=".jsonl", packing=""):
    """What the import makes of the rows: the records by kind, without ids and sources."""
    source, raw = tmp_path / f"given{form}{packing}", tmp_path / "raw"
    tmp_path.mkdir(exist_ok=True)
    source.write_bytes(packed(written(rows, form), packing))
    bring(source, raw, wanted)
    found = {path.parent.name: list(read_lines(path)) for path in raw.glob("*/*.jsonl")}
    assert not any(kinds.is_broken(kind, record) for kind, records in found.items() for record in records)
    names = [record.pop("id") for records in found.values() for record in records]
    assert len(names) == len(set(names))
    assert {record.pop("source", "") for records in found.values() for record in records} <= {"", f"{tmp_path.name}/{source.name}"}
    return found


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("form", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("layout", FLAT)
def test_every_layout_is_recognised_in_every_form(tmp_path, layout, form, packing):
    row, records = FLAT[layout]
    assert brought(tmp_path, [row, row], form=form, packing=packing) == {kind: [record] * 2 for kind, record in records.items()}


@pytest.mark.parametrize("form", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("layout", NESTED)
def test_a_layout_with_lists_is_recognised_where_a_form_has_them(tmp_path, layout, form):
    row, records = NESTED[layout]
    assert brought(tmp_path, [row, row], form=form) == {kind: [record] * 2 for kind, record in records.items()}


@pytest.mark.parametrize("layout", ["chat", "sharegpt", "pairs of lists", "ultrafeedback"])
def test_a_table_may_hold_lists_as_json(tmp_path, layout):
    row, records = NESTED[layout]
    assert brought(tmp_path, [row], form=".csv") == {kind: [record] for kind, record in records.items()}


@pytest.mark.parametrize(
    ("kind", "records"),
    [
        ("instructions", CONVERSATION),
        ("prompts", {"prompts": {"prompt": [ASKED]}}),
    ],
)
def test_a_pair_can_become_what_is_chosen_or_what_is_asked(tmp_path, kind, records):
    row, _ = FLAT["pairs of texts"]
    assert brought(tmp_path, [row], Wanted(kind)) == {kind: [record] for kind, record in records.items()}


def test_labels_become_what_is_said(tmp_path):
    rows = [{"prompt": "Name a colour.", "completion": text, "label": label} for text, label in (("Green.", True), ("No.", False))]
    with pytest.raises(UserError, match=r"kto .* can become several kinds: add --as instructions or --as preferences or --as prompts"):
        brought(tmp_path, rows)
    assert brought(tmp_path, rows, Wanted("instructions")) == {"instructions": [CONVERSATION["instructions"]]}


@pytest.mark.parametrize("order", [1, -1])
def test_labelled_completions_of_one_prompt_become_pairs_and_others_are_counted(tmp_path, order):
    rows = [{"prompt": "Name a colour.", "completion": text, "label": label} for text, label in (("Green.", "1"), ("No.", "0"))][::order]
    path = tmp_path / "given.csv"
    path.write_bytes(written([*rows, {"prompt": "Alone?", "completion": "Yes.", "label": "True"}], ".csv"))
    done = bring(path, tmp_path / "raw", Wanted("preferences"))
    assert (done.read, done.imported, dict(done.left_out)) == (3, 2, {"no completion of the other label to the same prompt": 1})
    (record,) = read_lines(done.files[0])
    assert {key: record[key] for key in ("prompt", "chosen", "rejected")} == PAIR["preferences"]


def test_a_system_message_comes_first_from_whichever_column(tmp_path):
    system = {"role": "system", "content": "Be brief."}
    rows = [{"system": "Be brief.", "question": "Name a colour.", "chosen": "Green.", "rejected": "No."}]
    assert brought(tmp_path, rows)["preferences"][0]["prompt"] == [system, ASKED]
    rows = [{"system": "Be brief.", "instruction": "Name a colour.", "output": "Green.", "history": [["Hi", "Hello"]]}]
    assert brought(tmp_path, rows)["instructions"][0]["messages"] == [system, user("Hi"), assistant("Hello"), ASKED, GOOD]
    rows = [{"messages": [{"role": "developer", "content": "Be brief."}, ASKED, GOOD]}]
    assert brought(tmp_path, rows)["instructions"][0]["messages"] == [system, ASKED, GOOD]


def test_several_turns_of_a_transcript_are_the_prompt(tmp_path):
    turns = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Name a colour.\n\nAssistant: {}"
    (pair,) = brought(tmp_path, [{"chosen": turns.format("Green."), "rejected": turns.format("No.")}])["preferences"]
    assert pair == {"prompt": [user("Hi"), assistant("Hello"), ASKED], "chosen": [GOOD], "rejected": [BAD]}


CALL = {"type": "function", "function": {"name": "look_up", "arguments": {"word": "green", "most": 3}}}
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize(
    "row",
    [
        {
            "messages": [
                ASKED,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "a colour"},
                GOOD,
            ],
            "tools": TOOLS,
        },
        {
            "messages": [
                ASKED,
                {"role": "assistant", "function_call": {"name": "look_up", "arguments": '{"word": "green", "most": 3}'}, "content": None},
                {"role": "function", "content": "a colour"},
                GOOD,
            ],
            "functions": [TOOLS[0]["function"]],
        },
        {
            "conversations": [
                {"from": "human", "value": "Name a colour."},
                {"from": "function_call", "value": '{"name": "look_up", "arguments": {"word": "green", "most": 3}}'},
                {"from": "observation", "value": "a colour"},
                {"from": "gpt", "value": "Green."},
            ],
            "tools": json.dumps(TOOLS),
        },
    ],
    ids=["openai", "openai, as it was", "sharegpt"],
)
def test_tool_calls_and_their_results_are_kept(tmp_path, row):
    (record,) = brought(tmp_path, [row])["instructions"]
    calls = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert record == {"messages": [ASKED, calls, {"role": "tool", "content": "a colour"}, GOOD], "tools": TOOLS}


def test_a_column_of_another_name_is_meant(tmp_path):
    rows = [{"prompt": "Name a colour.", "good": "Green.", "bad": "No."}]
    assert brought(tmp_path, rows, Wanted(columns={"chosen": "good", "rejected": "bad"})) == {"preferences": [PAIR["preferences"]]}
    with pytest.raises(UserError, match=r"--map chosen=best: .*given\.jsonl has no column best; it has prompt, good, bad"):
        brought(tmp_path, rows, Wanted(columns={"chosen": "best"}))


@pytest.mark.parametrize(
    ("row", "wanted", "said"),
    [
        ({"a": 1, "b": 2}, Wanted(), r"no layout has the columns a, b; must be one of chat \(messages\); .* --map NAME=COLUMN"),
        (
            {"text": "a", "prompt": "b"},
            Wanted(),
            r"the columns text, prompt fit several layouts: add --layout prompts .* or --layout documents",
        ),
        ({"prompt": "a"}, Wanted("documents"), "no layout that becomes documents has the columns prompt"),
        ({"prompt": "a"}, Wanted("pictures"), "--as pictures: no kind of record; must be one of documents, instructions"),
        ({"prompt": "a"}, Wanted(layout="nope"), "no layout is named 'nope'; must be one of chat, "),
        (
            {"prompt": "a"},
            Wanted("documents", "chat"),
            r"chat \(messages\) does not become documents; --as must be one of instructions, prompts",
        ),
    ],
)
def test_what_is_not_clear_is_an_error_that_names_the_choices(tmp_path, row, wanted, said):
    with pytest.raises(UserError, match=said) as failure:
        brought(tmp_path, [row, row], wanted)
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "raw").exists()


def test_a_kind_or_a_layout_that_is_named_decides_what_fits_twice(tmp_path):
    rows = [{"text": "a", "prompt": "b"}]
    assert list(brought(tmp_path / "one", rows, Wanted("documents"))) == ["documents"]
    assert list(brought(tmp_path / "two", rows, Wanted(layout="prompts"))) == ["prompts"]


LEFT_OUT = [
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, "both answers are the same"),
    ({"instruction": "a", "completions": [{"response": "b", "overall_score": 1}] * 2}, "no two completions are rated differently"),
]
BROKEN = [
    ({"messages": [user("a"), user("b"), assistant("c")]}, "no record of instructions (messages has the roles user user assistant)"),
    ({"messages": [user("a"), {"role": "assistant", "content": None}]}, "a text is missing (of a message: NoneType)"),
    ({"messages": [user("a"), {"role": "assistant", "content": [{"type": "image_url"}]}]}, "a message has parts that are no text"),
    ({"messages": [user("a"), {"role": "oracle", "content": "b"}]}, "a role that is not known (oracle)"),
    ({"messages": [user("a"), {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}, "not valid JSON"),
    ({"messages": [user("a"), {"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}]}, "a tool call without a name"),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": None}]}, "a text is missing"),
    ({"instruction": None, "output": "b"}, "a text is missing (instruction: NoneType)"),
    ({"prompt": "a", "chosen": None, "rejected": "b"}, "a text is missing (of the assistant)"),
    ({"chosen": HH.format("a"), "rejected": HH.replace("colour", "tree").format("b")}, "the conversations part before their last message"),
    ({"chosen": [user("a"), assistant("b")], "rejected": [user("x"), assistant("b")]}, "the conversations part before their last message"),
    ({"prompt": "z", "chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("c")]}, "do not hold the prompt"),
    (
        {"prompt": [user("a")], "chosen": [{**assistant(""), "tool_calls": [CALL]}], "rejected": [assistant("b")]},
        "tool calls in a pair, which no stage trains on",
    ),
    ({"input": "a", "output_1": "b", "output_2": "c", "label": 0}, "the label is not 1 or 2 (int)"),
    ({"input": "a", "output_1": "b", "output_2": "c", "label": True}, "the label is not 1 or 2 (bool)"),
    ({"input": 5, "output_1": "b", "output_2": "c", "label": 1}, "a text is of another type (input: int)"),
    ({"input": "a", "output_1": None, "output_2": "c", "label": 1}, "a text is missing (output_1: NoneType)"),
    ({"id": "a", "instruction": "b", "instances": [{"output": None}]}, "a text is missing (output: NoneType)"),
    ({"id": "a", "instruction": "b", "instances": [{"input": 5, "output": "c"}]}, "a text is of another type (input: int)"),
    ({"id": "a", "instruction": "b", "instances": "c"}, "instances is no list"),
    ({"message_tree_id": "t"}, "no message tree (prompt: Field required)"),
    ({"message_tree_id": "t", "prompt": "Why?"}, "no message tree (prompt: "),
    ({"message_tree_id": None, "prompt": {}}, "no message tree (message_tree_id: "),
]
NAMED = {"chosen": "pairs", "conversations": "sharegpt", "messages": "chat", "output_1": "llmbar", "instances": "seed-tasks",
         "message_tree_id": "oasst", "completions": "ultrafeedback", "output": "alpaca"}  # fmt: skip


def layout_of(row):
    if str(row.get("chosen")).startswith("\n\nHuman"):
        return "hh"
    return next(layout for column, layout in NAMED.items() if column in row)


@pytest.mark.parametrize(("row", "reason"), BROKEN, ids=[reason for _, reason in BROKEN])
def test_a_broken_row_is_quarantined_with_its_reason(tmp_path, row, reason):
    path = tmp_path / "given.jsonl"
    path.write_bytes(written([row], ".jsonl"))
    with pytest.raises(UserError, match="1 of 1 rows are broken") as failure:
        bring(path, tmp_path / "raw", Wanted(layout=layout_of(row)))
    assert reason in str(failure.value)
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize(("row", "reason"), LEFT_OUT, ids=[reason for _, reason in LEFT_OUT])
def test_a_row_of_no_use_is_left_out_and_counted(tmp_path, row, reason):
    path = tmp_path / "given.jsonl"
    better = {**row, "rejected": "c"} if "rejected" in row else {**row, "completions": RATED}
    path.write_bytes(written([row, better], ".jsonl"))
    done = bring(path, tmp_path / "raw")
    assert (done.read, done.imported, dict(done.left_out)) == (2, 1, {reason: 1})


def test_a_text_that_looks_like_a_list_is_a_text(tmp_path):
    rows = [{"prompt": "Some JSON, please.", "completion": '[{"a": 1}]'}]
    assert brought(tmp_path, rows)["instructions"][0]["messages"][1] == assistant('[{"a": 1}]')
