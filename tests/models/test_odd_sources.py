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

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.core.content import folder_md5
from models.core.errors import UserError
from models.core.files import write_lines
from models.core.given import read_lines
from models.data import kinds
from models.data.importers.bringing import Brought, Wanted, bring
from models.score import benchmarks
from models.score import items as suite_items
from models.score import suite as suites
from tests.odd import ODD, PLACES, altered, damaged, dumped
from tests.suites import KNOWN, described, file_of

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
MESSAGES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]
OTHER = {"role": "assistant", "content": "No."}
ANSWER = {"message_id": "a", "role": "assistant", "text": "Green.", "replies": [], "deleted": False, "rank": 0}
QUESTION = {"message_id": "q", "role": "prompter", "text": "Name a colour.", "replies": [ANSWER, {**ANSWER, "message_id": "b", "rank": 1}]}
GOOD = {
    "oasst": {"message_tree_id": "t", "prompt": {**QUESTION, "replies": [{**ANSWER, "replies": [QUESTION]}, {**ANSWER, "rank": 1}]}},
    "llmbar": {"input": "Say hi.", "output_1": "Hi!", "output_2": "Go.", "label": 1},
    "seed-tasks": {"id": "s", "instruction": "Upper case.", "instances": [{"input": "a", "output": "A"}, {"input": "b", "output": "B"}]},
    "chat": {"messages": MESSAGES},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]},
    "alpaca": {"instruction": "Say hi.", "input": "", "output": "Hi!"},
    "pairs": {"prompt": "Say hi.", "chosen": "Hi!", "rejected": "Go."},
    "hh": {"chosen": "\n\nHuman: Say hi.\n\nAssistant: Hi!", "rejected": "\n\nHuman: Say hi.\n\nAssistant: Go."},
    "ultrafeedback": {"instruction": "Say hi.", "completions": [{"response": "Hi!", "score": 2}, {"response": "Go.", "score": 1}]},
    "openai-pairs": {"input": {"messages": MESSAGES[:1]}, "preferred_output": MESSAGES[1:], "non_preferred_output": [OTHER]},
    "kto": {"prompt": "Say hi.", "completion": "Hi!", "label": True},
    "records": {
        "id": "1",
        "prompt": MESSAGES[:1],
        "chosen": MESSAGES[1:],
        "rejected": [OTHER],
        "source": "s",
    },
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


def taken_or_refused(layout: str, content: bytes, form: str = "") -> bool:
    """Import `content` beside what is there and return whether it was taken; what is in data/raw then is whole either way."""
    with tempfile.TemporaryDirectory() as place:
        raw, source = Path(place) / "raw", Path(place) / f"source{form}"
        write_lines(raw / "prompts.jsonl", [{"id": "mine", "prompt": MESSAGES[:1]}])
        if layout == "records":
            source.mkdir()
        (source / "preferences.jsonl" if layout == "records" else source).write_bytes(content)
        before = folder_md5(raw)
        done: list[Brought] = []
        if refusal(lambda: done.append(bring(source, raw, Wanted("instructions" * (layout == "kto"), layout, max_quarantined=0.5)))):
            assert folder_md5(raw) == before
            return False
        assert done[0].read == done[0].imported + done[0].left_out.total() + done[0].quarantined.total()
        for path in raw.glob("*/*.jsonl"):
            rows = list(read_lines(path))
            assert not any(kinds.is_broken(path.parent.name, row) for row in rows)
            texts = [text for row in rows for _, text in kinds.texts(path.parent.name, row)]
            assert "None" not in texts or b"None" in content
        return True


@pytest.mark.parametrize("layout", GOOD)
@QUICK
@given(data=st.data())
def test_an_import_takes_quarantines_or_refuses_records_of_any_json(layout, data):
    rows = [GOOD[layout], data.draw(altered(GOOD[layout]))]
    if data.draw(st.booleans()):
        taken_or_refused(layout, dumped(rows).encode(), ".json")
    else:
        assert taken_or_refused(layout, "".join(f"{dumped(row)}\n" for row in rows).encode(), ".jsonl")


@pytest.mark.parametrize("layout", [*GOOD, "text"])
@QUICK
@given(data=st.data())
def test_an_import_takes_or_refuses_a_damaged_file(layout, data):
    text = "Terms.\n*** START OF THE PROJECT GUTENBERG EBOOK ***\nCaf\u00e9.\r\n\r\nTwo.\n*** END OF THE PROJECT GUTENBERG EBOOK ***\nNo.\n"
    form = data.draw(st.sampled_from([".json", ".jsonl", ".csv", ".jsonl.gz", ".json.zst", ".parquet", ""]))
    content = text.encode() if layout == "text" else written([GOOD[layout]] * 2, form)
    taken_or_refused(layout, data.draw(damaged(content)), form)


def written(rows: list[Any], form: str) -> bytes:
    """Rows in a form."""
    if form == ".parquet":
        file = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        return file.getvalue()
    if form == ".csv":
        return table([list(rows[0]), *([dumped(cell) for cell in row.values()] for row in rows)])
    plain = (dumped(rows) if ".json" in form and ".jsonl" not in form else "".join(f"{dumped(row)}\n" for row in rows)).encode()
    if form.endswith(".gz"):
        return gzip.compress(plain)
    return pyarrow.compress(plain, codec="zstd", asbytes=True) if form.endswith(".zst") else plain


def test_the_good_records_are_taken():
    for layout, row in GOOD.items():
        for form in (".json", ".jsonl", ".json.zst", ".jsonl.gz", ".parquet"):
            assert layout == "records" or taken_or_refused(layout, written([row], form), form)
    assert taken_or_refused("records", written([GOOD["records"]], ".jsonl"))


READ = {"gzip", "zstd", "Parquet"}  # forms that are read, so that what is broken in them is named instead


@pytest.mark.parametrize("place", ODD)
@pytest.mark.parametrize("layout", ["chat", "text", "records", ""])
def test_an_import_names_what_is_no_plain_file(tmp_path, layout, place):
    make, said = ODD[place]
    source = tmp_path / "source"
    source.mkdir()
    make(source / "preferences.jsonl")
    if place in READ:
        said = {"gzip": "", "zstd": "packed and damaged", "Parquet": "no whole Parquet file"}[place]
    elif place == "a folder":
        said = said if layout == "records" else "holds no record"
    elif place == "nothing" and layout == "records":
        said = "holds no record"
    write_lines(tmp_path / "raw" / "prompts.jsonl", [{"id": "mine", "prompt": MESSAGES[:1]}])
    before = folder_md5(tmp_path / "raw")
    found = refusal(lambda: bring(source if layout == "records" else source / "preferences.jsonl", tmp_path / "raw", Wanted(layout=layout)))
    assert found or (layout, place) == ("text", "gzip")
    assert said in found
    assert not found or folder_md5(tmp_path / "raw") == before


@pytest.mark.parametrize("place", sorted(set(PLACES) - {"nothing"}))
def test_what_is_in_the_place_of_an_import_and_is_no_plain_file_is_named_before_anything_changes(tmp_path, place):
    make, said = ODD[place]
    write_lines(tmp_path / "raw" / "documents.jsonl", [{"id": "mine", "text": "a", "source": "s"}])
    (tmp_path / "raw" / "prompts").mkdir()
    make(tmp_path / "raw" / "prompts" / f"{tmp_path.name}+pairs.json.jsonl")
    (tmp_path / "pairs.json").write_text(json.dumps([GOOD["llmbar"]]))
    assert said in refusal(lambda: bring(tmp_path / "pairs.json", tmp_path / "raw"))
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == ["documents.jsonl", "prompts"]


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
