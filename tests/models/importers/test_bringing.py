"""What an import replaces, counts, quarantines and leaves alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.host.services import free_port
from models.core.content import folder_md5
from models.core.errors import Unavailable, UserError
from models.core.files import write_lines
from models.core.given import read_lines
from models.data import kinds
from models.data.importers import owners
from models.data.importers.bringing import Wanted, bring

ROOT = Path(__file__).parents[3]
SHARED = ROOT / "../shared/data"
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


PROGRAM = {"entry_point": "add", "test": "def check(f):\n    assert f(1, 2) == 3\n"}


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        ({"prompt": "What is 2 + 2?", "answer": "4", "level": "easy"}, {"answer": "4"}),
        ({"question": "What is 2 + 3?", "answer": "They are 5.\n#### 5"}, {"answer": "They are 5.\n#### 5"}),
        ({"prompt": "def add(a, b):\n", **PROGRAM, "preamble": None}, PROGRAM),
    ],
)
def test_what_an_answer_is_checked_by_stays_with_its_prompt(tmp_path, row, kept):
    write_lines(tmp_path / "tasks.jsonl", [row])
    bring(tmp_path / "tasks.jsonl", tmp_path / "raw", Wanted("prompts"))
    [found] = rows(tmp_path / "raw", "prompts")
    assert {key: value for key, value in found.items() if key not in ("id", "prompt")} == kept


def rows(raw, kind):
    return [record for path in sorted((raw / kind).glob("*.jsonl")) for record in read_lines(path)]


def contents(messages):
    return [(message["role"], message["content"]) for message in messages]


def talks(path, *texts):
    """A file of conversations; None is a broken one."""
    lines = [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]} if text else {} for text in texts]
    write_lines(path, lines)
    return path


def test_a_conversation_follows_the_best_ranked_answers(trees, tmp_path):
    assert bring(trees, tmp_path / "raw").records == {"instructions": 1, "preferences": 3, "prompts": 2}
    (conversation,) = rows(tmp_path / "raw", "instructions")
    assert contents(conversation["messages"]) == [
        ("user", "Why is the sky blue?"),
        ("assistant", "Air scatters blue light most."),
        ("user", "And at dusk?"),
        ("assistant", "The way is longer."),
    ]


def test_every_two_ranked_siblings_make_a_pair_with_the_better_one_chosen(trees, tmp_path):
    bring(trees, tmp_path / "raw", Wanted("preferences"))
    found = {(pair["chosen"][0]["content"][:5], pair["rejected"][0]["content"][:5]) for pair in rows(tmp_path / "raw", "preferences")}
    assert found == {("Air s", "Becau"), ("Air s", "No id"), ("Becau", "No id")}
    assert all(contents(pair["prompt"]) == [("user", "Why is the sky blue?")] for pair in rows(tmp_path / "raw", "preferences"))
    assert not rows(tmp_path / "raw", "prompts")


def test_a_message_without_a_text_is_left_out_with_what_follows_it_and_that_is_said(tmp_path):
    good = node("good", "assistant", "Green.", rank=1)
    bad = node("bad", "assistant", None, node("after", "prompter", "And?", node("end", "assistant", "Red.")), rank=0)
    found = [
        node("q", "prompter", "Name a colour.", bad, good),
        node("none", "prompter", None, good),
        node("blank", "prompter", " \n", good),
    ]
    write_lines(tmp_path / "trees.jsonl", [{"message_tree_id": f"t{number}", "prompt": tree} for number, tree in enumerate(found)])
    said = []
    done = bring(tmp_path / "trees.jsonl", tmp_path / "raw", None, said.append)
    assert (done.records, done.left_out) == ({"instructions": 1, "prompts": 1}, {"a tree whose first message has no text": 2})
    assert [contents(row["messages"])[1] for row in rows(tmp_path / "raw", "instructions")] == [("assistant", "Green.")]
    assert "3 messages without a text, with what follows them, were left out" in said
    assert not [path for path in (tmp_path / "raw").rglob("*.jsonl") if "None" in path.read_text()]


def test_a_task_without_an_input_is_its_instruction(tmp_path):
    given = [{"input": None}, {}, {"input": ""}, {"input": "To me."}]
    lines = [{"id": n, "instruction": "Say hi.", "instances": [{**one, "output": "Hi!"}]} for n, one in enumerate(given)]
    write_lines(tmp_path / "tasks.jsonl", lines)
    assert bring(tmp_path / "tasks.jsonl", tmp_path / "raw").records == {"instructions": 4}
    asked = [contents(row["messages"])[0][1] for row in rows(tmp_path / "raw", "instructions")]
    assert asked == ["Say hi.", "Say hi.", "Say hi.", "Say hi.\n\nTo me."]


def test_a_folder_named_as_data_raw_keeps_ids_and_sources(tmp_path):
    mine = tmp_path / "team" / "mine"
    write_lines(mine / "prompts.jsonl", [{"id": "a", "prompt": [{"role": "user", "content": "Hello"}]}])
    write_lines(mine / "documents.jsonl", [{"id": "a", "text": "Once.", "source": "tales"}])
    assert bring(mine, tmp_path / "raw").records == {"documents": 1, "prompts": 1}
    assert rows(tmp_path / "raw", "prompts")[0]["id"] == "team/mine/prompts.jsonl/a"
    assert rows(tmp_path / "raw", "documents")[0]["source"] == "tales"


@pytest.mark.parametrize("other", [".gz", ".zst", ".dvc"])
def test_a_folder_s_file_that_is_there_in_another_form_only_is_not_passed_over(tmp_path, other):
    write_lines(tmp_path / "mine" / "prompts.jsonl", [{"id": "a", "prompt": [{"role": "user", "content": "Hello"}]}])
    (tmp_path / "mine" / f"documents.jsonl{other}").write_bytes(b"outs: []")
    said = r"documents\.jsonl\.dvc is here and documents\.jsonl is not" if other == ".dvc" else "4 rows|1 of 2 rows are broken"
    with pytest.raises(UserError, match=said):
        bring(tmp_path / "mine", tmp_path / "raw")


def test_an_import_writes_its_own_files_and_to_import_again_replaces_them_alone(trees, pairs, tmp_path):
    raw = tmp_path / "raw"
    write_lines(raw / "prompts.jsonl", [{"id": "mine", "prompt": [{"role": "user", "content": "Hello"}]}])
    bring(trees, raw)
    bring(pairs, raw)
    name = f"{tmp_path.name}+trees.jsonl.jsonl"
    others = {path: path.stat().st_ino for path in (raw / "prompts.jsonl", raw / "preferences" / f"{tmp_path.name}+pairs.json.jsonl")}
    assert {path.relative_to(raw).as_posix() for path in raw.rglob("*.jsonl")} == {
        "prompts.jsonl",
        f"instructions/{name}",
        f"preferences/{name}",
        f"prompts/{name}",
        f"preferences/{tmp_path.name}+pairs.json.jsonl",
    }
    write_lines(trees, [{"message_tree_id": "t3", "prompt": node("alone", "prompter", "Hello?")}])
    bring(trees, raw)
    assert [row["id"] for row in rows(raw, "prompts")] == [f"{tmp_path.name}/trees.jsonl/t3"]
    assert not (raw / "instructions").exists()  # it had been brought, and is in the file no more
    assert {path: path.stat().st_ino for path in others} == others


def test_the_order_of_imports_and_imports_of_the_same_again_change_nothing(trees, pairs, tmp_path):
    one, other = tmp_path / "one" / "raw", tmp_path / "other" / "raw"
    for raw, order in ((one, (trees, pairs)), (other, (pairs, trees, pairs))):
        for source in order:
            bring(source, raw)
    assert folder_md5(one) == folder_md5(other)
    before = {path: path.stat() for path in one.rglob("*.jsonl")}
    said = []
    bring(trees, one, None, said.append)
    assert {path: path.stat() for path in one.rglob("*.jsonl")} == before
    assert not any("replaced" in line for line in said)


def test_what_an_import_replaces_and_what_of_that_name_stays_is_said(tmp_path):
    def heard(place, content):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "one.txt").write_text(content)
        lines = []
        bring(tmp_path / place / "one.txt", tmp_path / "raw", None, lines.append)
        return [line for line in lines if "replaced" in line or "stays" in line]

    assert heard("en", "The book.") == heard("en", "The book.") == []
    assert heard("en", "The book, mended.") == ["1 record of an earlier import of en/one.txt replaced; rename one source to have both"]
    assert heard("de", "Das Buch.") == ["another one.txt stays: documents/en+one.txt.jsonl"]
    replaced, stays = heard("volume-2/en", "Another book.")
    assert replaced.startswith("1 record of an earlier import of en/one.txt replaced")
    assert stays.endswith("documents/de+one.txt.jsonl")
    assert [row["text"] for row in rows(tmp_path / "raw", "documents")] == ["Das Buch.", "Another book."]


@pytest.mark.parametrize(
    "owner", ["a/b", "a+b/c", "a/b+c", "a%2Bb/c", "../x", "-/-", ".a/.b", "a b/\u5510\u8a69.json", "\u00e9" * 99 + "/x"]
)
def test_every_owner_has_a_file_of_its_own_in_the_folder_of_its_kind(owner):
    others = {"a/b", "a+b/c", "a/b+c", "a%2Bb/c", "../x", "-/-", ".a/.b", "\u00e9" * 99 + "/x", "\u00e9" * 99 + "/y"} - {owner}
    name = owners.file_of(owner)
    assert name not in {owners.file_of(other) for other in others}
    assert os.sep not in name
    assert not name.startswith(".")
    assert len(name.encode()) < 200


def test_one_name_in_two_unicode_forms_or_in_no_encoding_is_one_owner_that_can_be_written(tmp_path):
    for name in ("caf\u00e9.txt", "cafe\u0301.txt"):
        (tmp_path / name).write_text("The book.")
        bring(tmp_path / name, tmp_path / "raw")
    assert len(rows(tmp_path / "raw", "documents")) == 1
    other = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(other, "w") as file:
        file.write("The other book.")
    bring(Path(os.fsdecode(other)), tmp_path / "raw")
    assert [row["source"].rsplit("/", 1)[-1] for row in rows(tmp_path / "raw", "documents")] == ["caf\ufffd.txt", "caf\u00e9.txt"]


def test_what_is_broken_is_listed_with_file_line_and_reason_and_the_count_adds_up(tmp_path):
    path = talks(tmp_path / "talks.jsonl", *(f"Question {number}?" for number in range(198)), None)
    with path.open("ab") as file:
        file.write(b'{"messages": [{"role": "user", "content": "cut')
    done = bring(path, tmp_path / "raw", Wanted(max_quarantined=0.01))
    assert (done.read, done.imported, done.quarantined.total()) == (200, 198, 2)
    assert done.account == ("200 rows read: 198 imported, 2 quarantined (a conversation is no list of messages: 1, not valid JSON: 1)")
    assert done.faults == tmp_path / "quarantine" / f"{tmp_path.name}+talks.jsonl.jsonl"
    assert list(read_lines(done.faults)) == [
        {"file": f"{tmp_path.name}/talks.jsonl", "line": 199, "reason": "a conversation is no list of messages (NoneType)"},
        {
            "file": f"{tmp_path.name}/talks.jsonl",
            "line": 200,
            "reason": "not valid JSON (Unterminated string starting at, column 43)",
        },
    ]
    talks(path, "Only one?")
    assert bring(path, tmp_path / "raw").faults is None
    assert not (tmp_path / "quarantine").exists()


def test_over_the_limit_nothing_changes(tmp_path):
    path = talks(tmp_path / "talks.jsonl", "One?", "Two?", "Three?")
    bring(path, tmp_path / "raw")
    before = folder_md5(tmp_path)
    path.write_bytes(path.read_bytes() + b"{\n[]\n")
    with pytest.raises(
        UserError,
        match=r"talks.jsonl: 2 of 5 rows are broken \(40.0%\), at most 39.0% may be: line 4: not valid JSON \(.*\); and 1 more; ",
    ):
        bring(path, tmp_path / "raw", Wanted(max_quarantined=0.39))
    path.write_bytes(path.read_bytes()[: -len(b"{\n[]\n")])
    assert folder_md5(tmp_path) == before
    path.write_bytes(path.read_bytes() + b"{\n[]\n")
    assert bring(path, tmp_path / "raw", Wanted(max_quarantined=0.4)).imported == 3


def test_a_source_of_nothing_but_what_is_left_out_holds_no_record(tmp_path):
    write_lines(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}] * 3)
    with pytest.raises(
        UserError, match=r"holds no record that can be used \(3 rows read: 0 imported, 3 left out \(both answers are the same: 3"
    ):
        bring(tmp_path / "pairs.jsonl", tmp_path / "raw")


def test_it_says_what_it_recognised_and_shows_a_record_before_and_after(tmp_path):
    said = []
    bring(talks(tmp_path / "talks.jsonl", "One?", "Two?"), tmp_path / "raw", None, said.append)
    assert said[0] == f"{tmp_path}/talks.jsonl: JSON Lines, chat (messages), to instructions"
    assert said[1].startswith('  before  {"messages": [{"role": "user", "content": "One?"}')
    assert said[2].startswith(f'  after   {{"id": "{tmp_path.name}/talks.jsonl/1", "messages"')
    assert len(said) == 3


def test_files_of_a_folder_are_imported_one_after_another_each_in_its_layout(tmp_path):
    data = tmp_path / "data"
    talks(data / "b.jsonl", "Two?")
    talks(data / "a" / "x.jsonl", "One?")
    (data / "c.csv").write_text("instruction,output\nThree?,Yes.\n")
    (data / "picture.png").write_bytes(b"\x89PNG")
    said = []
    done = bring(data, tmp_path / "raw", None, said.append)
    assert [row["id"].partition("/data/")[2] for row in rows(tmp_path / "raw", "instructions")] == ["a/x.jsonl/1", "b.jsonl/1", "c.csv/2"]
    assert len(done.files) == 1
    assert f"{data}: 1 other files are left out: picture.png" in said


def test_data_beside_texts_is_not_guessed_about(tmp_path):
    data = tmp_path / "data"
    talks(data / "a.jsonl", "One?")
    (data / "README.md").write_text("# What it is")
    with pytest.raises(
        UserError, match=r"holds 1 data files \(a.jsonl, …\) and 1 texts \(README.md, …\): name one file, or add --layout text"
    ):
        bring(data, tmp_path / "raw")
    assert bring(data, tmp_path / "raw", Wanted(layout="text")).records == {"documents": 1}
    assert bring(data, tmp_path / "raw", Wanted(layout="chat")).records == {"instructions": 1}


def test_a_data_set_that_was_saved_is_read_and_of_several_splits_one_must_be_named(tmp_path):
    from datasets import Dataset, DatasetDict

    found = Dataset.from_list([{"prompt": f"Question {n}?", "completion": "Yes."} for n in range(600)])
    found.save_to_disk(tmp_path / "one", num_shards=2)
    done = bring(tmp_path / "one", tmp_path / "raw")
    assert (done.read, done.records) == (600, {"instructions": 600})
    assert [row["messages"][0]["content"] for row in rows(tmp_path / "raw", "instructions")][::599] == ["Question 0?", "Question 599?"]
    DatasetDict({"train": found, "test": found}).save_to_disk(tmp_path / "two")
    with pytest.raises(UserError, match=r"holds the splits test, train: name one, such as .*/two/test"):
        bring(tmp_path / "two", tmp_path / "raw")
    assert bring(tmp_path / "two" / "test", tmp_path / "raw").read == 600
    DatasetDict({"train": found}).save_to_disk(tmp_path / "three")
    assert bring(tmp_path / "three", tmp_path / "raw").read == 600
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"cut")
    with pytest.raises(UserError, match="one is no whole data set"):
        bring(tmp_path / "one", tmp_path / "raw")


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.json is missing: name an existing file or folder, s3://BUCKET/PREFIX"):
        bring(tmp_path / "nothing.json", tmp_path / "raw")


def test_a_data_set_of_a_hub_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable, match=r"owner/name is no file or folder here, and the hub does not give it as a data set") as failure:
        bring("owner/name", tmp_path / "raw")
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "raw").exists()


IMPORT = "import sys; from models.data.importers.bringing import bring; from pathlib import Path; bring(sys.argv[1], Path(sys.argv[2]))"


def test_a_killed_import_changes_nothing_and_the_next_one_puts_it_right(tmp_path):
    path, raw = talks(tmp_path / "talks.jsonl", *(f"Question {n}?" for n in range(60_000))), tmp_path / "data" / "raw"
    for _ in range(3):
        running = subprocess.Popen([sys.executable, "-c", IMPORT, path, raw], cwd=ROOT)
        deadline = time.monotonic() + 60
        while not list(raw.rglob(".*.draft")) and time.monotonic() < deadline:
            time.sleep(0.001)
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert not [path for path in raw.rglob("*.jsonl") if not path.name.startswith(".")]
    assert bring(path, raw).imported == 60_000
    assert not list(tmp_path.rglob(".*"))


def test_a_rename_that_fails_leaves_all_kinds_as_they_were(trees, tmp_path):
    raw = tmp_path / "raw"
    bring(trees, raw)
    before = folder_md5(raw)
    (raw / "prompts").rename(raw / "elsewhere")
    (raw / "prompts").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        bring(trees, raw)
    (raw / "prompts").unlink()
    (raw / "elsewhere").rename(raw / "prompts")
    assert folder_md5(raw) == before


@pytest.mark.slow
def test_memory_is_the_same_for_one_megabyte_and_for_two_hundred(tmp_path):
    used = []
    for megabytes in (1, 200):
        path = tmp_path / f"{megabytes}.jsonl"
        line = json.dumps({"messages": [{"role": "user", "content": "a " * 300}, {"role": "assistant", "content": "b " * 300}]}) + "\n"
        with path.open("w") as file:
            for _ in range(megabytes * 1_000_000 // len(line)):
                file.write(line)
        said = f"{IMPORT}; import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        command = [sys.executable, "-c", said, path, tmp_path / "raw"]
        used.append(int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout))
    assert used[1] < 1.1 * used[0], used


@with_real_data
def test_the_real_files_give_whole_records_of_every_kind(tmp_path):
    sources = (
        "instructions/oasst_en_100_tree.jsonl",
        "preferences/llmbar_natural.json",
        "instructions/seed_tasks.jsonl",
        "documents/alice.txt",
    )
    trees, bar, seeds, _ = counts = [bring(SHARED / path, tmp_path / "raw").records for path in sources]
    assert trees["prompts"] == 100
    assert trees["preferences"] > 700
    assert bar == {"preferences": 100}
    assert seeds == {"instructions": 175}
    for kind in kinds.FIELDS:
        found = rows(tmp_path / "raw", kind)
        assert len({row["id"] for row in found}) == len(found) == sum(count[kind] for count in counts)
        assert not any(kinds.is_broken(kind, row) for row in found)
    text = (tmp_path / "raw" / "documents" / "documents+alice.txt.jsonl").read_text(encoding="utf-8")
    assert "Down the Rabbit-Hole" in text
    assert "START OF" not in text


@with_real_data
def test_real_files_of_no_layout_are_refused_by_name(tmp_path):
    for path in ("bias/crows_pairs_anonymized.csv", "documents/tangshisanbaishou.json", "dirty/blns.json"):
        with pytest.raises(UserError, match=r"no layout has the columns|is something else"):
            bring(SHARED / path, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
