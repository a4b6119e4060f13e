"""Written answers are compared by what they mean; no answer can stop or mislead the comparison."""

import json
from pathlib import Path

import pytest

from models.score import answers

pytestmark = pytest.mark.long

MATH500 = Path(__file__).parents[2] / "../shared/data/benchmarks/math500/math500.jsonl"


def test_an_answer_is_what_stands_in_the_last_box() -> None:
    cases = [
        (r"\frac{1}{2}", r"So it is \boxed{0.5}.", "right"),
        (r"11\sqrt{2}", r"\boxed{\sqrt{242}}", "right"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"Thus $\boxed{(3,\pi/2)}$.", "right"),
        ("6", r"First \boxed{3}, then \boxed{6}.", "right"),
        ("3", r"First \boxed{3}, then \boxed{6}.", "wrong"),
        (r"\text{Evelyn}", r"\boxed{Evelyn}", "right"),
        ("5", "The answer is $5$.", "right"),
        ("3", r"\boxed{4}", "wrong"),
        ("3", "No idea.", "unreadable"),
        ("3", "", "unreadable"),
    ]
    assert answers.judge([(right, text) for right, text, _ in cases]) == [verdict for _, _, verdict in cases]


@pytest.mark.slow
def test_an_answer_that_is_never_worked_out_costs_only_itself(tmp_path: Path) -> None:
    evil = f"__import__('pathlib').Path({str(tmp_path / 'made')!r}).touch()"
    texts = [r"\boxed{2}", r"\boxed{9^{9^{9^{9}}}}", rf"\boxed{{{evil}}}", r"\boxed{" + "{" * 3000, r"\boxed{2}"]
    verdicts = answers.judge([("2", text) for text in texts])
    assert verdicts[0] == verdicts[4] == "right"
    assert verdicts[1] == "too long"
    assert "right" not in verdicts[2:4]
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
@pytest.mark.skipif(not MATH500.is_file(), reason="no ../shared/data/benchmarks beside the repository")
def test_all_published_solutions_are_right_and_those_of_the_next_problem_are_not() -> None:
    rows = [json.loads(line) for line in MATH500.read_text().splitlines()]
    assert answers.judge([(row["answer"], row["solution"]) for row in rows]) == ["right"] * 500
    others = answers.judge([(row["answer"], other["solution"]) for row, other in zip(rows, rows[1:] + rows[:1], strict=True)])
    assert others.count("right") == 3  # 5 and x = 5, 7 and 7, 3 and 3
