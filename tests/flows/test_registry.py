"""The registry on a real SQLite store: aliases move by compare-and-set, every move is on record, a crash in between is settled."""

import pytest

from flows.registry import Decision, Registry
from flows.tracking import PROMOTIONS, Tracker
from flows.workspace import Workspace, prepare_environment
from models.errors import Refused, UserError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("registry"))
    prepare_environment(workspace)
    return workspace


@pytest.fixture
def registry(store, request):
    """A model of its own for each test, with three versions."""
    found = Registry(Tracker(store, request.node.name))
    run_id = found.tracker.start(PROMOTIONS, "versions", {})
    found.client.create_registered_model(found.name)
    for number in (1, 2, 3):
        found.client.create_model_version(found.name, f"file:///nowhere/{number}", run_id, tags={"sluice.model_md5": f"md5-{number}"})
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


def test_rollback_walks_the_record_not_the_numbers(registry):
    for version, seen in (("1", None), ("3", "1"), ("2", "3")):
        registry.promote(version, seen, "promote", "better")
    assert registry.rollback("bad answers") == ("2", "3")
    assert registry.aliases() == {"champion": "3", "previous": "1"}
    assert registry.rollback("still bad") == ("3", "1")
    assert registry.aliases() == {"champion": "1"}
    with pytest.raises(UserError, match="no earlier champion"):
        registry.rollback("further")


def test_the_history_is_newest_first_and_holds_refusals(registry):
    registry.promote("1", None, "promote", "first")
    registry.record(Decision("refuse", "worse on mmlu", "", "2"))
    assert [(entry["version"], entry["verdict"], entry["alias"]) for entry in registry.history()] == [
        ("2", "refuse", None),
        ("1", "promote", "champion"),
    ]


def test_a_version_is_found_by_the_md5_of_its_folder(registry):
    assert registry.find("md5-2").version in (2, "2")
    assert registry.find("md5-9") is None


def test_an_unknown_version_lists_the_known(registry):
    with pytest.raises(UserError, match="3, 2, 1"):
        registry.version("7")


def leave_open(registry, version):
    """A decision whose process died before it closed the record."""
    tags = {"sluice.alias": "champion", "sluice.version": version, "sluice.verdict": "promote", "sluice.reason": "x"}
    run_id = registry.tracker.start(PROMOTIONS, "promote", tags)
    registry.client.set_tag(run_id, "sluice.pid", "1:0")
    return run_id


def test_a_crash_after_the_alias_moved_is_settled_as_done(registry):
    run_id = leave_open(registry, "2")
    registry.client.set_registered_model_alias(registry.name, "champion", "2")
    registry.settle()
    assert registry.client.get_run(run_id).info.status == "FINISHED"


def test_a_crash_before_the_alias_moved_is_settled_as_killed(registry):
    run_id = leave_open(registry, "2")
    registry.settle()
    assert registry.client.get_run(run_id).info.status == "KILLED"
    assert registry.history() == []


def test_the_run_of_a_living_process_is_left_alone(registry):
    run_id = registry.tracker.start(PROMOTIONS, "mine", {})
    registry.settle()
    assert registry.client.get_run(run_id).info.status == "RUNNING"
    registry.tracker.end(run_id, "FINISHED")
