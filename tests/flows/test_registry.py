"""The registry on a real SQLite store: aliases move by compare-and-set, every move is on record, a crash in between is settled."""

import os
import time
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from flows.host.tracking import PROMOTIONS
from flows.host.workspace import start_time
from flows.registry import record, release
from flows.registry.record import Decision
from flows.registry.versions import estimate
from flows.screen import tables
from models.core.errors import Refused, UserError
from models.core.files import write_json
from tasks.gate.anchor import Against
from tasks.gate.verdicts import Evidence, GateResult, Policy, SuitePolicy, SuiteVerdict
from tests.limits import ANY


def test_promotion_keeps_the_champion_before_it_as_previous(registry):
    registry.promote("1", None, "promote", "first")
    assert registry.aliases() == {"champion": "1"}
    registry.promote("2", "1", "promote", "second")
    assert registry.aliases() == {"champion": "2", "previous": "1"}


def test_promotion_is_refused_where_the_champion_has_moved(registry):
    registry.promote("1", None, "promote", "first")
    with pytest.raises(Refused, match="champion is version 1 now"):
        registry.promote("2", None, "promote", "compared with nobody")
    assert registry.aliases() == {"champion": "1"}


def test_a_decision_holds_against_the_champion_that_it_compared_with_and_no_other(registry, store):
    registry.promote("1", None, "promote", "first")
    session = SimpleNamespace(workspace=store, model=registry.name)
    result = GateResult(decision="promote", reason="every suite passed", suites=[])
    found = release.Comparison(result=result, champion="1", items={})
    registry.promote("2", "1", "promote", "somebody was faster")
    with pytest.raises(Refused, match="champion is version 2 now, the gate compared with 1"):
        release.carry_out(session, found, "3", None)
    assert registry.aliases() == {"champion": "2", "previous": "1"}
    assert release.carry_out(session, found.model_copy(update={"champion": "2"}), "3", None).aliases == {"champion": "3", "previous": "2"}


def test_rollback_walks_the_record_not_the_numbers(registry):
    for version, seen in (("1", None), ("3", "1"), ("2", "3")):
        registry.promote(version, seen, "promote", "better")
    assert registry.rollback("bad answers") == ("2", "3")
    assert registry.aliases() == {"champion": "3", "previous": "1"}
    assert registry.rollback("still bad") == ("3", "1")
    assert registry.aliases() == {"champion": "1"}
    with pytest.raises(UserError, match="no earlier champion"):
        registry.rollback("further")


@pytest.mark.slow
def test_rollback_never_returns_to_a_version_that_it_left(registry):
    for version, seen in (("1", None), ("2", "1"), ("3", "2")):
        registry.promote(version, seen, "promote", "better")
    registry.promote("2", "3", "manual", "3 is bad")
    assert [registry.rollback("x")[1] for _ in range(3)] == ["3", "2", "1"]
    with pytest.raises(UserError, match="no earlier champion"):
        registry.rollback("further")
    assert registry.audit() == []


@pytest.mark.slow
def test_rollback_passes_over_a_version_that_was_deleted(registry):
    for version, seen in (("1", None), ("2", "1"), ("3", "2")):
        registry.promote(version, seen, "promote", "better")
    registry.client.delete_model_version(registry.name, "2")
    assert registry.rollback("bad answers") == ("3", "1")
    assert registry.aliases() == {"champion": "1"}
    assert registry.audit() == []


def test_the_gate_does_not_overrule_a_person(registry, store):
    registry.promote("1", None, "promote", "first")
    registry.promote("2", "1", "promote", "second")
    registry.rollback("toxic answers")
    session = SimpleNamespace(workspace=store, model=registry.name)
    found = release.Comparison(result=GateResult(decision="promote", reason="every suite passed", suites=[]), champion="1", items={})
    for _ in range(2):  # and says so once on record
        refused = release.carry_out(session, found, "2", None)
        assert refused.decision == "refuse"
        assert "version 2 was rolled back on" in refused.reason
        assert "(toxic answers)" in refused.reason
    assert [entry["verdict"] for entry in registry.history()] == ["refuse", "rollback", "promote", "promote"]
    registry.promote("2", "1", "manual", "looked again")
    assert registry.turned_down("2") == ""
    registry.put_on_record(Decision(record.REJECTED, "no", "", "3", "2"))
    assert "version 3 was rejected" in registry.turned_down("3")


def test_a_refusal_is_on_record_once_against_each_champion(registry, store):
    session = SimpleNamespace(workspace=store, model=registry.name)
    registry.promote("1", None, "promote", "first")
    found = release.Comparison(result=GateResult(decision="refuse", reason="worse", suites=[]), champion="1", items={})
    for _ in range(2):
        assert release.carry_out(session, found, "3", None).decision == "refuse"
    assert len(registry.history()) == 2
    registry.promote("2", "1", "promote", "second")
    release.carry_out(session, found.model_copy(update={"champion": "2"}), "3", None)
    assert [entry["verdict"] for entry in registry.history()] == ["refuse", "promote", "refuse", "promote"]


def test_the_history_is_newest_first_and_holds_refusals(registry):
    registry.promote("1", None, "promote", "first")
    registry.put_on_record(Decision("refuse", "worse on mmlu", "", "2"))
    assert [(entry["version"], entry["verdict"], entry["alias"]) for entry in registry.history()] == [
        ("2", "refuse", None),
        ("1", "promote", "champion"),
    ]


def test_a_version_is_found_by_the_md5_of_its_folder(registry):
    md5 = registry.version("2").tags["sluice.model_md5"]
    assert registry.find(md5).version in (2, "2")
    assert registry.find("md5-9") is None


def test_an_unknown_version_lists_the_known(registry):
    with pytest.raises(UserError, match="3, 2, 1"):
        registry.version("7")


def leave_open(registry, version):
    """A decision on record whose process died before it closed the run, and perhaps before the alias moved."""
    decision = Decision("promote", "x", "champion", version, registry.aliases().get("champion"), registry.aliases().get("champion"))
    run_id = registry.tracker.start(PROMOTIONS, "promote", record.tags_of(decision, None))
    head = record.link(registry.tracker, run_id, record.read(registry.tracker))
    registry.client.set_tag(run_id, "sluice.pid", "1:0")
    return run_id, head


def test_a_crash_after_the_alias_moved_is_settled_as_done(registry):
    run_id, head = leave_open(registry, "2")
    registry.client.set_registered_model_alias(registry.name, "champion", "2")
    registry.settle()
    assert registry.client.get_run(run_id).info.status == "FINISHED"
    assert record.head(registry.tracker) == head
    assert registry.audit() == []


def test_a_crash_before_the_alias_moved_is_settled_as_killed_and_leaves_no_gap(registry):
    registry.promote("1", None, "promote", "first")
    run_id, _ = leave_open(registry, "2")
    registry.settle()
    assert registry.client.get_run(run_id).info.status == "KILLED"
    registry.promote("3", "1", "promote", "third")
    assert [entry["version"] for entry in registry.history()] == ["3", "1"]
    assert registry.audit() == []


def test_a_crash_after_the_head_was_set_is_settled_as_done_where_no_alias_moves(registry):
    registry.promote("1", None, "promote", "first")
    run_id = registry.tracker.start(PROMOTIONS, "refuse", record.tags_of(Decision("refuse", "worse", "", "2"), None))
    record.set_head(registry.tracker, record.link(registry.tracker, run_id, record.read(registry.tracker)))
    registry.client.set_tag(run_id, "sluice.pid", "1:0")
    registry.settle()
    assert [entry["verdict"] for entry in registry.history()] == ["refuse", "promote"]
    assert registry.audit() == []


@pytest.mark.parametrize("moved", [False, True])
def test_whoever_writes_next_settles_what_a_crash_left_open(registry, moved):
    registry.promote("1", None, "promote", "first")
    leave_open(registry, "2")
    if moved:
        registry.client.set_registered_model_alias(registry.name, "champion", "2")
    registry.tracker.close_dead_runs()  # as each stage does: decisions are none of its business
    registry.promote("3", "2" if moved else "1", "promote", "third")
    assert registry.aliases() == {"champion": "3", "previous": "2" if moved else "1"}
    assert [entry["version"] for entry in registry.history()] == (["3", "2", "1"] if moved else ["3", "1"])
    assert registry.audit() == []


def test_a_crash_between_the_two_aliases_is_settled_by_a_rollback_too(registry):
    registry.promote("1", None, "promote", "first")
    registry.promote("2", "1", "promote", "second")
    leave_open(registry, "3")
    registry.client.set_registered_model_alias(registry.name, "champion", "3")  # previous still is 1
    assert registry.rollback("bad answers") == ("3", "2")
    assert registry.aliases() == {"champion": "2", "previous": "1"}
    assert registry.audit() == []


def test_a_decision_that_fails_in_the_middle_leaves_nothing_open(registry, monkeypatch):
    registry.promote("1", None, "promote", "first")
    monkeypatch.setattr(registry, "_set_previous", Mock(side_effect=OSError("the store went away")))
    with pytest.raises(OSError, match="went away"):
        registry.promote("2", "1", "promote", "second")
    monkeypatch.undo()
    registry.promote("3", "2", "promote", "third")
    assert registry.aliases() == {"champion": "3", "previous": "2"}
    assert registry.audit() == []


@pytest.mark.parametrize(("age_s", "status"), [(0, "RUNNING"), (2 * 3600, "KILLED")])
def test_another_machines_open_decision_is_settled_once_no_decision_takes_so_long(registry, monkeypatch, age_s, status):
    run_id, _ = leave_open(registry, "2")
    registry.client.set_tag(run_id, "sluice.host", "a-pod-that-is-gone")
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + age_s)
    registry.settle()
    assert registry.client.get_run(run_id).info.status == status


def test_the_run_of_a_living_process_is_left_alone(registry):
    parent = os.getppid()
    run_id = registry.tracker.start(PROMOTIONS, "theirs", {"sluice.pid": f"{parent}:{start_time(parent)}"})
    registry.settle()
    assert registry.client.get_run(run_id).info.status == "RUNNING"
    registry.tracker.end(run_id, "FINISHED")


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        ({"a": 1.0, "b": 0.0}, "0.500 ± 0.500 (n 2)"),
        ({"a": 1.0}, "1.000 (n 1)"),  # one item shows no spread: no error is not an error of 0
        (None, "unavailable"),
    ],
)
def test_a_score_is_said_with_its_standard_error_where_it_has_one(scores, text):
    assert tables.score_text(estimate(Evidence(scores=scores, chance=0.25, identity={}))) == text


def against(better=False, version="1", look=1, difference=-0.01):
    return Against(version=version, look=look, level=0.01, p=0.001, difference=difference, lower=-0.05, upper=0.03, better=better)


def gated(decision="promote", **anchor):
    verdict = SuiteVerdict(suite="mmlu", verdict="non-inferior", passed=True, reason="", anchor=against(**anchor) if anchor else None)
    return GateResult(decision=decision, reason="as it is", suites=[verdict])


def test_the_record_carries_the_anchors_from_decision_to_decision(registry):
    assert registry.standings() == {}
    registry.promote("1", None, "promote", "first", result=gated())
    assert registry.standings()["mmlu"].version == "1"
    registry.note(Decision("refuse", "worse", "", "3", "1"), None, gated("refuse", look=1), {})
    assert registry.standings()["mmlu"].looks == 1
    registry.promote("2", "1", "promote", "second", result=gated(look=2))
    assert (registry.standings()["mmlu"].version, registry.standings()["mmlu"].drift) == ("1", (-0.01, -0.05, 0.03))
    registry.promote("3", "2", "promote", "third", result=gated(look=3, better=True))
    assert (registry.standings()["mmlu"].version, registry.standings()["mmlu"].looks) == ("3", 0)
    assert registry.audit() == []


def test_a_rollback_brings_back_the_anchor_of_its_champion_and_no_look_that_was_spent(registry):
    registry.promote("1", None, "promote", "first", result=gated())
    registry.promote("2", "1", "promote", "second", result=gated(look=1))
    registry.note(Decision("refuse", "worse", "", "3", "2"), None, gated("refuse", look=2), {})
    registry.promote("3", "2", "promote", "third", result=gated(look=3, better=True))
    registry.rollback("rude answers")
    assert (registry.standings()["mmlu"].version, registry.standings()["mmlu"].looks) == ("1", 2)


def test_a_look_at_an_anchor_is_had_once(registry):
    registry.promote("1", None, "promote", "first", result=gated())
    registry.note(Decision("refuse", "worse", "", "3", "1"), None, gated("refuse", look=1), {})
    with pytest.raises(Refused, match=r"the anchor of mmlu is version 1 after 1 looks now, .* at look 1: nothing was moved"):
        registry.promote("2", "1", "promote", "second", result=gated(look=1))
    registry.promote("2", "1", "promote", "second", result=gated(look=2))


def test_a_person_pins_an_anchor_on_record(registry):
    with pytest.raises(UserError, match="nothing is champion yet"):
        pin(registry, "2")
    registry.promote("1", None, "promote", "first", result=gated())
    with pytest.raises(UserError, match=r"version 2 was never scored on gpqa \(scored: mmlu\)"):
        registry.pin_anchor("2", ["gpqa"], "why")
    assert pin(registry, "2")["mmlu"].version == "2"
    newest = registry.history()[0]
    assert (newest["verdict"], newest["version"], newest["alias"], newest["reason"]) == ("anchor", "2", None, "read twenty answers")
    assert registry.aliases() == {"champion": "1"}
    assert registry.audit() == []


def pin(registry, version):
    registry.client.set_model_version_tag(registry.name, version, "sluice.scores", '{"mmlu": {}}')
    return registry.pin_anchor(version, ["mmlu"], "read twenty answers")


def test_anchors_on_an_edited_record_are_not_believed(registry):
    registry.promote("1", None, "promote", "first", result=gated())
    registry.promote("2", "1", "promote", "second", result=gated(look=1))
    newest = registry.history()[0]["run_id"]
    registry.client.set_tag(newest, "sluice.anchors", '{"mmlu": {"version": "2", "looks": 0}}')
    assert registry.standings()["mmlu"].version == "1"
    assert any("was edited" in finding.what for finding in registry.audit())


def test_a_record_from_before_there_were_anchors_is_still_sound(registry):
    registry.promote("1", None, "promote", "first", result=gated())
    [run] = registry.decisions()
    older = {key: value for key, value in run.data.tags.items() if key != "sluice.anchors"}
    run.data._tags = older
    assert record.anchors_of(run) is None
    assert record.digest(run) != older["sluice.record"]  # and one whose anchors were taken away is not


@pytest.fixture
def at_hand(registry, store):
    """A workspace with a candidate at hand, which is version 2."""
    for name in ("artifacts/rlhf", "artifacts/benchmark/rlhf-mmlu", "artifacts/contamination"):
        write_json(store.root / name / "file.json", {"of": registry.name})
    rules = SuitePolicy(margin=0.1, floor=None, require="non-inferior")
    policy = Policy(alpha=0.05, without_sandbox="refuse", better_on_one_of=[], contaminated=0, health=ANY, suites={"mmlu": rules})
    registry.promote("1", None, "promote", "first", result=gated())
    cell = SimpleNamespace(model="rlhf", suite="mmlu", items_path="artifacts/benchmark/rlhf-mmlu")
    params = {"candidate": "rlhf", "gate": {"suites": {"mmlu": rules.model_dump()}}}
    pipeline = SimpleNamespace(workspace=store, cells=[cell])
    return SimpleNamespace(workspace=store, model=registry.name, policy=policy, params=params, pipeline=pipeline)


def test_what_was_refused_is_said_again_from_the_record_and_not_decided_anew(registry, at_hand):
    assert release.recorded_decision(at_hand) is None
    found = release.Comparison(result=gated("refuse", look=1), champion="1", items={}, inputs=release.inputs_of(at_hand, registry))
    release.carry_out(at_hand, found, "2", None)
    again = release.recorded_decision(at_hand)
    assert (again.decision, again.version) == ("refuse", "2")
    assert again.reason == "record 2 says so of version 2, and nothing has changed since: as it is"
    assert len(registry.history()) == 2


@pytest.mark.parametrize("change", ["model", "evidence", "policy", "champion", "anchor"])
def test_it_is_decided_anew_where_anything_that_decides_has_changed(registry, store, at_hand, change):
    found = release.Comparison(result=gated("undecided", look=1), champion="1", items={}, inputs=release.inputs_of(at_hand, registry))
    release.carry_out(at_hand, found, "2", None)
    assert release.recorded_decision(at_hand).decision == "undecided"
    if change == "policy":
        at_hand.policy = at_hand.policy.model_copy(update={"alpha": 0.1})
    elif change == "champion":
        registry.promote("3", "1", "manual", "by hand")
    elif change == "anchor":
        pin(registry, "3")
    else:
        folder = {"model": "artifacts/rlhf", "evidence": "artifacts/benchmark/rlhf-mmlu"}[change]
        write_json(store.root / folder / "file.json", {"of": "another"})
    assert release.recorded_decision(at_hand) is None
