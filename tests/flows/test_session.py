"""What a workspace says about itself before anything runs."""

from pathlib import Path

from flows.host.workspace import Workspace
from flows.stages.session import Session

ROOT = Path(__file__).parents[2]


def test_a_policy_whose_margin_a_suite_cannot_reach_is_said_with_the_size_that_will_be_scored():
    session = Session.reading(Workspace(ROOT))
    assert session.warnings() == []
    session.params["gate"]["suites"]["mmlu-mini"]["margin"] = 0.03
    session.params["benchmark"]["items"]["mmlu-mini"] = 100
    assert len(session.warnings()) == 1
    assert "gate.suites.mmlu-mini.margin is 0.03, must be about 0.0974 or more for 100 items to decide it" in session.warnings()[0]


def test_of_a_suite_that_is_scored_and_decides_nothing_the_gate_asks_nothing():
    session = Session.reading(Workspace(ROOT))
    session.params["gate"]["suites"]["gpqa-mini"] = None
    assert session.warnings() == []
    assert list(session.policy.suites) == ["mmlu-mini", "humaneval-mini"]
