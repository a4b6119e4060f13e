"""How two versions differ, of versions whose files were put there: the gate's own tests, on the items that decide there."""

import pytest

from flows.host.tracking import Tracker
from flows.registry.decisions import Registry
from flows.registry.lineage import describe_diff, diff
from tasks.gate import paired
from tasks.gate.verdicts import Policy, SuitePolicy, judge_suite
from tests.limits import ANY
from tests.versions import LOCK, PARAMS, add_version

pytestmark = pytest.mark.long

ALPHA, MARGIN, N = 0.05, 0.1, 60  # as in PARAMS
LEAKED = {"before": ("q0", "q3"), "after": ("q3", "q59")}
POLICY = Policy(
    alpha=ALPHA,
    without_sandbox="refuse",
    better_on_one_of=[],
    contaminated=1,
    health=ANY,
    suites={"quiz": SuitePolicy(margin=MARGIN, floor=None, require="non-inferior")},
)
SUITES = {  # (score before, score after) of item number i
    "binary": lambda i: (float(i % 3 > 0), float(i % 4 > 0)),
    "graded": lambda i: (i % 5 / 4, i % 7 / 6),
}


@pytest.fixture
def registry(store, request):
    return Registry(Tracker(store, request.node.name.replace("[", "-").replace("]", "")))


def two_versions(registry, scores, **facts):
    """Version 2 after version 1; scores by item of both."""
    before, after = ({f"q{i}": scores(i)[side] for i in range(N)} for side in (0, 1))
    add_version(registry, before, LEAKED["before"], **facts)
    add_version(registry, after, LEAKED["after"], **facts)
    return before, after


def between(registry, before="1", after="2"):
    return diff(registry, registry.version(before), registry.version(after), None)


@pytest.mark.parametrize("kind", SUITES)
@pytest.mark.parametrize("facts", [{}, {"target": 0.5}], ids=["more is better", "target"])
def test_the_interval_is_the_gates_own(registry, kind, facts):
    two_versions(registry, SUITES[kind], **facts)
    found = between(registry)["scores"]["quiz"]
    champion, candidate = (registry.evidence_of(registry.version(number))["quiz"] for number in "12")
    said = judge_suite("quiz", POLICY, candidate, champion)
    assert said.verdict != "invalid", said.reason
    names = {"lower": "lower", "upper": "upper", "gained": "gained", "lost": "lost", "before": "clean_champion", "after": "clean_candidate"}
    assert {name: found[name] for name in names} == pytest.approx({name: getattr(said, key) for name, key in names.items()})
    assert found["comparable"]


def test_items_that_either_was_trained_on_are_left_out(registry):
    before, after = two_versions(registry, SUITES["binary"])
    clean = [item for item in before if item not in {"q0", "q3", "q59"}]
    found = between(registry)["scores"]["quiz"]
    gained, lost = (sum(sign * (after[item] - before[item]) > 0 for item in clean) for sign in (1, -1))
    assert (found["items"], found["n"], found["gained"], found["lost"]) == (N, N - 3, gained, lost)
    assert (found["lower"], found["upper"]) == paired.bounds(gained, lost, N - 3, ALPHA, MARGIN)
    assert found["before"] == sum(before[item] for item in clean) / (N - 3)


def test_graded_scores_are_bootstrapped_and_not_rounded_to_right_and_wrong(registry):
    before, after = two_versions(registry, SUITES["graded"])
    clean = [item for item in before if item not in {"q0", "q3", "q59"}]
    found = between(registry)["scores"]["quiz"]
    assert (found["lower"], found["upper"]) == paired.Resampled([after[item] - before[item] for item in clean], 0).bounds(ALPHA)


def test_flips_are_all_items_that_changed_and_say_which_leaked(registry):
    before, after = two_versions(registry, SUITES["binary"])
    found = between(registry)
    flips = {flip["id"]: flip for flip in found["flips"]["quiz"]}
    assert flips.keys() == {item for item in before if before[item] != after[item]}
    assert {item for item, flip in flips.items() if flip["leaked"]} == flips.keys() & {"q0", "q3", "q59"} != set()
    assert all(flip["change"] == ("gained" if after[item] > before[item] else "lost") for item, flip in flips.items())
    assert any(line.endswith(f"on {N - 3} clean items of {N}") for line in describe_diff(found))


def test_where_training_text_held_every_item_there_is_no_interval(registry):
    scores = {"q1": 1.0, "q2": 0.0}
    add_version(registry, scores, scores)
    add_version(registry, scores)
    assert between(registry)["scores"]["quiz"] == {"unknown": "no item was scored twice that no training text held"}


def test_scores_of_two_evaluations_are_said_to_be_that(registry):
    add_version(registry, {"q1": 1.0}, harness="older")
    add_version(registry, {"q1": 1.0}, harness="newer")
    found = between(registry)
    assert found["scores"]["quiz"]["comparable"] is False
    assert any(line.endswith("scored otherwise, not comparable") for line in describe_diff(found))


def test_params_data_and_packages_are_compared_and_a_version_is_equal_to_itself(registry):
    add_version(registry, {"q1": 1.0})
    deps = "[{path: tasks/sft.py, md5: aaa}]"
    add_version(
        registry, {"q1": 0.0}, params=PARAMS.replace("seed: 1", "seed: 2"), lock=LOCK.replace("{}", f"{{sft: {{cmd: x, deps: {deps}}}}}")
    )
    found = between(registry)
    assert (found["params"], found["code"], found["environment"]) == ({"seed": [1, 2]}, ["tasks/sft.py"], {})
    same = between(registry, "1", "1")
    assert not any(same[part] for part in ("params", "code", "environment", "data", "pretrained"))
    assert same["flips"] == {"quiz": []}
