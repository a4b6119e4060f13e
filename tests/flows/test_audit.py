"""What somebody does to the registry or its record around the gate is found, and never acted on."""

import json
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest

from flows.host.tracking import PROMOTIONS, Tracker
from flows.registry import record
from flows.registry.decisions import Registry
from flows.registry.record import Decision
from models.core.errors import StageError, UserError
from tasks.gate.verdicts import GateResult, SuiteVerdict

pytestmark = pytest.mark.long


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


@pytest.mark.slow
def test_an_edited_reason_verdict_or_number_is_found(registry):
    refused = with_history(registry)
    registry.client.set_tag(refused, "sluice.verdict", "promote")
    (finding,) = found(registry)
    assert "record 3 (promote 3) was edited: its name, tags, numbers or start" in finding
    registry.client.set_tag(refused, "sluice.verdict", "refuse")
    assert found(registry) == []
    registry.client.log_metric(refused, "quiz.lower", 0.2)
    assert "was edited" in found(registry)[0]


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_model_that_was_renamed_is_found(registry):
    with_history(registry)
    registry.client.rename_registered_model(registry.name, f"{registry.name}-elsewhere")
    assert any(record.HEAD in finding for finding in found(registry))


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_version_of_another_hand_is_not_made_champion(registry):
    registry.client.create_model_version(registry.name, "s3://bucket/x")
    with pytest.raises(UserError, match="version 4 was not registered by Sluice"):
        registry.promote("4", None, "manual", "by hand")


@pytest.mark.slow
def test_a_version_whose_tag_was_edited_is_found(registry):
    registry.promote("1", None, "promote", "first")
    registry.client.set_model_version_tag(registry.name, "1", "sluice.model_md5", "other")
    assert any("the model of version 1 has md5 other, decided on was" in finding for finding in found(registry))


@pytest.mark.slow
def test_a_tag_that_was_added_to_a_record_is_found(registry):
    two_promotions(registry)
    first = record.read(registry.tracker).runs[-1].info.run_id
    registry.client.set_tag(first, "mlflow.note.content", "approved by the board")
    assert found(registry) == ["record 1 (promote 1) was added to: mlflow.note.content"]


@pytest.mark.slow
def test_an_old_record_that_is_opened_again_keeps_its_words(registry):
    two_promotions(registry)
    first = record.read(registry.tracker).runs[-1].info.run_id
    registry.client.update_run(first, status="RUNNING")
    assert found(registry) == []
    run = registry.client.get_run(first)
    assert (run.info.status, run.data.tags["sluice.reason"]) == ("FINISHED", "first")


@pytest.mark.slow
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
