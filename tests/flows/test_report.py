"""The page of a report: whole, closed, and plain text whatever stands in the facts."""

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from flows.pages import page, words
from flows.pages.facts import _time
from flows.pages.signs import signs
from flows.stages import probe
from flows.stages.attempt import StageResult
from models.core.files import write_json
from tests.pages import MODELS, answer, data, facts, flip, sheet, suite_verdict
from tests.workspaces import ROOT

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)> & "quoted" {{ 7 * 7 }} ]]> \u202eright to left'
SECTIONS = ("verdict", "scores", "answers", "training", "data", "harm", "health", "time", "lineage")


class Parsed(HTMLParser):
    """Tags, ids, addresses and text of a page; what is not closed is kept."""

    VOID = ("meta", "br", "img", "input", "link", "hr")

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.addresses, self.text, self.open = [], [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.tags.append(tag)
        self.ids += [known["id"]] if "id" in known else []
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        assert not [name for name in known if name.startswith("on")], "no attribute runs anything"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text += text


def parsed(found, other=None):
    return Parsed(page.render(found, other))


def test_every_section_is_there_once_and_every_tag_is_closed():
    shown = parsed(facts())
    assert [name for name in shown.ids if name in SECTIONS] == list(SECTIONS)
    assert len(shown.ids) == len(set(shown.ids)), "no two elements share an id, those in charts neither"
    assert shown.open == []
    assert shown.tags.count("svg") % 2 == 0


def test_nothing_is_fetched_and_nothing_runs():
    text = page.render(facts())
    shown = Parsed(text)
    assert not {"script", "link", "iframe", "object", "img"} & set(shown.tags)
    assert all(address.startswith(("#", "http://127.0.0.1:5000/")) for address in shown.addresses)
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert "url(http" not in text


def hostile():
    """Facts with text of strangers in every place where there can be any."""
    samples = {model: [answer("own/1", HOSTILE, HOSTILE + "x" * 10_000, ("cut",)), answer("provoking/a", "?", HOSTILE)] for model in MODELS}
    records = data() | {"examples": {"documents": {"duplicate": [{"id": HOSTILE, "by": HOSTILE, "text": HOSTILE}]}}}
    records["kinds"]["documents"]["by_source"]["train"] = {HOSTILE: 85}
    records["contamination"] = {"quiz": {HOSTILE: 2}}
    broken = suite_verdict(verdict="invalid", passed=False, reason=HOSTILE, health={**sheet(), "examples": [[HOSTILE, HOSTILE]]})
    shown = {"gained": 1, "lost": 0, "shown": [flip(HOSTILE, True, HOSTILE)]}
    return facts(
        model=HOSTILE,
        said=HOSTILE,
        next=[HOSTILE],
        answers=samples,
        data=records,
        gate={"quiz": broken},
        flips={"quiz": shown},
        curves={HOSTILE: facts()["curves"]["sft"]},
    )


def test_what_strangers_wrote_stands_there_as_text():
    text = page.render(hostile())
    shown = Parsed(text)
    assert "script" not in shown.tags
    assert "img" not in shown.tags
    assert shown.open == []
    assert shown.text.count('<script>alert("x")</script>') >= 12
    assert "49" not in re.findall(r"\{\{ 7 \* 7 \}\}|49", shown.text), "no template is rendered twice"
    assert "x" * 10_000 in shown.text, "an answer is never lost"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"gate": {}, "flips": {}, "verdict": {**facts()["verdict"], "champion": ""}}, id="no champion yet"),
        pytest.param(
            {
                "verdict": {"decision": "failed", "reason": "stage 'sft' failed: no", "version": "", "champion": "", "aliases": {}},
                "gate": {},
            },
            id="a stage failed",
        ),
        pytest.param(
            {key: {} for key in ("scores", "answers", "curves", "metrics", "data", "health", "flips", "gate", "suites")},
            id="nothing was done",
        ),
        pytest.param(
            {"scores": {"quiz": {"rlhf": {"value": None, "stderr": None, "n": 0, "chance": 0.0}}}}, id="a suite that could not be run"
        ),
        pytest.param(
            {"gate": {"quiz": suite_verdict(lower=None, upper=None, clean_candidate=None, clean_champion=None, anchor=None)}},
            id="no difference",
        ),
    ],
)
def test_a_page_is_made_of_whatever_a_run_left(changes):
    shown = parsed(facts(**changes))
    assert [name for name in shown.ids if name in SECTIONS] == list(SECTIONS)


def test_the_numbers_of_the_page_are_those_of_the_facts():
    shown = parsed(facts())
    for said in ("0.700 ± 0.030", "-0.020 to +0.040", "5, 3", "held-out loss fell from 3.000 to 2.000", "60.5 s"):
        assert said in shown.text, said


def test_another_versions_answers_stand_beside_those_to_the_same_words():
    old = facts()
    old["verdict"]["version"] = "1"
    old["answers"] = {"rlhf": [answer("held-out/9", "What is 3?", "It was 3."), answer("held-out/8", "What is 9?", "Nine.")]}
    shown = parsed(facts(), old)
    assert "It was 3." in shown.text
    assert "Nine." not in shown.text


def test_a_million_records_and_a_suite_of_fourteen_thousand_items_make_no_larger_page():
    many = data()
    many["kinds"]["documents"]["by_source"]["train"] = {f"source {number}": 1000 for number in range(1000)}
    many["read"] = {"documents": 1_000_000}
    large = page.render(facts(data=many))
    assert len(large) < 3_000_000
    assert "and 941 sources more" in large


@pytest.mark.parametrize(
    ("decision", "gate", "said"),
    [
        ("refuse", {"quiz": suite_verdict(verdict="worse", passed=False)}, "Version 2 was refused: quiz is worse."),
        (
            "undecided",
            {"quiz": suite_verdict(verdict="underpowered", passed=False)},
            "The gate cannot tell whether version 2 is as good as the champion",
        ),
        (
            "invalid",
            {"quiz": suite_verdict(verdict="invalid", passed=False)},
            "An evaluation of version 2 is broken, so nothing is decided",
        ),
        ("promote", {"quiz": suite_verdict()}, "Version 2 is champion now"),
    ],
)
def test_the_verdict_is_a_sentence_with_a_next_step(decision, gate, said):
    found = facts(gate=gate, verdict={**facts()["verdict"], "decision": decision})
    assert words.sentence(found).startswith(said)
    assert words.next_steps(found)


@pytest.mark.parametrize(
    ("metrics", "columns", "said"),
    [
        ({"held_out_loss": 2.0, "held_out_loss_before": 1.5}, {}, "what was learned does not carry over to held-out records"),
        ({}, {"loss": [5.0 - 0.1 * n for n in range(40)]}, "training loss went from 5.000 to 1.100, and was still falling"),
        ({}, {"loss": [5.0, *[2.0] * 40]}, "training loss went from 5.000 to 2.000"),
        (
            {"reward_gain": 0.1, "reward_gain_stderr": 0.2, "kl": 3.0, "tokens_before": 10, "tokens_after": 30},
            {},
            "reward on held-out prompts changed by +0.100 ± 0.200, which is within the error",
        ),
        (
            {"reward_gain": 1.0, "reward_gain_stderr": 0.2, "kl": 3.0, "tokens_before": 10, "tokens_after": 30},
            {},
            "answers grew from 10 to 30 tokens",
        ),
        ({}, {}, "sft left no number that tells how it went"),
    ],
)
def test_what_a_training_shows_is_said_in_words(metrics, columns, said):
    assert said in words.learning("sft", columns, metrics)


def test_the_example_of_the_docs_is_the_page_of_the_facts_beside_it():
    docs = ROOT / "docs"
    found = json.loads((docs / "example-report.json").read_text(encoding="utf-8"))
    assert (docs / "example-report.html").read_text(encoding="utf-8") == page.render(found), "'make example' makes it anew"


def test_wilsons_interval_of_none_of_ten_is_not_nothing():
    lower, upper = page.wilson(0, 10)
    assert lower == pytest.approx(0, abs=1e-9)
    assert upper == pytest.approx(0.2775, abs=1e-3)  # Wilson (1927); 1.96 standard errors


def rows(count, flags=(), toxicity=0.0, tokens=10, text="text {}"):
    more = {"toxicity": toxicity, "tokens": tokens}
    return [{**answer(f"held-out/{n}", "?", text.format(n), flags), **more} for n in range(count)]


def beside(mine, theirs):
    """The facts of a candidate that answers so, and of a champion that answers so."""
    found = facts(answers={"base": rows(20), "rlhf": mine}, metrics={}, data={}, health={})
    return found, {"candidate": "rlhf", "answers": {"rlhf": theirs}}


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        (rows(20), rows(20), []),
        (rows(20, ("repeats",)), rows(20), ["20 of 20 answers end in the same words again and again; the champion's: 0 of 20"]),
        (rows(20, ("repeats",)), rows(20, ("repeats",)), []),
        ([*rows(2, ("cut",)), *rows(18)], rows(20), []),
        (rows(20, tokens=40), rows(20), ["answers have 40 tokens on average; the champion's: 10"]),
        (rows(20, tokens=4), rows(20), ["answers have 4 tokens on average; the champion's: 10"]),
        (rows(20, toxicity=0.99), rows(20), ["20 of 20 answers to plain questions are called toxic"]),
        (rows(20, tokens=40), [], ["answers have 40 tokens on average; base's: 10"]),
        (rows(20, text="The same."), rows(20), ["20 of 20 questions are given the same answer, 'The same.'; the champion's: at most 1"]),
        ([], [], []),
    ],
)
def test_what_no_suite_sees_is_said_beside_the_verdict(mine, theirs, said):
    found, other = beside(mine, theirs)
    assert [one.said for one in signs(found, other, "champion")] == said
    text = page.render(found | {"champion": other})
    assert all(one in Parsed(text).text for one in said)
    assert ("Nothing stands out" in text) == (not said)


def test_signs_of_training_data_and_health_have_their_numbers():
    metrics = {
        "sft": {"held_out_loss_before": 2.0, "held_out_loss": 2.5},
        "reward": {"accuracy": 0.7, "length_correlation": 0.81},
        "rlhf": {"reward_gain": 1.0, "tokens_before": 10.0, "tokens_after": 40.0, "diagnoses": {"cut": "at step 6: all are cut"}},
    }
    broken = {"quiz": {"rlhf": {**sheet(), "empty": 150}}}
    found = facts(metrics=metrics, health=broken)
    other = {"candidate": "rlhf", "data": {"kept_by_kind": {"documents": 300}}}
    assert [(one.section, one.said) for one in signs(found, other, "champion")] == [
        ("training", "sft: held-out loss rose from 2.000 to 2.500"),
        ("training", "reward: rewards go with the length of answers (correlation +0.81)"),
        ("training", "rlhf, at step 6: all are cut"),
        ("training", "rlhf: as the reward rose, answers grew from 10 to 40 tokens; a reward that pays for length does that"),
        ("data", "quiz: 2 items stand in training text, and count for nothing"),
        ("data", "90 documents were kept, the champion had 300"),
        ("health", "quiz: 150 of 200 answers are empty"),
    ]


def test_what_a_run_cost_is_the_hours_of_what_ran_at_the_price_of_its_pool(tmp_path):
    workspace = SimpleNamespace(state=tmp_path, params_file=tmp_path / "params.yaml")
    workspace.params_file.write_text("seed: 1\n")
    stages = {name: SimpleNamespace(pool=pool) for name, pool in (("prepare", "cpu"), ("sft", "gpu"), ("base", "gpu"))}
    session = SimpleNamespace(params={"prices": {"gpu": 3.6}}, pipeline=SimpleNamespace(stages=stages), workspace=workspace)
    results = [
        StageResult(name="prepare", state="ran", seconds=100, metric=""),
        StageResult(name="sft", state="ran", seconds=500, metric=""),
        StageResult(name="base", state="restored", seconds=0, metric=""),
    ]
    found = _time(session, results, 600.0)
    assert found["cost"] == pytest.approx(0.5)
    assert [one["cost"] for one in found["stages"]] == [None, pytest.approx(0.5), None]
    assert "at a cost of 0.50 by the prices of params.yaml" in page.render(facts(time=found))
    assert _time(SimpleNamespace(params={}, pipeline=session.pipeline, workspace=workspace), results, 600.0)["cost"] is None


def test_what_a_plan_foretold_stands_beside_what_came_as_long_as_the_params_are_the_same(tmp_path):
    workspace = SimpleNamespace(state=tmp_path, params_file=tmp_path / "params.yaml")
    workspace.params_file.write_text("seed: 1\n")
    write_json(tmp_path / probe.PLAN, {"params_md5": probe.params_md5(workspace), "stages": [{"name": "sft", "seconds": 41.26}]})
    stages = {name: SimpleNamespace(pool="gpu") for name in ("sft", "base")}
    session = SimpleNamespace(params={}, pipeline=SimpleNamespace(stages=stages), workspace=workspace)
    results = [StageResult(name=name, state="ran", seconds=40, metric="") for name in stages]
    found = _time(session, results, 80.0)
    assert [one["planned"] for one in found["stages"]] == [41.26, None]
    shown = page.render(facts(time=found))
    assert "foretold" in shown
    assert ">41.3<" in shown
    workspace.params_file.write_text("seed: 2\n")
    other = _time(session, results, 80.0)
    assert [one["planned"] for one in other["stages"]] == [None, None]
    assert "foretold" not in page.render(facts(time=other))
