import json
import os
from pathlib import Path

import pytest

from models.core.content import folder_md5
from models.core.errors import UserError
from models.core.files import write_lines
from models.core.given import read_lines
from models.data import importers, kinds
from models.data.importers import bring

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
    frame = "The frame.\n\n*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n{}\n*** END OF THIS PROJECT GUTENBERG EBOOK X ***\nLicence."
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbf" + frame.format("\n\n".join(paragraphs)).replace("\n", "\r\n").encode())
    bring("text", path, tmp_path / "raw")
    found = [row["text"] for row in rows(tmp_path / "raw", "documents")]
    assert "\n\n".join(found).split("\n\n") == paragraphs
    assert all(len(text) <= importers.CHUNK_CHARACTERS + 10 for text in found[:-1])


def test_a_folder_s_records_come_with_its_name_before_their_ids(tmp_path):
    write_lines(tmp_path / "team" / "mine" / "prompts.jsonl", [{"id": "a", "prompt": [{"role": "user", "content": "Hello"}]}])
    assert bring("folder", tmp_path / "team" / "mine", tmp_path / "raw") == {"prompts": 1}
    assert rows(tmp_path / "raw", "prompts")[0]["id"] == "folder/team/mine/a"


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
    names = ["de/one.txt", "en/one.md", "en/one.txt", "en/two.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"The book {name}.")
        bring("text", tmp_path / name, tmp_path / "raw")
    assert [row["source"] for row in rows(tmp_path / "raw", "documents")] == [f"text/{name}" for name in names]


def test_what_an_import_replaces_and_what_of_that_name_stays_is_said(tmp_path):
    def heard(place, content):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "one.txt").write_text(content)
        lines = []
        bring("text", tmp_path / place / "one.txt", tmp_path / "raw", lines.append)
        return lines

    assert heard("en", "The book.") == heard("en", "The book.") == []
    (line,) = heard("en", "The book, mended.")
    assert "en/one.txt: replacing 1 record of an earlier import of text/en/one.txt, not in this one" in line
    (line,) = heard("de", "Das Buch.")
    assert line.endswith("1 record of another one.txt stay: text/en/one.txt")
    replaced, stays = heard("volume-2/en", "Another book.")
    assert "replacing 1 record" in replaced
    assert stays.endswith("text/de/one.txt")
    assert [row["text"] for row in rows(tmp_path / "raw", "documents")] == ["Das Buch.", "Another book."]


def test_one_name_in_two_unicode_forms_or_in_no_encoding_is_one_owner_that_can_be_written(tmp_path):
    for name in ("caf\u00e9.txt", "cafe\u0301.txt"):
        (tmp_path / name).write_text("The book.")
        bring("text", tmp_path / name, tmp_path / "raw")
    assert len(rows(tmp_path / "raw", "documents")) == 1
    other = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(other, "w") as file:
        file.write("The other book.")
    bring("text", Path(os.fsdecode(other)), tmp_path / "raw")
    assert [row["source"].rsplit("/", 1)[-1] for row in rows(tmp_path / "raw", "documents")] == ["caf\u00e9.txt", "caf\ufffd.txt"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("oasst", '{"message_tree_id": "t"}\n', "tree 1: prompt: Field required"),
        ("oasst", '{"message_tree_id": "t", "prompt": {"role": "pro', "line 1: not valid JSON"),
        ("llmbar", '[{"input": "a", "output_1": "b"', "not valid JSON"),
        ("llmbar", '{"input": "a"}', "must be one JSON array"),
        ("llmbar", '[{"input": "a", "output_1": "b", "output_2": "c", "label": 0}]', "pair 1: the label is 0, must be 1 or 2"),
        ("llmbar", '[{"input": 5, "output_1": "b", "output_2": "c", "label": 1}]', "pair 1: input: Input should be a valid string"),
        ("llmbar", '[{"input": "a", "output_1": "b", "output_2": "c", "label": true}]', "the label is True, must be 1 or 2"),
        ("llmbar", '[{"input": "a", "output_1": "b", "output_2": "c", "label": "1"}]', "the label is '1', must be 1 or 2"),
        ("llmbar", '[\n{"input": "a"},\n{"input": NaN}]', "line 3: not valid JSON (NaN is no number)"),
        ("llmbar", f'[\n{{"label": {"7" * 5000}}}]', "line 2: not valid JSON (Exceeds the limit (4300 digits)"),
        ("llmbar", f'[\n{{"label": {"[" * 5000}', "line 2: not valid JSON (nested more than 200 levels deep)"),
        ("llmbar", '[{"input": null, "output_1": "b", "output_2": "c", "label": 1}]', "pair 1: input: "),
        ("llmbar", '[{"input": "a", "output_1": null, "output_2": "c", "label": 1}]', "pair 1: output_1: "),
        ("oasst", '{"message_tree_id": "t", "prompt": "Why?"}', "tree 1: prompt: "),
        ("oasst", json.dumps({"message_tree_id": "t", "prompt": node("q", "prompter", {"a": 1})}), "tree 1: prompt.text: "),
        ("oasst", json.dumps({"message_tree_id": "t", "prompt": node("q", "prompter", 5)}), "tree 1: prompt.text: "),
        ("oasst", json.dumps({"message_tree_id": None, "prompt": node("q", "prompter", "a")}), "tree 1: message_tree_id: "),
        ("oasst", json.dumps({"message_tree_id": "t", "prompt": node("q", "assistant", "a")}), "source: oasst/t does not make a record"),
        ("seed-tasks", '{"id": "a", "instruction": "b", "instances": null}', "task 1: instances: "),
        ("seed-tasks", '{"id": "a", "instruction": null, "instances": [{"output": "c"}]}', "task 1: instruction: "),
        ("seed-tasks", '{"id": "a", "instruction": "b", "instances": [{"output": null}]}', "task 1: instances.0.output: "),
        ("seed-tasks", '{"id": "a", "instruction": "b", "instances": [{"input": 5, "output": "c"}]}', "task 1: instances.0.input: "),
        ("seed-tasks", "", "holds no record"),
        ("text", "a\0b", "holds a NUL byte (at 1)"),
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


def test_a_message_without_a_text_is_left_out_with_what_follows_it_and_that_is_said(tmp_path):
    good = node("good", "assistant", "Green.", rank=1)
    bad = node("bad", "assistant", None, node("after", "prompter", "And?", node("end", "assistant", "Red.")), rank=0)
    trees = [
        node("q", "prompter", "Name a colour.", bad, good),
        node("none", "prompter", None, good),
        node("blank", "prompter", " \n", good),
    ]
    write_lines(tmp_path / "trees.jsonl", [{"message_tree_id": f"t{number}", "prompt": tree} for number, tree in enumerate(trees)])
    said = []
    assert bring("oasst", tmp_path / "trees.jsonl", tmp_path / "raw", said.append) == {"instructions": 1, "prompts": 1}
    assert [contents(row["messages"])[1] for row in rows(tmp_path / "raw", "instructions")] == [("assistant", "Green.")]
    assert said == [f"{tmp_path}/trees.jsonl: 3 messages without a text were left out, with what follows them"]
    assert not [path for path in (tmp_path / "raw").iterdir() if "None" in path.read_text()]


def test_a_task_without_an_input_is_its_instruction(tmp_path):
    lines = [
        {"id": n, "instruction": "Say hi.", "instances": [{**given, "output": "Hi!"}]} for n, given in enumerate([{"input": None}, {}])
    ]
    write_lines(tmp_path / "tasks.jsonl", lines)
    assert bring("seed-tasks", tmp_path / "tasks.jsonl", tmp_path / "raw") == {"instructions": 2}
    assert {contents(row["messages"])[0] for row in rows(tmp_path / "raw", "instructions")} == {("user", "Say hi.")}


def test_a_label_that_a_table_made_a_float_counts_and_a_bom_is_no_part_of_a_file(pairs, trees, tasks, tmp_path):
    sources = {"llmbar": pairs, "oasst": trees, "seed-tasks": tasks}
    plain = [bring(name, path, tmp_path / "plain") for name, path in sources.items()]
    pairs.write_text(pairs.read_text().replace('"label": 2', '"label": 2.0'))
    for path in sources.values():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert [bring(name, path, tmp_path / "bom") for name, path in sources.items()] == plain
    assert folder_md5(tmp_path / "bom") == folder_md5(tmp_path / "plain")


def test_half_a_surrogate_pair_in_any_field_comes_as_the_replacement_character(tmp_path):
    half, record = "a \ud83d b", '{"message_tree_id": "%s", "prompt": %s}'
    tree = json.dumps(node(half, "prompter", half, node("x", "assistant", half, rank=0), node("y", "assistant", "good \U0001f44d", rank=1)))
    (tmp_path / "trees.jsonl").write_text(record % ("\\udc4d", tree))
    bring("oasst", tmp_path / "trees.jsonl", tmp_path / "raw")
    (pair,) = rows(tmp_path / "raw", "preferences")
    assert pair["id"] == "oasst/a \ufffd b/0-1"
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("a \ufffd b", "good \U0001f44d")
    assert rows(tmp_path / "raw", "prompts")[0]["id"] == "oasst/\ufffd"


def test_what_a_killed_import_left_is_put_right_by_the_next(trees, tmp_path):
    undisturbed, raw = tmp_path / "undisturbed", tmp_path / "raw"
    for folder in (undisturbed, raw):
        write_lines(folder / "prompts.jsonl", [{"id": "mine", "prompt": [{"role": "user", "content": "Hello"}]}])
        bring("oasst", trees, folder)
    (raw / "preferences.jsonl").rename(raw / ".preferences.jsonl.draft")  # killed between two renames
    (raw / ".instructions.jsonl.kept").write_text("")
    (raw / ".documents.jsonl.draft").write_text('{"cut')
    bring("oasst", trees, raw)
    assert folder_md5(raw) == folder_md5(undisturbed)


def test_a_file_whose_records_stay_is_not_touched(pairs, tmp_path):
    own = tmp_path / "raw" / "prompts.jsonl"
    own.parent.mkdir()
    own.write_text('{"prompt":[{"role":"user","content":"Hell\\u00f6"}],  "id":"mine"}\n')
    before = own.read_bytes()
    bring("llmbar", pairs, tmp_path / "raw")
    assert own.read_bytes() == before


@pytest.mark.parametrize("other", [".gz", ".zst", ".dvc"])
def test_a_folder_s_file_that_is_there_in_another_form_only_is_not_passed_over(tmp_path, other):
    write_lines(tmp_path / "mine" / "prompts.jsonl", [{"id": "a", "prompt": [{"role": "user", "content": "Hello"}]}])
    (tmp_path / "mine" / f"documents.jsonl{other}").write_text("outs: []")
    with pytest.raises(UserError, match=rf"documents\.jsonl\{other} is here and documents\.jsonl is not"):
        bring("folder", tmp_path / "mine", tmp_path / "raw")


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
