"""When a champion is asked again, and when that would not help."""

import json
from types import SimpleNamespace

from flows.registry import rebaseline
from flows.registry.rebaseline import is_stale, key_of
from models.core.errors import StageError
from models.core.files import write_json, write_lines
from tasks.gate.evidence import load_evidence
from tasks.gate.verdicts import Evidence
from tests.suites import described

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
    champion, other = "m", "n"
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
        found.append(load_evidence(folder, None))
    assert is_stale(*found, None)
    assert found[0].identity["limits"] == '{"wall_seconds": 10.0}'


def scored(folder):
    write_lines(folder / "items.jsonl", [{"id": "a", "score": 1, "subject": "", "response": "x", "flags": []}])
    write_json(folder / "evidence.json", {"chance": 0.0})
    return folder


def test_no_list_of_leaked_items_is_not_an_empty_one(tmp_path):
    folder, listing = scored(tmp_path / "mmlu"), tmp_path / "contamination" / "mmlu.jsonl"
    missing = load_evidence(folder, listing)
    assert missing.unreadable == "which of its items training text holds is not known: contamination/mmlu.jsonl is missing"
    assert not missing.scores
    write_lines(listing, [])
    assert load_evidence(folder, listing).contaminated == {}
    write_lines(listing, [{"id": "a", "where": ["instructions/forum"]}])
    assert load_evidence(folder, listing).contaminated == {"a": ["instructions/forum"]}
    for broken in ('{"id": "a"}\n', '{"id": "a", "where": 3}\n', "[1]\n", "{\n"):
        listing.write_text(broken)
        assert load_evidence(folder, listing).unreadable


class Trained:
    """A champion that was trained on what `prepared` holds: kind -> text of its training records; None: out of reach."""

    def __init__(self, root, prepared):
        self.root, self.prepared = root, prepared
        outs = [{"path": f"artifacts/prepared/{kind}", "md5": f"{kind}.dir"} for kind in prepared]
        deps = [{"path": f"artifacts/prepared/{kind}", "md5": f"{kind}.dir"} for kind in RECORDS]
        (root / "dvc.lock").write_text(json.dumps({"stages": {"prepare": {"outs": outs}, "contamination": {"deps": deps}}}))
        self.pipeline = SimpleNamespace(cached_files=self.cached_files)
        self.workspace = SimpleNamespace(root=root)
        self.params = {"contamination": {"ngram_words": 8, "min_words": 4}}
        self.provenance = lambda _version, _into: root
        self.cell = lambda suite: SimpleNamespace(suite_path=f"artifacts/suites/{suite}")

    def cached_files(self, md5):
        text = self.prepared[md5.removesuffix(".dir")]
        if text is None:
            raise StageError(f"{md5} is not in DVC's cache: 'dvc fetch' it from the remote, then ask again")
        path = self.root / "cache" / md5
        write_lines(path, [text])
        return {"train.jsonl": path}


QUESTION = "Which of the seven bridges of the old town was built by the miller's daughter alone?"
RECORDS = {
    "documents": {"id": "d", "text": f"They asked: {QUESTION} Nobody knew.", "source": "forum"},
    "instructions": {"id": "i", "messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}], "source": "s"},
    "preferences": {"id": "p", "prompt": [], "chosen": [], "rejected": [], "source": "s"},
    "prompts": {"id": "q", "prompt": [{"role": "user", "content": "hello"}]},
}


def with_new_suite(tmp_path, records):
    items = [{"id": "a", "question": QUESTION, "choices": ["first", "second", "third", "fourth"], "answer": 1, "subject": "bridges"}]
    write_lines(described(tmp_path / "artifacts" / "suites" / "mmlu-mini") / "items.jsonl", items)
    champion, trained = SimpleNamespace(version="1", run_id="r", tags={}), Trained(tmp_path, records)
    return rebaseline._with_leaks(trained, trained, champion, "mmlu-mini", evidence(items=("a",)), None)


def test_what_a_champion_was_trained_on_is_searched_for_a_suite_that_it_was_never_scored_on(tmp_path):
    assert with_new_suite(tmp_path, RECORDS).contaminated == {"a": ["documents/forum"]}


def test_where_what_it_was_trained_on_is_out_of_reach_its_scores_say_nothing(tmp_path):
    for records in ({**RECORDS, "documents": None}, {"documents": RECORDS["documents"]}):
        found = with_new_suite(tmp_path, records)
        assert "what its training text holds of today's mmlu-mini is not known" in found.unreadable
        assert not found.scores


def test_of_the_same_suite_the_leaked_items_are_those_that_were_registered():
    before = evidence(harness="older").model_copy(update={"contaminated": {"a": ["instructions/forum"]}})
    found = rebaseline._with_leaks(None, None, None, "mmlu", evidence(), before)
    assert found.contaminated == before.contaminated
