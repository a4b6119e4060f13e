"""The registry on a real SQLite store: aliases move by compare-and-set, every move is on record, a crash in between is settled."""

import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from flows import record, release, report
from flows.record import Decision
from flows.registry import Registry, score
from flows.tracking import PROMOTIONS, Tracker
from flows.workspace import start_time
from models.errors import Refused, StageError, UserError
from models.records import folder_md5, write_json
from tasks.anchor import Against
from tasks.gate import Evidence, GateResult, Policy, SuitePolicy, SuiteVerdict
from tests.limits import ANY


@pytest.fixture
def registry(store, request):
    """A model of its own for each test, with three versions."""
    found = Registry(Tracker(store, request.node.name))
    run_id = found.tracker.start(PROMOTIONS, "versions", {})
    found.client.create_registered_model(found.name)
    for number in (1, 2, 3):
        source = store.root / request.node.name / str(number)
        write_json(source / "model" / "config.json", {"of": f"{request.node.name} {number}"})
        write_json(source / "MLmodel", {})
        tags = {"sluice.model_md5": folder_md5(source / "model")}
        found.client.create_model_version(found.name, source.as_uri(), run_id, tags=tags)
    found.tracker.end(run_id, "KILLED")
    return found


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
    held = SimpleNamespace(workspace=store, model=registry.name)
    result = GateResult(decision="promote", reason="every suite passed", suites=[])
    found = release.Comparison(result=result, champion="1", items={})
    registry.promote("2", "1", "promote", "somebody was faster")
    with pytest.raises(Refused, match="champion is version 2 now, the gate compared with 1"):
        release.decide(held, found, "3", None)
    assert registry.aliases() == {"champion": "2", "previous": "1"}
    assert release.decide(held, found.model_copy(update={"champion": "2"}), "3", None).aliases == {"champion": "3", "previous": "2"}


def test_rollback_walks_the_record_not_the_numbers(registry):
    for version, seen in (("1", None), ("3", "1"), ("2", "3")):
        registry.promote(version, seen, "promote", "better")
    assert registry.rollback("bad answers") == ("2", "3")
    assert registry.aliases() == {"champion": "3", "previous": "1"}
    assert registry.rollback("still bad") == ("3", "1")
    assert registry.aliases() == {"champion": "1"}
    with pytest.raises(UserError, match="no earlier champion"):
        registry.rollback("further")


def test_rollback_never_returns_to_a_version_that_it_left(registry):
    for version, seen in (("1", None), ("2", "1"), ("3", "2")):
        registry.promote(version, seen, "promote", "better")
    registry.promote("2", "3", "manual", "3 is bad")
    assert [registry.rollback("x")[1] for _ in range(3)] == ["3", "2", "1"]
    with pytest.raises(UserError, match="no earlier champion"):
        registry.rollback("further")
    assert registry.audit() == []


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
    held = SimpleNamespace(workspace=store, model=registry.name)
    found = release.Comparison(result=GateResult(decision="promote", reason="every suite passed", suites=[]), champion="1", items={})
    for _ in range(2):  # and says so once on record
        refused = release.decide(held, found, "2", None)
        assert refused.decision == "refuse"
        assert "version 2 was rolled back on" in refused.reason
        assert "(toxic answers)" in refused.reason
    assert [entry["verdict"] for entry in registry.history()] == ["refuse", "rollback", "promote", "promote"]
    registry.promote("2", "1", "manual", "looked again")
    assert registry.turned_down("2") == ""
    registry.put_on_record(Decision(record.REJECTED, "no", "", "3", "2"))
    assert "version 3 was rejected" in registry.turned_down("3")


def test_a_refusal_is_on_record_once_against_each_champion(registry, store):
    held = SimpleNamespace(workspace=store, model=registry.name)
    registry.promote("1", None, "promote", "first")
    found = release.Comparison(result=GateResult(decision="refuse", reason="worse", suites=[]), champion="1", items={})
    for _ in range(2):
        assert release.decide(held, found, "3", None).decision == "refuse"
    assert len(registry.history()) == 2
    registry.promote("2", "1", "promote", "second")
    release.decide(held, found.model_copy(update={"champion": "2"}), "3", None)
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


def with_history(registry):
    """Four decisions, with evidence on the third."""
    registry.promote("1", None, "promote", "first")
    registry.promote("2", "1", "promote", "second")
    result = GateResult(
        decision="refuse", reason="worse", suites=[SuiteVerdict(suite="quiz", verdict="worse", passed=False, reason="", lower=-0.2)]
    )
    refused = registry.put_on_record(Decision("refuse", "worse", "", "3", "2"), None, result, {"quiz": [{"id": "q/1", "candidate": 0.0}]})
    registry.rollback("bad answers")
    return refused


def found(registry):
    return [finding.what for finding in registry.audit()]


def test_an_untouched_record_has_nothing_to_find(registry):
    with_history(registry)
    assert found(registry) == []


@pytest.mark.parametrize("alias", ["champion", "previous"])
def test_an_alias_moved_around_the_gate_is_named(registry, alias):
    with_history(registry)
    registry.client.set_registered_model_alias(registry.name, alias, "3")
    (finding,) = found(registry)
    assert finding.startswith(f"alias {alias} is at version 3, on record at")


def test_a_move_around_the_gate_is_found_after_later_promotions_too(registry):
    registry.promote("1", None, "promote", "first")
    registry.client.set_registered_model_alias(registry.name, "champion", "3")
    registry.promote("2", "3", "promote", "second")
    assert found(registry) == ["before record 2, champion went from version 1 to 3 on no record"]


def test_an_edited_reason_verdict_or_number_is_found(registry):
    refused = with_history(registry)
    registry.client.set_tag(refused, "sluice.verdict", "promote")
    (finding,) = found(registry)
    assert "record 3 (promote 3) was edited: its name, tags, numbers or start" in finding
    registry.client.set_tag(refused, "sluice.verdict", "refuse")
    assert found(registry) == []
    registry.client.log_metric(refused, "quiz.lower", 0.2)
    assert "was edited" in found(registry)[0]


def test_a_tag_that_is_overwritten_or_deleted_is_found(registry):
    refused = with_history(registry)
    said = registry.client.get_run(refused).data.tags
    for tag in ("sequence", "verdict", "version", "reason", "was", "before", "artifacts"):
        registry.client.set_tag(refused, f"sluice.{tag}", "two")
        assert any("was edited" in finding for finding in found(registry))
        registry.client.delete_tag(refused, f"sluice.{tag}")
        assert any("was edited" in finding for finding in found(registry))
        registry.history()
        registry.client.set_tag(refused, f"sluice.{tag}", said[f"sluice.{tag}"])
    assert found(registry) == []


def test_a_renamed_record_is_found(registry):
    refused = with_history(registry)
    registry.client.set_tag(refused, "mlflow.runName", "promote 3")
    assert "was edited: its name" in found(registry)[0]


def test_all_records_removed_are_found(registry):
    registry.put_on_record(Decision("refuse", "worse", "", "1"))
    registry.client.delete_run(registry.put_on_record(Decision("refuse", "worse", "", "2")))
    registry.client.delete_run(registry.history()[0]["run_id"])
    assert found(registry) == ["records 1 to 2 are missing from the record"]


@pytest.mark.parametrize("value", [None, "x:y", "9:abc"], ids=["deleted", "broken", "ahead"])
def test_a_head_that_was_tampered_with_is_found_and_nothing_is_put_after_it(registry, value):
    with_history(registry)
    if value is None:
        registry.client.delete_registered_model_tag(registry.name, record.HEAD)
    else:
        registry.client.set_registered_model_tag(registry.name, record.HEAD, value)
    assert len(found(registry)) == 1
    if value != "9:abc":
        with pytest.raises(StageError, match="'sluice audit' says what it must be"):
            registry.promote("3", "1", "promote", "third")
        assert registry.aliases() == {"champion": "1"}


def test_a_model_that_was_renamed_is_found(registry):
    with_history(registry)
    registry.client.rename_registered_model(registry.name, f"{registry.name}-elsewhere")
    assert any(record.HEAD in finding for finding in found(registry))


def test_a_deleted_record_of_promotions_is_found_and_says_how_it_comes_back(registry):
    with_history(registry)
    registry.client.delete_experiment(registry.tracker.experiment_id(PROMOTIONS))
    assert found(registry)
    with pytest.raises(UserError, match="mlflow experiments restore"):
        registry.promote("3", "1", "promote", "third")


def test_who_reads_after_the_head_has_moved_and_before_the_run_is_closed_finds_the_decision(registry, monkeypatch):
    registry.promote("1", None, "promote", "first")
    end, seen = registry.tracker.end, []

    def look(*words):
        seen.append((registry.registered(registry.version("1")).doubt, registry.decisions()[0].data.tags["sluice.version"]))
        end(*words)

    monkeypatch.setattr(registry.tracker, "end", look)
    registry.promote("2", "1", "promote", "second")
    assert seen == [("", "2")]


def test_a_promotion_at_work_is_no_finding(registry, monkeypatch):
    registry.promote("1", None, "promote", "first")
    seen, set_head = [], record.set_head

    def slow(tracker, value):
        monkeypatch.setattr(record, "set_head", set_head)
        auditor = Registry(Tracker(registry.tracker.workspace, registry.name))
        thread = threading.Thread(target=lambda: seen.append(auditor.audit()))
        thread.start()
        time.sleep(0.5)
        set_head(tracker, value)
        seen.append(thread)

    monkeypatch.setattr(record, "set_head", slow)
    registry.promote("2", "1", "promote", "second")
    seen[-2 if isinstance(seen[-1], list) else -1].join()
    assert [] in seen


def test_edited_evidence_is_found(registry):
    refused = with_history(registry)
    registry.client.log_text(refused, '{"id": "q/1", "candidate": 1.0}', "items/quiz.jsonl")
    assert found(registry) == ["record 3 (refuse 3) was edited: its evidence is not what was decided on"]


def test_a_record_whose_hash_was_made_to_fit_breaks_the_one_after_it(registry):
    refused = with_history(registry)
    registry.client.set_tag(refused, "sluice.reason", "a fine model")
    registry.client.set_tag(refused, "sluice.record", record.digest(registry.client.get_run(refused)))
    assert found(registry) == ["record 4 (rollback 1) does not follow the record before it"]


def test_a_removed_record_is_found_the_newest_too(registry):
    refused = with_history(registry)
    registry.client.delete_run(refused)
    assert found(registry)[0] == "record 3 is missing from the record"
    registry.client.delete_run(registry.history()[0]["run_id"])
    assert found(registry)[0] == "records 3 to 4 are missing from the record"


def test_a_record_by_another_hand_is_found(registry):
    with_history(registry)
    run_id = registry.tracker.start(PROMOTIONS, "promote 3", {"sluice.verdict": "promote", "sluice.version": "3"})
    registry.tracker.end(run_id, "FINISHED")
    assert found(registry) == ["a record that Sluice did not write: it has no place in the chain"]


def two_promotions(registry):
    registry.promote("1", None, "promote", "first")
    registry.promote("2", "1", "promote", "second")


def test_a_version_whose_files_were_changed_is_not_made_champion(registry, store):
    registry.promote("1", None, "promote", "first")
    weights = store.root / registry.name / "2" / "model" / "config.json"
    weights.write_text(weights.read_text() + " ")
    with pytest.raises(StageError, match="its files were changed"):
        registry.promote("2", "1", "manual", "by hand")
    shutil.rmtree(store.root / registry.name / "3")
    with pytest.raises(StageError, match="its stored model is gone"):
        registry.promote("3", "1", "manual", "by hand")
    assert (registry.aliases(), registry.audit()) == ({"champion": "1"}, [])


def test_rollback_does_not_return_to_changed_files(registry, store):
    two_promotions(registry)
    weights = store.root / registry.name / "1" / "model" / "config.json"
    weights.write_text(weights.read_text() + " ")
    with pytest.raises(StageError, match="its files were changed"):
        registry.rollback("bad answers")
    assert registry.aliases()["champion"] == "2"


def test_a_version_of_another_hand_is_not_made_champion(registry):
    registry.client.create_model_version(registry.name, "s3://bucket/x")
    with pytest.raises(UserError, match="version 4 was not registered by Sluice"):
        registry.promote("4", None, "manual", "by hand")


def test_a_version_whose_tag_was_edited_is_found(registry):
    registry.promote("1", None, "promote", "first")
    registry.client.set_model_version_tag(registry.name, "1", "sluice.model_md5", "other")
    assert any("the model of version 1 has md5 other, decided on was" in finding for finding in found(registry))


def test_a_tag_that_was_added_to_a_record_is_found(registry):
    two_promotions(registry)
    first = record.read(registry.tracker).runs[-1].info.run_id
    registry.client.set_tag(first, "mlflow.note.content", "approved by the board")
    assert found(registry) == ["record 1 (promote 1) was added to: mlflow.note.content"]


def test_an_old_record_that_is_opened_again_keeps_its_words(registry):
    two_promotions(registry)
    first = record.read(registry.tracker).runs[-1].info.run_id
    registry.client.update_run(first, status="RUNNING")
    assert found(registry) == []
    run = registry.client.get_run(first)
    assert (run.info.status, run.data.tags["sluice.reason"]) == ("FINISHED", "first")


def test_what_a_person_accepts_is_found_no_more_and_what_comes_after_is(registry):
    two_promotions(registry)
    registry.client.set_registered_model_alias(registry.name, "champion", "3")
    registry.client.set_registered_model_alias(registry.name, "previous", "2")
    assert len(found(registry)) == 2
    assert [finding.what for finding in registry.accept("the night of the outage")] == found_before(registry)
    assert found(registry) == []
    assert registry.history()[0]["verdict"] == "accepted"
    with pytest.raises(UserError, match="nothing to accept"):
        registry.accept("again")
    registry.promote("1", "3", "manual", "back")
    assert found(registry) == []
    registry.client.set_registered_model_alias(registry.name, "champion", "3")
    assert len(found(registry)) == 1


def found_before(registry):
    """What the newest record accepted."""
    run = record.read(registry.tracker).runs[0]
    with tempfile.TemporaryDirectory() as folder:
        path = registry.client.download_artifacts(run.info.run_id, "accepted.json", folder)
        return [what for what, _ in json.loads(Path(path).read_text())]


def forged(registry, **tags):
    """A record by another hand, with all that a real one has but its place in the chain."""
    run = registry.client.create_run(
        registry.tracker.experiment_id(PROMOTIONS), tags={f"sluice.{key}": value for key, value in tags.items()}
    )
    registry.client.set_tag(run.info.run_id, "sluice.record", record.digest(registry.client.get_run(run.info.run_id)))
    registry.client.set_terminated(run.info.run_id, "FINISHED")


def test_a_forged_record_is_no_way_back_and_turns_nothing_down(registry):
    two_promotions(registry)
    forged(registry, verdict="promote", alias="champion", version="3", was="2", sequence="3")
    forged(registry, verdict="rejected", alias="", version="1", sequence="4")
    assert registry.turned_down("1") == ""
    assert registry.rollback("bad answers") == ("2", "1")


def test_an_edited_record_is_no_way_back(registry):
    two_promotions(registry)
    registry.client.set_tag(record.read(registry.tracker).runs[-1].info.run_id, "sluice.version", "3")
    with pytest.raises(StageError, match="version 1: what was decided about it is not known, records are missing or were edited"):
        registry.rollback("bad answers")
    registry.accept("somebody tried the page out; the weights are those of the backup")
    assert registry.rollback("bad answers") == ("2", "1")  # the second record says whom it followed


def test_a_champion_that_was_moved_back_by_hand_has_no_earlier_one(registry):
    two_promotions(registry)
    registry.client.set_registered_model_alias(registry.name, "champion", "1")
    with pytest.raises(UserError, match="no earlier champion"):
        registry.rollback("bad answers")
    registry.client.delete_registered_model_alias(registry.name, "champion")
    with pytest.raises(UserError, match="no champion to return from"):
        registry.rollback("bad answers")


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        ({"a": 1.0, "b": 0.0}, "0.500 ± 0.500 (n 2)"),
        ({"a": 1.0}, "1.000 (n 1)"),  # one item shows no spread: no error is not an error of 0
        (None, "unavailable"),
    ],
)
def test_a_score_is_said_with_its_standard_error_where_it_has_one(scores, text):
    assert report.score_text(score(Evidence(scores=scores, chance=0.25, identity={}))) == text


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
    return SimpleNamespace(workspace=store, model=registry.name, policy=policy)


def test_what_was_refused_is_said_again_from_the_record_and_not_decided_anew(registry, at_hand):
    assert release.decided(at_hand) is None
    found = release.Comparison(result=gated("refuse", look=1), champion="1", items={}, inputs=release.inputs_of(at_hand, registry))
    release.decide(at_hand, found, "2", None)
    again = release.decided(at_hand)
    assert (again.decision, again.version) == ("refuse", "2")
    assert again.reason == "record 2 says so of version 2, and nothing has changed since: as it is"
    assert len(registry.history()) == 2


@pytest.mark.parametrize("change", ["model", "evidence", "policy", "champion", "anchor"])
def test_it_is_decided_anew_where_anything_that_decides_has_changed(registry, store, at_hand, change):
    found = release.Comparison(result=gated("undecided", look=1), champion="1", items={}, inputs=release.inputs_of(at_hand, registry))
    release.decide(at_hand, found, "2", None)
    assert release.decided(at_hand).decision == "undecided"
    if change == "policy":
        at_hand.policy = at_hand.policy.model_copy(update={"alpha": 0.1})
    elif change == "champion":
        registry.promote("3", "1", "manual", "by hand")
    elif change == "anchor":
        pin(registry, "3")
    else:
        folder = {"model": "artifacts/rlhf", "evidence": "artifacts/benchmark/rlhf-mmlu"}[change]
        write_json(store.root / folder / "file.json", {"of": "another"})
    assert release.decided(at_hand) is None
