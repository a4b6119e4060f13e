"""Whatever is in a file: an importer or a suite takes it or refuses it in one line, and what was refused changed nothing."""

import csv
import gzip
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.core.content import folder_md5
from models.core.errors import UserError
from models.core.files import write_lines
from models.core.given import read_lines
from models.data import importers, kinds
from models.score import benchmarks
from models.score import items as suite_items
from models.score import suite as suites
from tests.odd import ODD, altered, damaged, dumped
from tests.suites import KNOWN, described, file_of

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
MESSAGES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]
ANSWER = {"message_id": "a", "role": "assistant", "text": "Green.", "replies": [], "deleted": False, "rank": 0}
QUESTION = {"message_id": "q", "role": "prompter", "text": "Name a colour.", "replies": [ANSWER, {**ANSWER, "message_id": "b", "rank": 1}]}
GOOD = {
    "oasst": {"message_tree_id": "t", "prompt": {**QUESTION, "replies": [{**ANSWER, "replies": [QUESTION]}, {**ANSWER, "rank": 1}]}},
    "llmbar": {"input": "Say hi.", "output_1": "Hi!", "output_2": "Go.", "label": 1},
    "seed-tasks": {"id": "s", "instruction": "Upper case.", "instances": [{"input": "a", "output": "A"}, {"input": "b", "output": "B"}]},
    "folder": {"id": "1", "prompt": MESSAGES[:1], "chosen": MESSAGES[1:], "rejected": MESSAGES[1:], "source": "s"},
}
CHOICE = {"id": "a", "question": "Which is even?", "choices": ["1", "2"], "answer": 1, "subject": "numbers"}
CODE = {"task_id": "m/0", "prompt": "def f():\n", "entry_point": "f", "canonical_solution": "    return 1\n", "test": "def check(c): ..."}
ROWS = {
    "mmlu-mini": CHOICE,
    "gpqa-mini": CHOICE,
    "humaneval-mini": CODE,
    "humaneval": CODE,
    "math500": {"problem": "1 + 1?", "answer": "2", "subject": "sums", "unique_id": "a/1"},
    "perplexity": {"id": "d", "text": "Once.", "source": "tales"},
}
GPQA_HEAD = [
    "Record ID",
    "Question",
    "Correct Answer",
    "Incorrect Answer 1",
    "Incorrect Answer 2",
    "Incorrect Answer 3",
    "High-level domain",
]
TABLES = {
    "mmlu": [["What is 1 + 1?", "1", "2", "3", "4", "B"], ["2 + 2?", "1", "2", "3", "4", "D"]],
    "mmlu-continuation": [["2 + 2?", "1", "2", "3", "4", "D"]],
    "gpqa": [GPQA_HEAD, ["r1", "What?", "right", "w1", "w2", "w3", "Physics"]],
    "gpqa-main": [GPQA_HEAD, ["r1", "What?", "right", "w1", "w2", "w3", "Physics"]],
    "crows-pairs": [["", "sent_more", "sent_less", "bias_type"], ["0", "They are lazy.", "They are not.", "age"]],
}
TEST = "data/test/sums_test.csv"
MEMBERS = {"mmlu": TEST, "mmlu-continuation": TEST, "gpqa": "dataset/gpqa_diamond.csv", "gpqa-main": "dataset/gpqa_main.csv"}
CELLS = st.sampled_from(["", " ", "AB", "CD", "a", " C", "E", "0", '"', "\x00", "a\nb", "\ufeff"]) | st.text(
    st.characters(codec="utf-8"), max_size=5
)


def refusal(call: Callable[[], Any]) -> str:
    """What a UserError says, in one line; "" where there is none."""
    said = ""
    try:
        call()
    except UserError as error:
        said = str(error) or "nothing"
    assert "\n" not in said
    assert len(said) < 2000
    return said


def taken_or_refused(name: str, content: bytes) -> bool:
    """Import `content` over what is there and return whether it was taken; what is in data/raw then is whole either way."""
    with tempfile.TemporaryDirectory() as place:
        raw, source = Path(place) / "raw", Path(place) / "source"
        write_lines(raw / "prompts.jsonl", [{"id": "mine", "prompt": MESSAGES[:1]}, {"id": f"{name}/old/older/1", "prompt": MESSAGES[:1]}])
        if name == "folder":
            source.mkdir()
        (source / "preferences.jsonl" if name == "folder" else source).write_bytes(content)
        before = folder_md5(raw)
        if refusal(lambda: importers.bring(name, source, raw)):
            assert folder_md5(raw) == before
            return False
        for path in raw.iterdir():
            rows = list(read_lines(path))
            assert not any(kinds.is_broken(path.stem, row) for row in rows)
            texts = [text for row in rows for _, text in kinds.texts(path.stem, row)]
            assert "None" not in texts or b"None" in content
        return True


@pytest.mark.parametrize("name", GOOD)
@QUICK
@given(data=st.data())
def test_an_importer_takes_or_refuses_records_of_any_json(name, data):
    rows = [GOOD[name], data.draw(altered(GOOD[name]))]
    taken_or_refused(name, (dumped(rows) if name == "llmbar" else "".join(f"{dumped(row)}\n" for row in rows)).encode())


@pytest.mark.parametrize("name", [*GOOD, "text"])
@QUICK
@given(data=st.data())
def test_an_importer_takes_or_refuses_a_damaged_file(name, data):
    text = "Terms.\n*** START OF THE PROJECT GUTENBERG EBOOK ***\nCaf\u00e9.\r\n\r\nTwo.\n*** END OF THE PROJECT GUTENBERG EBOOK ***\nNo.\n"
    content = text if name == "text" else json.dumps([GOOD[name]] * 2) if name == "llmbar" else f"{json.dumps(GOOD[name])}\n" * 2
    taken_or_refused(name, data.draw(damaged(content.encode())))


def test_the_good_records_are_taken():
    for name, row in GOOD.items():
        assert taken_or_refused(name, (json.dumps([row]) if name == "llmbar" else json.dumps(row)).encode())


@pytest.mark.parametrize("place", ODD)
@pytest.mark.parametrize("name", importers.IMPORTERS)
def test_an_importer_names_what_is_no_plain_file(tmp_path, name, place):
    make, said = ODD[place]
    source = tmp_path / "source"
    source.mkdir()
    make(source / "preferences.jsonl")
    if (name, place) in (("folder", "nothing"), ("folder", "a folder")):
        said = {"nothing": "holds no record", "a folder": said}[place]
    write_lines(tmp_path / "raw" / "prompts.jsonl", [{"id": "mine", "prompt": MESSAGES[:1]}])
    before = folder_md5(tmp_path / "raw")
    assert said in refusal(lambda: importers.bring(name, source if name == "folder" else source / "preferences.jsonl", tmp_path / "raw"))
    assert folder_md5(tmp_path / "raw") == before


@pytest.mark.parametrize("place", sorted(set(ODD) - {"nothing"}))
def test_what_is_in_data_raw_and_is_no_plain_file_is_named_before_anything_changes(tmp_path, place):
    make, said = ODD[place]
    write_lines(tmp_path / "raw" / "documents.jsonl", [{"id": "mine", "text": "a", "source": "s"}])
    make(tmp_path / "raw" / "prompts.jsonl")
    (tmp_path / "pairs.json").write_text(json.dumps([GOOD["llmbar"]]))
    assert said in refusal(lambda: importers.bring("llmbar", tmp_path / "pairs.json", tmp_path / "raw"))
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == ["documents.jsonl", "prompts.jsonl"]


def read_or_refused(name: str, content: bytes) -> list[suite_items.Item]:
    """The items that a suite's reader makes of `content`; none where it refused."""
    with tempfile.TemporaryDirectory() as place:
        folder = described(Path(place) / name)
        file_of(folder).write_bytes(content)
        refused = refusal(lambda: suite_items.shots(folder, suites.load(folder))) or refusal(lambda: suite_items.read(folder))
        return [] if refused else suite_items.read(folder)


def packed(name: str, content: bytes) -> bytes:
    """`content` in the file that the suite comes in."""
    if name == "humaneval":
        return gzip.compress(content)
    if name not in MEMBERS:
        return content
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBERS[name], content)
        if "test" in MEMBERS[name]:  # the worked examples
            archive.writestr(MEMBERS[name].replace("test", "dev"), content)
    return file.getvalue()


def table(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def good(name: str) -> bytes:
    return table(TABLES[name]) if name in TABLES else f"{json.dumps(ROWS[name])}\n".encode()


@pytest.mark.parametrize("name", ROWS)
@QUICK
@given(data=st.data())
def test_a_suite_of_any_json_is_read_or_refused(name, data):
    read_or_refused(name, packed(name, f"{dumped(data.draw(altered(ROWS[name])))}\n".encode()))


@pytest.mark.parametrize("name", TABLES)
@QUICK
@given(data=st.data())
def test_a_suite_with_any_cell_is_read_or_refused_and_an_answer_is_one_letter(name, data):
    rows = [list(row) for row in TABLES[name]]
    row = data.draw(st.integers(0, len(rows) - 1))
    cell = data.draw(st.integers(0, len(rows[row]) - 1))
    rows[row][cell] = data.draw(CELLS)
    items = read_or_refused(name, packed(name, table(rows[: data.draw(st.integers(1, len(rows)))])))
    assert all(choice for item in items if isinstance(item, suite_items.Choice) for choice in item.choices)
    if name == "mmlu" and items:
        assert [suite_items.LETTERS[item.answer] for item in items] == [line[-1] for line in rows[: len(items)]]


@pytest.mark.parametrize("name", KNOWN)
@QUICK
@given(data=st.data())
def test_a_damaged_suite_is_read_or_refused(name, data):
    outside = data.draw(st.booleans())
    read_or_refused(name, data.draw(damaged(packed(name, good(name)))) if outside else packed(name, data.draw(damaged(good(name)))))


@pytest.mark.parametrize("name", KNOWN)
def test_the_good_suites_are_read_with_a_bom_as_without(name):
    items = read_or_refused(name, packed(name, good(name)))
    assert items
    assert read_or_refused(name, packed(name, b"\xef\xbb\xbf" + good(name))) == items


@pytest.mark.parametrize("place", ["a folder", "a pipe", "a socket", "a device", "a link to nothing", "a link to itself"])
@pytest.mark.parametrize("name", benchmarks.published())
def test_a_suite_import_and_a_suite_name_what_is_no_plain_file(tmp_path, name, place):
    make, said = ODD[place]
    file = file_of(described(tmp_path / name))
    make(file)
    for source in (str(file), str(file.parent)):
        wanted = "is missing: suite" if (place, source) == ("a folder", str(file)) else said  # a folder is looked into
        assert wanted in refusal(lambda source=source: benchmarks.bring(name, source, tmp_path / "suites"))
        assert not (tmp_path / "suites" / name).exists()
    assert said in refusal(lambda: suite_items.read(file.parent))
