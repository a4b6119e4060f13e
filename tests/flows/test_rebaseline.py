"""When a champion is asked again, and when that would not help."""

from types import SimpleNamespace

from flows.evidence import load_evidence
from flows.rebaseline import is_stale, key_of
from models.records import write_json, write_lines
from tasks.gate import Evidence

IDENTITY = {"suite_md5": "s", "harness": "h", "batch_size": 8, "template_md5": "t"}


def evidence(items=("a", "b"), **identity):
    return Evidence(scores=dict.fromkeys(items, 1.0), chance=0.25, identity={**IDENTITY, **identity})


def test_evidence_of_the_same_evaluation_is_kept():
    assert not is_stale(evidence(), evidence(), None)


def test_another_harness_suite_or_set_of_items_asks_the_champion_again():
    assert is_stale(evidence(), evidence(harness="older"), None)
    assert is_stale(evidence(), evidence(suite_md5="older"), None)
    assert is_stale(evidence(), evidence(items=("a",)), None)
    assert is_stale(evidence(), None, None)


def test_another_template_is_the_models_own_and_asking_again_would_not_change_it():
    assert not is_stale(evidence(), evidence(template_md5="other"), None)
    assert not is_stale(evidence(), evidence(template_md5="other", harness="older"), None)


def test_the_key_follows_the_model_and_how_it_is_asked():
    champion, other = (SimpleNamespace(tags={"sluice.model_md5": md5}) for md5 in ("m", "n"))
    keys = {
        key_of(champion, "mmlu", evidence()),
        key_of(other, "mmlu", evidence()),
        key_of(champion, "gpqa", evidence()),
        key_of(champion, "mmlu", evidence(batch_size=4)),
    }
    assert len(keys) == 4
    assert key_of(champion, "mmlu", evidence(template_md5="candidate's own")) == key_of(champion, "mmlu", evidence())


def test_limits_on_programs_are_part_of_how_a_score_was_made(tmp_path):
    found = []
    for seconds in (10.0, 0.3):
        folder = tmp_path / str(seconds)
        write_lines(folder / "items.jsonl", [{"id": "a", "score": 1, "subject": "", "response": "x", "flags": []}])
        write_json(folder / "evidence.json", {"chance": 0.0, "limits": {"wall_seconds": seconds}})
        found.append(load_evidence(folder, tmp_path / "none"))
    assert is_stale(*found, None)
    assert found[0].identity["limits"] == '{"wall_seconds": 10.0}'
