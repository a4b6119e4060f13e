"""A suite of one's own is made, shown and refused from the command line, in one line each."""

import json

import pytest

from tests.workspaces import call, make_workspace

pytestmark = pytest.mark.long
QUIZ = "stem,A,B,C,D,correct\n" + "".join(
    f"Where is thing number {n} kept in this house?,in a,in b,in c,in d,{'ABCD'[n % 4]}\n" for n in range(12)
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("suites") / "sluice")


@pytest.fixture
def quiz(tmp_path):
    (tmp_path / "quiz.csv").write_text(QUIZ)
    return tmp_path / "quiz.csv"


def test_a_file_becomes_a_suite_and_is_shown_with_what_leaks(workspace, quiz):
    made = call(workspace, "suite", "new", "desk", "--from", str(quiz))
    assert made.returncode == 0, made.stderr
    assert "'sluice suite use desk' has it scored and gated" in made.stdout
    raw = workspace / "data" / "raw" / "documents"
    raw.mkdir()
    leak = {"id": "a", "text": "So: Where is thing number 3 kept in this house? In d.", "source": "s"}
    (raw / "crawl.jsonl").write_text(json.dumps(leak) + "\n")
    shown = call(workspace, "suite", "show", "desk").stdout
    assert "1 of 12 items, looked for in data/raw/documents/crawl.jsonl" in shown
    assert shown.count("--- ") == 3
    assert "  * in a" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("x/y",), "names no suite: must be up to 100 letters"),
        (("foreseen", "--format", "text"), "no column is known to hold text"),
        (("mapped", "--map", "question=gone"), "--map question=gone: must be PART=COLUMN"),
        (("code", "--format", "code"), "is not trusted: nothing was changed"),
    ],
)
def test_what_makes_no_suite_is_a_user_s_mistake_and_changes_nothing(workspace, quiz, words, said):
    done = call(workspace, "suite", "new", *words, "--from", str(quiz))
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert not (workspace / "data" / "raw" / "suites" / words[0]).exists()
