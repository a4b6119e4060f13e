"""Each spoiled candidate is refused for what was spoiled: by the gate, on record, with exit code 3.

`make demo-refusal` trains every candidate, which takes minutes; so does the slow test here. The others hand the real gate, registry and
flow candidates whose weights, answers and leaks were put there, and ask for the same decisions in the same words.
"""

import json
import re

import pytest

from flows.cli import main
from flows.host.tracking import Tracker
from flows.host.workspace import Workspace, prepare_environment
from flows.registry import release
from flows.registry.decisions import Registry
from flows.stages.parameters import load
from flows.stages.session import Session
from models.core.files import write_lines
from models.core.given import read_lines
from tasks.contamination import ContaminationInputs, ContaminationOutputs, ContaminationParams, contamination
from tests.candidates import answered, offer, rewrite
from tests.refusals import BETTER, CASES, SLIDE, SMALL, TEMPLATE, change_params, crawled, demonstrate
from tests.workspaces import copy_of

KNOWN = {"mmlu-mini": 0.9, "gpqa-mini": 0.9, "humaneval-mini": 0.75}  # what the champion gets right
POLICY = {"gate": {"health": SMALL["gate"]["health"]}}


def honest(workspace):
    """As good as the champion."""


def no_better(workspace):
    change_params(workspace, BETTER)


def other_template(workspace):
    path = workspace / "artifacts" / "rlhf" / "chat_template.jinja"
    path.write_text(path.read_text().replace(*TEMPLATE))
    for suite in KNOWN:
        rewrite(workspace, suite, lambda rows: rows)


def empty_generations(workspace):
    rewrite(workspace, "humaneval-mini", lambda rows: [{**row, "score": 0, "response": " ", "flags": ["empty"]} for row in rows])


def reward_by_length(workspace):
    rewrite(workspace, "humaneval-mini", lambda rows: answered(rows, 0.0))


def leaked_items(workspace):
    """The stage `contamination` finds them in what the reward model is fed."""
    artifacts = workspace / "artifacts"
    prepared, suites = artifacts / "prepared", artifacts / "suites"
    items = [item for suite in ("mmlu-mini", "gpqa-mini") for item in read_lines(suites / suite / "items.jsonl")]
    train = prepared / "preferences" / "train.jsonl"
    write_lines(train, [*read_lines(train), *crawled(items)])
    params = ContaminationParams.model_validate(load(workspace / "params.yaml")["contamination"])
    fed = {kind: prepared / kind for kind in ("documents", "instructions", "preferences", "prompts")}
    contamination(params, ContaminationInputs(suites=suites, **fed), ContaminationOutputs(contamination=artifacts / "contamination"))


def shuffled_labels(workspace):
    for suite in ("mmlu-mini", "gpqa-mini"):
        rewrite(workspace, suite, lambda rows: answered(rows, 0.25))


SPOILED = dict(
    zip(
        (case.name for case in CASES),
        (honest, no_better, other_template, empty_generations, reward_by_length, leaked_items, shuffled_labels),
        strict=True,
    )
)


@pytest.fixture(scope="module")
def trained(finished, tmp_path_factory):
    """A finished workspace whose champion, version 2, has learned something."""
    workspace = copy_of(finished, tmp_path_factory.mktemp("trained") / "sluice")
    offer(workspace, 1, KNOWN)
    with pytest.MonkeyPatch.context() as patch:
        assert decided(workspace, patch) == ("2", "promote")
    change_params(workspace, POLICY)  # from now on: nano's first champion is not healthy
    return workspace


def alone(workspace, patch):
    """The workspace and its registry, whatever servers other tests have used."""
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        patch.delenv(name, raising=False)
    found = Workspace(workspace)
    prepare_environment(found)
    patch.chdir(workspace)
    session = Session.reading(found)
    return session, Registry(Tracker(found, session.model))


def decided(workspace, patch):
    """(version, decision) of the candidate at hand: compared, registered and put on record as the flow does it."""
    session, registry = alone(workspace, patch)
    found = release.compare(session, registry, "", registry.at("champion"))
    version = release.register(session.pipeline, registry.tracker, session.params, None)
    return version, release.carry_out(session, found, version, None).decision


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_candidate_is_refused_for_what_was_spoiled_and_an_honest_one_is_not(trained, tmp_path, monkeypatch, capsys, case):
    workspace = copy_of(trained, tmp_path / "sluice")
    offer(workspace, 2, KNOWN)
    SPOILED[case.name](workspace)
    alone(workspace, monkeypatch)
    code = main.run_command(["gate", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (said["decision"], code) == (case.decision, 0 if case.decision == "promote" else 3), said["reason"]
    assert re.search(case.says, said["reason"])

    assert decided(workspace, monkeypatch) == ("3", case.decision)
    _, registry = alone(workspace, monkeypatch)
    newest = registry.history()[0]
    assert (newest["version"], newest["verdict"], newest["reason"]) == ("3", case.decision, said["reason"])
    assert registry.aliases()["champion"] == ("3" if case.decision == "promote" else "2")
    assert registry.audit() == []
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_slow_slide_is_refused_though_each_step_is_inside_the_margin(trained, tmp_path, monkeypatch, capsys):
    """Two of 24 items a night, of a margin of eight: the champion lets every step through, the anchor not the second."""
    workspace, decisions = copy_of(trained, tmp_path / "sluice"), []
    while decisions[-1:] != ["refuse"]:
        offer(workspace, 10 + len(decisions), {**KNOWN, "mmlu-mini": KNOWN["mmlu-mini"] - 2 / 24 * (len(decisions) + 1)})
        decisions.append(decided(workspace, monkeypatch)[1])
    assert decisions == ["promote", "refuse"]
    _, registry = alone(workspace, monkeypatch)
    newest, standing = registry.history()[0], registry.standings()["mmlu-mini"]
    assert re.search(r"mmlu-mini is below anchor: against the anchor \(version 2\) -0\.167, .* at look 2\)", newest["reason"])
    assert "against the champion: 0.750 against 0.833" in newest["reason"]
    assert (standing.version, standing.looks, round(standing.drift[0], 3)) == ("2", 2, -0.083)
    assert main.run_command(["status"]) == 0
    assert "mmlu-mini version 2, 2 looks; champion's drift from it: -0.083" in capsys.readouterr().out
    assert registry.audit() == []


@pytest.mark.slow
def test_trained_candidates_are_promoted_and_refused_the_same_way(tmp_path):
    said = []
    outcomes = demonstrate(tmp_path / "sluice", "nano", SMALL, said.append)
    assert [outcome.case for outcome in outcomes] == [*CASES, SLIDE]
    assert all(outcome.as_expected for outcome in outcomes), "\n".join(said)
