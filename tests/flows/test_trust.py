"""What is stored is believed as far as a sound record vouches for it: real SQLite stores, whose files and tags somebody edits."""

import json
from itertools import pairwise
from types import SimpleNamespace

import pytest

from flows.host import tracking
from flows.host.tracking import PIPELINE, PROMOTIONS, Tracker
from flows.registry import record, release
from flows.registry.decisions import Registry
from flows.registry.lineage import Past, lineage
from flows.registry.rebaseline import _prepared, key_of, rebaselined
from flows.registry.record import RESCORED, Decision
from models.core.content import folder_md5
from models.core.errors import StageError
from models.core.files import write_json, write_lines
from tasks.gate.evidence import identity
from tasks.gate.verdicts import Evidence, GateResult
from tests.versions import PARAMS, add_version, doctor, files_of, record_of

pytestmark = pytest.mark.long

SCORES = {f"q{number}": float(number % 2) for number in range(8)}
BETTER = "".join(json.dumps({"id": item, "subject": "", "score": 1.0, "flags": [], "response": "x"}) + "\n" for item in SCORES)
ITEMS = "evidence/quiz/items.jsonl"


@pytest.fixture
def registry(store, request):
    """A model of its own for each test: version 1 is champion, nothing was decided about version 2."""
    found = Registry(Tracker(store, request.node.name))
    for number in (1, 2):
        add_version(found, SCORES, params=f"{PARAMS}number: {number}\n")
    found.promote("1", None, "promote", "first")
    return found


def again(registry, version):
    return registry.version(str(version.version))


def why(registry, number):
    """What the evidence says of itself, where it says nothing else."""
    return registry.evidence_of(registry.version(number))["quiz"].unreadable


def test_evidence_and_provenance_that_nobody_touched_are_believed(registry):
    for number, by in (("1", "record 1"), ("2", "its tags: nothing was decided about it yet")):
        version = registry.version(number)
        assert registry.evidence_of(version)["quiz"].scores == SCORES
        assert registry.registered(version).words.startswith(by)
        assert lineage(registry, version)["known_by"].startswith(by)
    assert registry.audit() == []


def test_evidence_is_what_the_record_says_and_not_what_a_tag_says(registry):
    doctor(registry, registry.version("1"), ITEMS, BETTER)
    assert why(registry, "1").endswith("(record 1): they were changed")
    with pytest.raises(StageError, match=r"evidence of version 1 is not what was registered: .* must have .* \(record 1\)"):
        registry.items_of(registry.version("1"))
    assert [finding.what[:28] for finding in registry.audit()] == ["the evidence of version 1 ha"]


@pytest.mark.parametrize("number", ["1", "2"])
def test_a_tag_that_was_deleted_is_no_leave_to_change_files(registry, number):
    doctor(registry, registry.version(number), ITEMS, BETTER, tags=False)
    registry.client.delete_model_version_tag(registry.name, number, "sluice.evidence_md5")
    assert "is not what was registered" in why(registry, number)


def test_a_version_that_was_never_decided_on_has_its_tags_only_and_says_so(registry):
    doctor(registry, registry.version("2"), ITEMS, BETTER, tags=False)
    assert why(registry, "2").endswith("(its tags): they were changed")
    doctor(registry, registry.version("2"), ITEMS, BETTER)
    assert why(registry, "2") == ""
    known = registry.registered(registry.version("2")).words
    assert known == "its tags: nothing was decided about it yet, until then whoever may edit tags can change them unseen"


@pytest.mark.slow
def test_a_later_decision_takes_over_what_the_first_record_says_and_no_edited_tag(registry):
    doctor(registry, registry.version("1"), ITEMS, BETTER)
    registry.put_on_record(Decision("refuse", "worse", "", "1", "1"))
    assert why(registry, "1").endswith("(record 1): they were changed")
    assert len(registry.audit()) == 1


@pytest.mark.parametrize("how", ["deleted", "edited", "head taken back", "head deleted"])
def test_a_record_that_is_gone_or_edited_leaves_nothing_believed_until_a_person_accepts_it(registry, how):
    registry.promote("2", "1", "promote", "second")
    first = record_of(registry, registry.version("1"))
    if how == "deleted":
        registry.client.delete_run(first)
    elif how == "edited":
        registry.client.set_tag(first, "sluice.evidence_md5", "0" * 32)
    elif how == "head taken back":
        registry.client.set_registered_model_tag(registry.name, record.HEAD, "0:")
    else:
        registry.client.delete_registered_model_tag(registry.name, record.HEAD)
    doctor(registry, registry.version("1"), ITEMS, BETTER)
    assert "version 1: what was decided about it is not known" in why(registry, "1")
    with pytest.raises(StageError, match="what was decided about it is not known"):
        Past(registry, registry.version("1"), files_of(registry, registry.version("1").run_id) / "fetched")
    if how in ("deleted", "edited"):
        assert why(registry, "2") == ""  # its own record stands behind the break
        registry.accept("the night of the outage")
        assert why(registry, "1") == ""


@pytest.mark.slow
def test_a_record_that_another_hand_wrote_vouches_for_nothing(registry):
    doctor(registry, registry.version("2"), ITEMS, BETTER, tags=False)
    md5 = registry._evidence_md5(registry.version("2").run_id)
    content = {
        "sluice.version": "2",
        "sluice.model_md5": "x",
        "sluice.evidence_md5": md5,
        "sluice.sequence": "2",
        "sluice.verdict": "promote",
    }
    run = registry.client.create_run(registry.tracker.experiment_id(PROMOTIONS), tags=content)
    registry.client.set_tag(run.info.run_id, "sluice.record", record.digest(registry.client.get_run(run.info.run_id)))
    registry.client.set_terminated(run.info.run_id, "FINISHED")
    assert "is not known" in why(registry, "2")
    assert why(registry, "1") == ""


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "dvc.lock" else pytest.mark.slow) for name in record.FILES])
@pytest.mark.parametrize("number", ["1", "2"])
def test_registered_provenance_that_was_changed_is_named_and_not_read(registry, name, number, tmp_path):
    version, on_record = registry.version(number), number == "1"
    then = version.tags[f"sluice.{record.FILES[name]}"]
    doctor(registry, version, f"provenance/{name}", "suites: [other]\n", tags=on_record)
    line = (
        rf"^{name} of version {number} is not what was registered: its stored file has md5 \w{{32}}, must have {then} "
        rf"\({'record 1' if on_record else 'its tags'}\): it was changed$"
    )
    for reads in (lineage, lambda registry, version: Past(registry, version, tmp_path), _prepared):
        with pytest.raises(StageError, match=line):
            reads(registry, again(registry, version))
    assert len(registry.audit()) == int(on_record)


@pytest.mark.slow
def test_provenance_that_is_gone_is_named_too(registry, tmp_path):
    (files_of(registry, registry.version("1").run_id) / "provenance" / "params.yaml").unlink()
    with pytest.raises(StageError, match=r"params.yaml of version 1 is not what was registered: its stored file has md5 none, must have"):
        Past(registry, registry.version("1"), tmp_path)


@pytest.mark.parametrize("tag", ["scores", "pretrained"])
def test_a_tag_that_says_other_scores_or_another_base_is_not_believed(registry, tag):
    registry.client.set_model_version_tag(registry.name, "1", f"sluice.{tag}", '{"md5": "x"}')
    with pytest.raises(StageError, match=rf"tag sluice.{tag} of version 1 is not what was registered \(record 1\): it was changed"):
        lineage(registry, registry.version("1"))
    assert len(registry.audit()) == 1


@pytest.mark.slow
def test_the_commit_is_the_recorded_one(registry):
    registry.client.set_model_version_tag(registry.name, "1", "git.commit", "f" * 40)
    assert lineage(registry, registry.version("1"))["git_commit"] == "0" * 40
    assert [finding.what for finding in registry.audit()] == [
        f"the commit of version 1 is {'f' * 40}, decided on was {'0' * 40}: it was changed"
    ]


def test_a_version_whose_tag_names_the_champions_model_is_compared_all_the_same(registry):
    versions = [registry.version(number) for number in ("1", "2")]
    registry.put_on_record(Decision("refuse", "worse", "", "2", "1"))
    assert release.is_same(None, registry, "1", versions[0])
    registry.client.set_model_version_tag(registry.name, "2", "sluice.model_md5", versions[0].tags["sluice.model_md5"])
    assert not release.is_same(None, registry, "2", versions[0])
    registry.client.delete_run(record_of(registry, versions[0]))
    assert not release.is_same(None, registry, "1", versions[0])


@pytest.mark.slow
def test_weights_whose_tag_was_made_to_fit_are_not_made_champion(registry):
    registry.promote("2", "1", "promote", "second")
    version = registry.version("1")
    doctor(registry, version, "logged/model/config.json", "{}")
    md5 = folder_md5(files_of(registry, version.run_id) / "logged" / "model")
    registry.client.set_model_version_tag(registry.name, "1", "sluice.model_md5", md5)
    with pytest.raises(StageError, match=r"version 1: the stored model has md5 .* \(record 1\): its files were changed"):
        registry.rollback("bad answers")


@pytest.mark.slow
def test_versions_and_runs_beyond_a_page_are_seen(registry, monkeypatch):
    monkeypatch.setattr(tracking, "PAGE", 2)
    for _ in range(3):
        add_version(registry, SCORES)
    opened = [registry.tracker.start(PIPELINE, "work", {"sluice.pid": "1:0", "of": "these"}) for _ in range(5)]
    for number, (before, after) in enumerate(pairwise("123")):
        registry.promote(after, before, "promote", f"better {number}")
    assert [str(version.version) for version in registry.versions()] == ["5", "4", "3", "2", "1"]
    assert registry.find(registry.version("1").tags["sluice.model_md5"]).version in ("1", 1)
    assert {run.info.run_id for run in registry.tracker.open_runs(PIPELINE)} == set(opened)
    assert len(registry.tracker.tagged("of", "these")) == 5
    assert [entry["version"] for entry in registry.history()] == ["3", "2", "1"]
    assert registry.audit() == []
    registry.tracker.close_dead_runs()
    assert not registry.tracker.open_runs(PIPELINE)


TODAY = Evidence(scores=dict.fromkeys(SCORES, 1.0), chance=0.0, identity=identity({"harness": "today's"}))
READING = SimpleNamespace(policy=SimpleNamespace(limits={}.get))


def of_today(registry, number):
    """What is known of a version on today's suite, where nobody is asked again: the scores, and by which harness."""
    version = registry.version(number)
    found = rebaselined(READING, registry, version, {"quiz": TODAY}, registry.evidence_of(version), ask=False)["quiz"]
    return found.scores, found.identity.get("harness")


def scored_again(registry, number, folder):
    """A benchmark folder in which a version got everything right; its key."""
    model_md5 = registry.version(number).tags["sluice.model_md5"]
    write_lines(folder / "quiz" / "items.jsonl", map(json.loads, BETTER.splitlines()))
    write_json(folder / "quiz" / "evidence.json", {"chance": 0.0, "model_md5": model_md5, "harness": "today's"})
    return folder / "quiz", key_of(model_md5, "quiz", TODAY)


def put_evidence(registry, number, folder):
    quiz, key = scored_again(registry, number, folder)
    return registry.put_on_record(Decision(RESCORED, "scored again", "", number, inputs=key), evidence=quiz)


@pytest.mark.slow
def test_evidence_that_is_on_record_is_used_again_and_decides_nothing(registry, tmp_path):
    before = registry.history()
    put_evidence(registry, "2", tmp_path)
    registry.promote("2", "1", "promote", "second")
    put_evidence(registry, "2", tmp_path)
    assert of_today(registry, "2") == (dict.fromkeys(SCORES, 1.0), "today's")
    assert of_today(registry, "1") == (SCORES, None)
    assert registry.history()[1:] == before
    said = lineage(registry, registry.version("2"))
    assert ([one["verdict"] for one in said["decisions"]], said["parents"]["champion"]) == (["promote"], "1")
    assert registry.audit() == []
    assert registry.rollback("bad answers") == ("2", "1")


@pytest.mark.slow
def test_a_refusal_stands_once_on_record_though_its_version_was_scored_again_since(registry, tmp_path):
    for _ in range(2):
        registry.note(Decision("refuse", "worse", "", "2", "1"), None, GateResult(decision="refuse", reason="worse", suites=[]), {})
        put_evidence(registry, "2", tmp_path)
    assert [entry["verdict"] for entry in registry.history()] == ["refuse", "promote"]


def test_evidence_that_no_record_vouches_for_is_not_used(registry, tmp_path):
    quiz, key = scored_again(registry, "1", tmp_path)
    said = {"sluice.evidence_key": key, "sluice.evidence_md5": folder_md5(quiz), "sluice.verdict": RESCORED, "sluice.inputs": key}
    for kind in (PIPELINE, PROMOTIONS):
        tags = said | {"sluice.sequence": "2", "sluice.before": record.head(registry.tracker).partition(":")[2], "sluice.version": "1"}
        run_id = registry.client.create_run(registry.tracker.experiment_id(kind), tags=tags).info.run_id
        registry.client.log_artifacts(run_id, str(quiz), "evidence/quiz")
        registry.client.set_tag(run_id, "sluice.artifacts", record._artifacts(registry.tracker, run_id))
        registry.client.set_tag(run_id, "sluice.record", record.digest(registry.client.get_run(run_id)))
        registry.client.set_terminated(run_id, "FINISHED")
    assert of_today(registry, "1") == (SCORES, None)


@pytest.mark.slow
def test_evidence_on_record_whose_files_were_changed_is_not_used_and_is_found(registry, tmp_path):
    run_id = put_evidence(registry, "1", tmp_path)
    (files_of(registry, run_id) / "evidence" / "quiz" / "evidence.json").write_text('{"chance": 0.0, "harness": "today\'s"}')
    assert of_today(registry, "1") == (SCORES, None)
    assert [finding.what for finding in registry.audit()] == ["record 2 (rescored 1) was edited: its evidence is not what was decided on"]


@pytest.mark.slow
def test_evidence_below_a_record_that_is_gone_is_not_used(registry, tmp_path):
    put_evidence(registry, "1", tmp_path)
    registry.promote("2", "1", "promote", "second")
    registry.promote("1", "2", "manual", "again")
    registry.client.delete_run(registry.history()[1]["run_id"])
    assert of_today(registry, "1") == (SCORES, None)


@pytest.mark.slow
def test_another_models_evidence_is_not_a_versions_because_its_tag_says_so(registry, tmp_path):
    put_evidence(registry, "2", tmp_path)
    md5 = registry.version("2").tags["sluice.model_md5"]
    registry.client.set_model_version_tag(registry.name, "1", "sluice.model_md5", md5)
    assert of_today(registry, "1") == (SCORES, None)
