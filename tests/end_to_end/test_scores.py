"""What the default recipe must learn, measured on a whole run of it."""

import math
from pathlib import Path

import pytest

from flows.stages.parameters import load
from models.core.files import read_json
from tasks.gate.evidence import load_evidence
from tasks.gate.paired import mcnemar_p
from tasks.gate.verdicts import Policy, judge_suite
from tests.workspaces import make_workspace, run

pytestmark = pytest.mark.slow
SUITES = ("mmlu-mini", "gpqa-mini", "humaneval-mini")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    workspace = make_workspace(tmp_path_factory.mktemp("tiny") / "sluice", "tiny")
    done = run(workspace, "sluice", "run", timeout=3000)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return workspace


def evidence(workspace, model, suite):
    return load_evidence(
        workspace / "artifacts" / "benchmark" / f"{model}-{suite}", workspace / "artifacts" / "contamination" / f"{suite}.jsonl"
    )


def compare(workspace, suite, candidate, champion):
    """The gate's verdict on one suite."""
    policy = Policy.model_validate(load(workspace / "params.yaml")["gate"])
    return judge_suite(suite, policy, evidence(workspace, candidate, suite), evidence(workspace, champion, suite))


def share(found):
    return math.fsum(found.scores.values()) / len(found.scores)


def test_every_suite_has_200_items_and_leaves_the_base_model_headroom(tiny):
    for suite in SUITES:
        found = evidence(tiny, "base", suite)
        assert len(found.scores) >= 200
        assert share(found) < 0.85


@pytest.mark.parametrize("suite", ["mmlu-mini", "gpqa-mini"])
def test_sft_beats_chance_by_three_standard_errors(tiny, suite):
    found = evidence(tiny, "sft", suite)
    mean, n = share(found), len(found.scores)
    assert mean - found.chance >= 3 * math.sqrt(mean * (1 - mean) / n)


def test_sft_writes_functions_that_pass(tiny):
    found = evidence(tiny, "sft", "humaneval-mini")
    mean, n = share(found), len(found.scores)
    assert mean - 1.96 * math.sqrt(mean * (1 - mean) / n) >= 0.2


def test_sft_is_better_than_base_on_two_suites_by_the_paired_test(tiny):
    found = [compare(tiny, suite, "sft", "base") for suite in SUITES]
    assert sum(mcnemar_p(verdict.gained, verdict.lost) <= 0.05 for verdict in found) >= 2


def test_rlhf_raises_the_reward_within_its_kl_limit_and_loses_no_suite(tiny):
    found = read_json(tiny / "metrics" / "rlhf.json", None)
    assert found["reward_gain"] >= 3 * found["reward_gain_stderr"] > 0
    assert found["kl"] <= load(tiny / "params.yaml")["rlhf"]["max_kl"]
    for suite in SUITES:
        verdict = compare(tiny, suite, "rlhf", "sft")
        assert verdict.verdict in ("better", "non-inferior"), verdict.reason


def test_nothing_of_the_suites_is_left_in_the_training_text(tiny):
    assert read_json(tiny / "metrics" / "prepare.json", None)["contaminated_left"] == 0
