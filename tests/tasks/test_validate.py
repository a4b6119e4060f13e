"""Great Expectations takes seconds to import, and its time for each kind of records: a case that changes one kind has that kind alone."""

import re

import pytest

from models.core.errors import StageError, UserError
from models.core.files import write_lines
from models.core.work import Work
from models.data.expectations import Limits, Tolerance
from tasks.validate import ValidateInputs, ValidateOutputs, ValidateParams, validate

pytestmark = pytest.mark.long

LIMITS = Limits(min_records=5, min_characters=2, max_characters=100)
PARAMS = ValidateParams(
    limits=dict.fromkeys(("documents", "instructions", "preferences", "prompts"), LIMITS),
    tolerance=Tolerance(complete=0.9, filled=0.9, length=0.9, roles=0.9, answers_differ=0.9),
)


def said(role, content):
    return {"role": role, "content": content}


def good_records(count=10):
    user, answer, other = said("user", "Where is Anna?"), said("assistant", "In Arden."), said("assistant", "No.")
    return {
        "documents": [{"id": f"d{n}", "text": f"Text {n}", "source": "s"} for n in range(count)],
        "instructions": [{"id": f"i{n}", "messages": [user, answer], "source": "s"} for n in range(count)],
        "preferences": [{"id": f"p{n}", "prompt": [user], "chosen": [answer], "rejected": [other], "source": "s"} for n in range(count)],
        "prompts": [{"id": f"q{n}", "prompt": [user]} for n in range(count)],
    }


def run(folder, records):
    for kind, rows in records.items():
        write_lines(folder / "records" / f"{kind}.jsonl", rows)
    work = Work(folder=folder / "work", reports=folder / "reports")
    return validate(PARAMS, ValidateInputs(records=folder / "records"), ValidateOutputs(validation=folder / "validation.json"), work)


def assert_pages_need_no_network(folder, kinds):
    pages = [path for path in folder.rglob("*") if path.is_file()]
    assert {"index.html", *(f"{kind}.html" for kind in kinds)} <= {path.name for path in pages}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"https?://|src=|<script|@import|url\(", text), page
    index = (folder / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'href="([^"]+)"', index)
    assert len(set(links)) == len(kinds)
    assert all((folder / link).is_file() for link in links)


def test_good_records_with_a_little_dirt_pass_and_the_report_is_the_same_twice(tmp_path):
    records = good_records(20)
    records["documents"][3]["text"] = "  "
    records["instructions"][4]["messages"] = [said("user", "a"), said("user", "b")]
    records["preferences"][5]["rejected"] = records["preferences"][5]["chosen"]
    metrics = run(tmp_path / "a", records)
    assert metrics.met == metrics.expectations > 40
    assert metrics.tolerated == 4  # the blank text is too short as well
    assert metrics.records == dict.fromkeys(records, 20)
    assert_pages_need_no_network(tmp_path / "a" / "reports", records)
    run(tmp_path / "b", records)
    first, second = ((tmp_path / name / "validation.json").read_bytes() for name in "ab")
    assert first == second
    assert str(tmp_path).encode() not in first


def set_all(kind, field, value):
    def change(records):
        for record in records[kind]:
            record[field] = value

    return change


def drop_all(kind, field):
    def change(records):
        for record in records[kind]:
            del record[field]

    return change


def copy_id(records):
    records["documents"][7]["id"] = records["documents"][8]["id"] = "d1"


def lose_id(records):
    records["documents"][7]["id"] = None


def keep_three(records):
    del records["prompts"][3:]


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (copy_id, r"documents, id: expect_column_values_to_be_unique is not met, 3 of 10 unexpected, e\.g\. d1, d1, d1"),
        (lose_id, r"documents, id: expect_column_values_to_not_be_null is not met, 1 of 10 unexpected, e\.g\. record 8"),
        (keep_three, r"prompts: expect_table_row_count_to_be_between is not met.* e\.g\. q0, q1, q2"),
        (drop_all("preferences", "chosen"), r"preferences, chosen: expect_column_to_exist is not met"),
        (set_all("documents", "text", 5), r"documents, text: expect_column_values_to_be_of_type is not met, 10 of 10 .*e\.g\. d0, d1, d2"),
        (set_all("documents", "text", " \n"), r"documents, shortest text: expect_column_values_to_be_between is not met, 10 of 10"),
        (set_all("documents", "text", "x" * 101), r"documents, characters: expect_column_values_to_be_between is not met, 10 of 10"),
        (set_all("prompts", "prompt", [said("robot", "a")]), r"prompts, prompt: roles: expect_column_values_to_match_regex is not met"),
        (set_all("instructions", "messages", "hello"), r"instructions, messages: expect_column_values_to_be_of_type is not met"),
        (
            set_all("preferences", "rejected", [said("assistant", "In Arden.")]),
            r"preferences, answers: expect_column_values_to_be_in_set is not met, 10 of 10 unexpected, e\.g\. p0, p1, p2",
        ),
    ],
)
def test_an_unmet_expectation_is_named_with_its_count_and_three_records_in_one_line(tmp_path, change, pattern):
    records = good_records()
    change(records)
    changed = {kind: rows for kind, rows in records.items() if rows != good_records()[kind]}
    with pytest.raises(StageError, match=pattern) as failure:
        run(tmp_path, changed)
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "validation.json").exists()
    assert_pages_need_no_network(tmp_path / "reports", changed)


def test_an_empty_file_is_named_with_its_kind(tmp_path):
    with pytest.raises(UserError, match=r"prompts\.jsonl holds no record: there must be prompts"):
        run(tmp_path, good_records() | {"prompts": []})


def test_broken_json_is_named_with_its_line(tmp_path):
    path = tmp_path / "records" / "documents.jsonl"
    write_lines(path, good_records()["documents"][:1])
    path.write_text(path.read_text() + '{"id": \n')
    with pytest.raises(UserError, match=r"documents\.jsonl, line 2: not valid JSON"):
        run(tmp_path, {})
