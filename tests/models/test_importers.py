import json
from pathlib import Path

import pytest

from models import importers, kinds
from models.errors import UserError
from models.importers import bring
from models.records import folder_md5, read_lines, write_lines

SHARED = Path(__file__).parents[2] / "../shared/data"
with_real_data = pytest.mark.skipif(not SHARED.is_dir(), reason="no folder shared/data beside the repository")


def node(name, role, text, *replies, rank=None, deleted=False):
    ranked = {} if rank is None else {"rank": rank}
    return {"message_id": name, "role": role, "text": text, "replies": list(replies), "deleted": deleted, **ranked}


TREE = node(
    "root",
    "prompter",
    "Why is the sky blue?",
    node("worst", "assistant", "No idea.", rank=2),
    node(
        "best",
        "assistant",
        "Air scatters blue light most.",
        node(
            "more",
            "prompter",
            "And at dusk?",
            node("dusk", "assistant", "The way is longer."),
            node("gone", "assistant", "x", deleted=True),
        ),
        rank=0,
    ),
    node("middle", "assistant", "Because of the air.", rank=1),
    node("unranked", "assistant", "It is."),
)


@pytest.fixture
def trees(tmp_path):
    path = tmp_path / "trees.jsonl"
    write_lines(path, [{"message_tree_id": "t1", "prompt": TREE}, {"message_tree_id": "t2", "prompt": node("alone", "prompter", "Hello?")}])
    return path


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([{"input": "Say hi.", "output_1": "Go away.", "output_2": "Hi!", "label": 2}]))
    return path


@pytest.fixture
def tasks(tmp_path):
    path = tmp_path / "tasks.jsonl"
    rows = [("Name a fruit.", "", "Apple"), ("Make it upper case.", "pear", "PEAR")]
    write_lines(path, [{"id": f"s{n}", "instruction": a, "instances": [{"input": b, "output": c}]} for n, (a, b, c) in enumerate(rows)])
    return path


def rows(raw, kind):
    path = raw / f"{kind}.jsonl"
    return list(read_lines(path)) if path.exists() else []


def contents(messages):
    return [(message["role"], message["content"]) for message in messages]


def test_a_conversation_follows_the_best_ranked_answers(trees, tmp_path):
    assert bring("oasst", trees, tmp_path / "raw") == {"instructions": 1, "preferences": 3, "prompts": 2}
    (conversation,) = rows(tmp_path / "raw", "instructions")
    assert contents(conversation["messages"]) == [
        ("user", "Why is the sky blue?"),
        ("assistant", "Air scatters blue light most."),
        ("user", "And at dusk?"),
        ("assistant", "The way is longer."),
    ]


def test_every_two_ranked_siblings_make_a_pair_with_the_better_one_chosen(trees, tmp_path):
    bring("oasst", trees, tmp_path / "raw")
    found = {(pair["chosen"][0]["content"][:5], pair["rejected"][0]["content"][:5]) for pair in rows(tmp_path / "raw", "preferences")}
    assert found == {("Air s", "Becau"), ("Air s", "No id"), ("Becau", "No id")}
    assert all(contents(pair["prompt"]) == [("user", "Why is the sky blue?")] for pair in rows(tmp_path / "raw", "preferences"))


def test_the_labelled_answer_is_chosen(pairs, tmp_path):
    assert bring("llmbar", pairs, tmp_path / "raw") == {"preferences": 1}
    (pair,) = rows(tmp_path / "raw", "preferences")
    assert (pair["chosen"], pair["rejected"]) == ([{"role": "assistant", "content": "Hi!"}], [{"role": "assistant", "content": "Go away."}])


def test_a_task_s_input_follows_its_instruction(tasks, tmp_path):
    assert bring("seed-tasks", tasks, tmp_path / "raw") == {"instructions": 2}
    assert [contents(row["messages"])[0][1] for row in rows(tmp_path / "raw", "instructions")] == [
        "Name a fruit.",
        "Make it upper case.\n\npear",
    ]


def test_text_becomes_documents_of_whole_paragraphs_without_the_frame(tmp_path):
    paragraphs = [f"Paragraph {n}. " + "word " * 100 for n in range(7)] + ["long " * 600]
    frame = "The frame.\n\n*** START OF THIS BOOK ***\n{}\n*** END OF THIS BOOK ***\nLicence."
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbf" + frame.format("\n\n".join(paragraphs)).replace("\n", "\r\n").encode())
    bring("text", path, tmp_path / "raw")
    found = [row["text"] for row in rows(tmp_path / "raw", "documents")]
    assert "\n\n".join(found).split("\n\n") == paragraphs
    assert all(len(text) <= importers.CHUNK_CHARACTERS + 10 for text in found[:-1])


def test_a_folder_s_records_come_with_its_name_before_their_ids(tmp_path):
    write_lines(tmp_path / "mine" / "prompts.jsonl", [{"id": "a", "prompt": [{"role": "user", "content": "Hello"}]}])
    assert bring("folder", tmp_path / "mine", tmp_path / "raw") == {"prompts": 1}
    assert rows(tmp_path / "raw", "prompts")[0]["id"] == "folder/mine/a"


def test_importing_again_replaces_own_records_only_and_the_order_of_imports_changes_nothing(trees, pairs, tasks, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    own = {"id": "mine", "prompt": [{"role": "user", "content": "Hello"}]}
    sources = [("oasst", trees), ("llmbar", pairs), ("seed-tasks", tasks)]
    for raw, order in ((first, sources), (second, [*reversed(sources), *sources])):
        write_lines(raw / "prompts.jsonl", [own])
        for name, source in order:
            bring(name, source, raw)
    assert folder_md5(first) == folder_md5(second)
    assert rows(first, "prompts")[0] == own
    write_lines(trees, [{"message_tree_id": "t3", "prompt": TREE}])
    bring("oasst", trees, first)
    assert [row["id"] for row in rows(first, "prompts")] == ["mine", "oasst/t3"]
    assert len(rows(first, "preferences")) == 4


def test_one_book_does_not_replace_another(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"The book {name}.")
        bring("text", tmp_path / f"{name}.txt", tmp_path / "raw")
    assert [row["source"] for row in rows(tmp_path / "raw", "documents")] == ["text/one", "text/two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("oasst", '{"message_tree_id": "t"}\n', "tree 1: the key 'prompt' is missing"),
        ("oasst", '{"message_tree_id": "t", "prompt": {"role": "pro', "line 1: not valid JSON"),
        ("llmbar", '[{"input": "a", "output_1": "b"', "not valid JSON"),
        ("llmbar", '{"input": "a"}', "must be one JSON array"),
        ("llmbar", '[{"input": "a", "output_1": "b", "output_2": "c", "label": 0}]', "pair 1: the label is 0, must be 1 or 2"),
        ("llmbar", '[{"input": 5, "output_1": "b", "output_2": "c", "label": 1}]', "llmbar/0: does not make a record of preferences"),
        ("seed-tasks", "", "holds no record"),
        ("text", "\n\n", "holds no record"),
        ("nope", "", "no importer is named 'nope'; must be one of oasst, llmbar"),
    ],
)
def test_a_broken_source_is_named_in_one_line_and_changes_nothing(tmp_path, name, content, message):
    source, raw = tmp_path / "source", tmp_path / "raw"
    source.write_text(content)
    write_lines(raw / "prompts.jsonl", [{"id": "mine", "prompt": [{"role": "user", "content": "Hello"}]}])
    before = folder_md5(raw)
    with pytest.raises(UserError) as failure:
        bring(name, source, raw)
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)
    assert folder_md5(raw) == before


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.json is missing"):
        bring("llmbar", tmp_path / "nothing.json", tmp_path / "raw")


@with_real_data
def test_the_real_files_give_whole_records_of_every_kind(tmp_path):
    sources = {"oasst": "instructions/oasst_en_100_tree.jsonl", "llmbar": "preferences/llmbar_natural.json"}
    sources |= {"seed-tasks": "instructions/seed_tasks.jsonl", "text": "documents/alice.txt"}
    counts = {name: bring(name, SHARED / path, tmp_path / "raw") for name, path in sources.items()}
    assert counts["oasst"]["prompts"] == 100
    assert counts["oasst"]["preferences"] > 700
    assert counts["llmbar"] == {"preferences": 100}
    assert counts["seed-tasks"] == {"instructions": 175}
    for kind in kinds.FIELDS:
        found = rows(tmp_path / "raw", kind)
        assert len({row["id"] for row in found}) == len(found) == sum(count.get(kind, 0) for count in counts.values())
        assert not any(kinds.is_broken(kind, row) for row in found)
    text = (tmp_path / "raw" / "documents.jsonl").read_text(encoding="utf-8")
    assert "Down the Rabbit-Hole" in text
    assert "START OF" not in text
