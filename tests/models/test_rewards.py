"""What an answer is worth: each kind of reward, their sum, and what is refused."""

import math
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from models.core.errors import StageError, UserError
from models.score.rewards import Source, file_of, sum_of

LIMITS = {"wall_seconds": 20.0, "cpu_seconds": 5, "memory_mib": 256, "processes": 8, "output_kib": 256}
ADD = {"entry_point": "add", "test": "def check(f):\n    assert f(2, 3) == 5\n    assert f(-1, 1) == 0\n"}


def worth(source, asked, answers, by_model=None):
    """What one reward says of answers."""
    read = TypeAdapter(Source).validate_python({"weight": 1.0, **source})
    return list(sum_of({"it": read}, by_model).parts(asked, answers)["it"])


def test_length_costs_nothing_up_to_its_words_and_one_for_as_many_again():
    answers = ["", "one two three four", "a b c d e f", " ".join("x" * 12)]
    assert worth({"take": "length", "words": 4}, [{}] * 4, answers) == [0.0, 0.0, -0.5, -2.0]


@pytest.mark.parametrize(("answer", "value"), [("<think>a\nb</think>yes", 1.0), ("<think>a</think>", 0.0), ("x<think>a</think>yes", 0.0)])
def test_format_is_that_of_the_whole_answer(answer, value):
    assert worth({"take": "format", "pattern": "<think>.*</think>.+"}, [{}], [answer]) == [value]


@pytest.mark.long
def test_an_expression_that_backtracks_for_ever_has_not_matched():
    assert worth({"take": "format", "pattern": r"(a|aa)+(a|aa)+(a|aa)+c"}, [{}], ["a" * 60 + "b"]) == [0.0]


@pytest.mark.parametrize(
    ("extract", "ignore", "answer", "value"),
    [
        (None, ["case"], "paris", 1.0),
        (None, [], "paris", 0.0),
        (r"#### (.+)", ["case", "punctuation"], "so it is\n#### Paris.", 1.0),
        (r"#### (.+)", [], "Paris", 0.0),
        (r"[A-Z]\w+", [], "Rome? No: Paris", 1.0),  # the last one
    ],
)
def test_an_answer_is_right_where_what_is_extracted_is(extract, ignore, answer, value):
    assert worth({"take": "answer", "extract": extract, "ignore": ignore}, [{"answer": "Paris"}], [answer]) == [value]


def test_an_answer_with_its_reasoning_is_compared_by_what_it_ends_in():
    source = {"take": "answer", "extract": r"####\s*(\S+)", "ignore": ["punctuation"]}
    asked = [{"answer": "2 and 2 are 4, and 68 more are 72.\n#### 72"}] * 3
    assert worth(source, asked, ["so #### 72.", "#### 71", "72"]) == [1.0, 0.0, 0.0]


def test_a_formula_is_right_that_means_the_same():
    asked, answers = [{"answer": r"\frac{1}{2}"}] * 4, [r"so $0.5$", r"\boxed{\frac{2}{4}}", r"\boxed{2}", "half"]
    assert worth({"take": "math"}, asked, answers) == [1.0, 1.0, 0.0, 0.0]


def test_a_program_is_run_in_the_sandbox():
    good, bad = "def add(a, b):\n    return a + b\n", "def add(a, b):\n    return a * b\n"
    answers = [good, f"Like this:\n```python\n{good}```\nDone.", bad, "I cannot.", "import os\nos._exit(0)\n"]
    assert worth({"take": "tests", "program": LIMITS}, [ADD] * 5, answers) == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_the_model_is_asked_and_missed_where_it_is_not_there():
    assert worth({"take": "model"}, [{}], ["abc"], by_model=lambda _, answers: list(map(len, answers))) == [3.0]
    with pytest.raises(UserError, match=r"^rewards.it takes the reward model, which dvc.yaml does not give the stage"):
        worth({"take": "model"}, [{}], ["abc"])


OWN = """
import mine.helper
def polite(asked, answers):
    return [mine.helper.ONE * ("please" in answer) + record["bonus"] for record, answer in zip(asked, answers)]
def short(asked, answers):
    return [1.0]
def none(asked, answers):
    return [float("nan")] * len(answers)
def broken(asked, answers):
    return [record["nothing"] for record in asked]
number = 1
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A workspace with a team's own functions."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rewards.py").write_text(OWN)
    (tmp_path / "mine" / "helper.py").write_text("ONE = 1.0")
    monkeypatch.chdir(tmp_path)
    yield lambda name: {"take": "function", "function": f"mine.rewards:{name}"}
    for module in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[module]


def test_a_function_of_ones_own_sees_the_records(own):
    assert worth(own("polite"), [{"bonus": 0.5}, {"bonus": 0}], ["please", "no"]) == [1.5, 0.0]
    assert file_of("mine.rewards:polite") == "mine/rewards.py"


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("short", StageError, "rewards.it gives 1 values for 2 answers, must give a number for each"),
        ("none", StageError, "rewards.it gives nan among its values for 2 answers"),
        ("broken", StageError, r"rewards.it failed \(KeyError: 'nothing'\): must give a number for each answer"),
        ("number", UserError, "rewards.it.function is mine.rewards:number, which is a int, must be a function"),
        ("absent", UserError, "rewards.it.function is mine.rewards:absent, and mine/rewards.py cannot be used"),
    ],
)
def test_a_function_that_gives_no_numbers_is_named(own, name, error, told):
    with pytest.raises(error, match=told):
        worth(own(name), [{}, {}], ["a", "b"])


@pytest.mark.parametrize("name", ["rewards", "os.path:../x", "a:b:c", ":f", "mine.rewards:"])
def test_what_names_no_function_is_refused(name):
    with pytest.raises(ValidationError):
        TypeAdapter(Source).validate_python({"take": "function", "weight": 1.0, "function": name})


@pytest.mark.parametrize(("take", "key"), [("answer", "answer"), ("math", "answer"), ("tests", "entry_point")])
def test_a_record_that_lacks_what_a_check_needs_is_named(take, key):
    source = {"answer": {"extract": None, "ignore": []}, "tests": {"program": LIMITS}, "math": {}}[take]
    with pytest.raises(StageError, match=f"^prompts, p7: rewards.it needs its '{key}', must be text"):
        worth({"take": take, **source}, [{"id": "p7"}], ["x"])


def test_rewards_are_summed_by_their_weights():
    read = TypeAdapter(dict[str, Source]).validate_python(
        {
            "judge": {"take": "model", "weight": 1.0},
            "short": {"take": "length", "words": 1, "weight": 0.1},
            "polite": {"take": "format", "pattern": ".*please.*", "weight": -2.0},
        }
    )
    rewards = sum_of(read, lambda _, answers: [float(len(answer)) for answer in answers])
    answers = ["yes please", "no"]
    parts = rewards.parts([{}, {}], answers)
    assert {name: values.tolist() for name, values in parts.items()} == {"judge": [10.0, 2.0], "short": [-1.0, 0.0], "polite": [1.0, 0.0]}
    assert rewards.total(parts).tolist() == pytest.approx([10 - 0.1 - 2, 2.0])
    assert math.isclose(sum(rewards.total(parts)), 9.9)
