"""Suites are read whole or refused in one line, and subsets are fixed."""

import csv
import gzip
import io
import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from models.core.errors import UserError
from models.score import items as kinds
from models.score import suite as suites
from tests.suites import described, file_of

BENCHMARKS = Path(__file__).parents[2] / "../shared/data/benchmarks"
published = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="no ../shared/data/benchmarks beside the repository")
QUESTION = {"id": "a", "question": "Which is even?", "choices": ["1", "2"], "answer": 1, "subject": "numbers"}


def make(folder: Path, name: str, rows: list[Any]) -> Path:
    suite = described(folder / name)
    (suite / "items.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return suite


def items_of(counts: dict[str, int]) -> list[kinds.Choice]:
    return [
        kinds.Choice(**{**QUESTION, "id": f"{subject}/{number}", "subject": subject})  # type: ignore[arg-type]
        for subject, count in counts.items()
        for number in range(count)
    ]


def shots(folder: Path) -> dict[str, list[Any]]:
    return kinds.shots(folder, suites.load(folder))


def test_a_generated_suite_is_read_and_its_texts_hold_question_and_answer(tmp_path: Path) -> None:
    suite = make(tmp_path, "mmlu-mini", [QUESTION])
    assert kinds.read(suite) == [kinds.Choice(**QUESTION)]  # type: ignore[arg-type]
    texts = ["Which is even?", "Which is even?\n2", "Which is even?\nAnswer: 2"]
    assert list(kinds.texts(suite)) == [("a", text) for text in texts]


def test_texts_of_code_are_whole_functions(tmp_path: Path) -> None:
    row = {
        "task_id": "m/0",
        "prompt": "def f():\n",
        "entry_point": "f",
        "canonical_solution": "    return 1\n",
        "test": "def check(c): ...",
    }
    assert list(kinds.texts(make(tmp_path, "humaneval-mini", [row]))) == [("m/0", "def f():\n    return 1\n")]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "holds no item"),
        ([QUESTION, QUESTION], "the id a comes twice"),
        ([{**QUESTION, "answer": 2}], "answer is 2, must be below the number of choices, 2"),
        ([{**QUESTION, "choices": ["1"]}], "choices"),
        ([{key: QUESTION[key] for key in ("id", "question", "choices")}], "no column 'answer'"),
    ],
)
def test_a_bad_item_is_refused_in_one_line_that_names_the_file(tmp_path: Path, rows: list[Any], said: str) -> None:
    with pytest.raises(UserError, match=r"items\.jsonl") as error:
        kinds.read(make(tmp_path, "mmlu-mini", rows))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_suite_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mmlu-maxi").mkdir()
    with pytest.raises(UserError, match=r"suite\.yaml is missing: it says what the suite is"):
        kinds.read(tmp_path / "mmlu-maxi")
    described(tmp_path / "mmlu")
    with pytest.raises(UserError, match=r"mmlu\.zip is missing"):
        kinds.read(tmp_path / "mmlu")


def test_a_subset_gives_each_subject_its_share_and_is_always_the_same() -> None:
    items = items_of({"large": 60, "middle": 30, "small": 10})
    chosen = kinds.subset(items, 21, seed=1)
    assert Counter(item.subject for item in chosen) == {"large": 13, "middle": 6, "small": 2}
    assert chosen == kinds.subset(items, 21, seed=1)
    assert chosen != kinds.subset(items, 21, seed=2)
    assert [items.index(item) for item in chosen] == sorted(items.index(item) for item in chosen)


def test_a_subset_as_large_as_the_suite_is_the_suite() -> None:
    items = items_of({"one": 3})
    assert kinds.subset(items, None, 0) == kinds.subset(items, 3, 0) == kinds.subset(items, 9, 0) == items


def test_a_larger_subset_of_one_subject_holds_the_smaller() -> None:
    items = items_of({"one": 50})
    assert {item.id for item in kinds.subset(items, 10, 3)} < {item.id for item in kinds.subset(items, 11, 3)}


def zipped(path: Path, members: dict[str, str]) -> None:
    described(path.parent)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)


def test_mmlu_as_published_has_test_items_and_dev_shots(tmp_path: Path) -> None:
    rows = io.StringIO()
    csv.writer(rows).writerow(["2 + 2,\nin words?", "three", "four", "five", "six", "B"])
    zipped(tmp_path / "mmlu" / "mmlu.zip", {"data/test/sums_test.csv": rows.getvalue(), "data/dev/sums_dev.csv": "1+1?,1,2,3,4,B\n"})
    (item,) = kinds.read(tmp_path / "mmlu")
    assert isinstance(item, kinds.Choice)
    assert (item.id, item.subject, item.choices[item.answer]) == ("sums/1", "sums", "four")
    assert [shot.question for shot in shots(tmp_path / "mmlu")["sums"]] == ["1+1?"]


@pytest.mark.parametrize("cell", ["CD", "", "AB", "AC", "ABCD", "c", " C", "C ", "E", "2", '"C"""'])
@pytest.mark.parametrize("part", ["test", "dev"])
def test_an_answer_is_one_capital_letter_and_nothing_else(tmp_path: Path, cell: str, part: str) -> None:
    rows = dict.fromkeys(("test", "dev"), "1+1?,1,2,3,4,B\n")
    rows[part] += f"1+2?,1,2,3,4,{cell}\n"
    zipped(tmp_path / "mmlu" / "mmlu.zip", {f"data/{name}/sums_{name}.csv": text for name, text in rows.items()})
    read = kinds.read if part == "test" else shots
    said = rf"mmlu\.zip, data/{part}/sums_{part}\.csv, row 2: answer must be one capital letter, A to D, without blanks"
    with pytest.raises(UserError, match=said):
        read(tmp_path / "mmlu")


@pytest.mark.parametrize("answer", [True, "1", 1.5, None, -1, 2, [1], 1e300])
def test_an_answer_that_only_stands_for_a_number_is_none(tmp_path: Path, answer: Any) -> None:
    with pytest.raises(UserError, match=r"items\.jsonl, row 1: .*answer"):
        kinds.read(make(tmp_path, "mmlu-mini", [{**QUESTION, "answer": answer}]))


def test_an_answer_that_a_table_made_a_float_counts(tmp_path: Path) -> None:
    (item,) = kinds.read(make(tmp_path, "mmlu-mini", [{**QUESTION, "answer": 1.0}]))
    assert isinstance(item, kinds.Choice)
    assert item.answer == 1


def test_an_empty_cell_of_a_table_is_named_with_its_row(tmp_path: Path) -> None:
    head = "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,High-level domain\n"
    zipped(tmp_path / "gpqa" / "dataset.zip", {"dataset/gpqa_diamond.csv": f"{head}r1,What?,yes,a,b,c,X\nr2,What?,,a,b,c,X\n"})
    with pytest.raises(
        UserError, match=r"dataset\.zip, dataset/gpqa_diamond\.csv, row 2: choices\.\d: String should have at least 1 character"
    ):
        kinds.read(tmp_path / "gpqa")
    described(tmp_path / "crows-pairs")
    (tmp_path / "crows-pairs" / "crows_pairs_anonymized.csv").write_text(",sent_more,sent_less,bias_type\n0,They are lazy.,,age\n")
    with pytest.raises(UserError, match=r"csv, row 1: choices\.0: String should have at least 1 character"):
        kinds.read(tmp_path / "crows-pairs")
    (tmp_path / "crows-pairs" / "crows_pairs_anonymized.csv").write_text(',sent_more,sent_less,bias_type\n0,a,b,"ag')
    with pytest.raises(UserError, match="broken CSV"):
        kinds.read(tmp_path / "crows-pairs")


def test_gpqa_main_is_the_other_file_of_the_same_archive(tmp_path: Path) -> None:
    head = "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,High-level domain\n"
    files = {f"dataset/gpqa_{part}.csv": f"{head}{part},What?,right,w1,w2,w3,Physics\n" for part in ("main", "diamond")}
    for suite, part in {"gpqa": "diamond", "gpqa-main": "main"}.items():
        zipped(tmp_path / suite / "dataset.zip", files)
        assert [item.id for item in kinds.read(tmp_path / suite)] == [part]


def test_the_other_published_forms_are_read(tmp_path: Path) -> None:
    def put(suite: str, text: str) -> list[kinds.Item]:
        folder = described(tmp_path / suite)
        file_of(folder).write_text(text, encoding="utf-8")
        return kinds.read(folder)

    (problem,) = put(
        "math500", '{"problem": "1 + 1?", "solution": "...", "answer": "2", "subject": "sums", "level": 1, "unique_id": "a/1"}\n'
    )
    assert problem == kinds.Problem(id="a/1", question="1 + 1?", answer="2", subject="sums")
    head = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators\n"
    (pair,) = put("crows-pairs", f'{head}0,"They are lazy, those.",They are not.,stereo,age,[],a0,[]\n')
    assert pair == kinds.Choice(id="0", choices=("They are not.", "They are lazy, those."), answer=0, subject="age")
    assert list(kinds.texts(tmp_path / "crows-pairs")) == [("0", "They are not."), ("0", "They are lazy, those.")]
    (text,) = put("perplexity", '{"id": "d1", "text": "Once.", "source": "tales"}\n')
    assert text == kinds.Text(id="d1", text="Once.", subject="tales")
    (tmp_path / "math500" / "math500.jsonl").write_text('{"problem": "1 + 1?", "answer": [2], "unique_id": 1}\n')
    with pytest.raises(UserError, match=r"row 1: answer: .*must be one Problem item"):
        kinds.read(tmp_path / "math500")


def test_gpqa_is_shuffled_the_same_way_each_time_and_its_text_is_in_no_message(tmp_path: Path) -> None:
    head = "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,High-level domain\n"
    rows = "".join(f"rec{number},What? , right ,w1,w2,w3,Physics\n" for number in range(40))
    zipped(tmp_path / "gpqa" / "dataset.zip", {"dataset/gpqa_diamond.csv": head + rows})
    items = [item for item in kinds.read(tmp_path / "gpqa") if isinstance(item, kinds.Choice)]
    assert all(item.choices[item.answer] == " right " for item in items)
    assert set(Counter(item.answer for item in items)) == {0, 1, 2, 3}
    assert items == kinds.read(tmp_path / "gpqa")
    zipped(tmp_path / "again" / "gpqa" / "dataset.zip", {"dataset/gpqa_diamond.csv": head + "rec1,,SECRET,SECRET,SECRET,SECRET,SECRET\n"})
    with pytest.raises(UserError) as error:
        kinds.read(tmp_path / "again" / "gpqa")
    assert "SECRET" not in str(error.value)


@published
@pytest.mark.parametrize(("name", "count"), [("mmlu", 14042), ("gpqa", 198), ("humaneval", 164)])
def test_the_published_suites_have_their_published_sizes(tmp_path: Path, name: str, count: int) -> None:
    folder = described(tmp_path / name)
    file_of(folder).symlink_to(BENCHMARKS / name / file_of(folder).name)
    assert len(kinds.read(folder)) == count


@published
@pytest.mark.parametrize(("name", "keep"), [("mmlu", 0.9), ("gpqa", 0.5), ("humaneval", 0.7), ("humaneval", 0.0)])
def test_a_published_file_cut_short_is_refused_in_one_line(tmp_path: Path, name: str, keep: float) -> None:
    file = file_of(described(tmp_path / name)).name
    content = (BENCHMARKS / name / file).read_bytes()
    (tmp_path / name / file).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(UserError) as error:
        kinds.read(tmp_path / name)
    assert file in str(error.value)
    assert "\n" not in str(error.value)


def test_a_line_of_humaneval_that_is_no_item_is_named(tmp_path: Path) -> None:
    described(tmp_path / "humaneval")
    (tmp_path / "humaneval" / "HumanEval.jsonl.gz").write_bytes(gzip.compress(b'{"task_id": "x"}\n'))
    with pytest.raises(UserError, match="row 1"):
        kinds.read(tmp_path / "humaneval")
