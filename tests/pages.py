"""Facts of a retraining, small and whole, for tests of the page."""

from typing import Any

MODELS = ("base", "sft", "rlhf")


def facts(**changes: Any) -> dict[str, Any]:
    """Those of a version that was promoted over a champion; `changes` replace whole parts."""
    verdict = {"decision": "promote", "reason": "every suite passed", "version": "2", "champion": "1", "aliases": {"champion": "2"}}
    found = {
        "format": 1,
        "model": "assistant",
        "candidate": "rlhf",
        "made": "2026-01-02T03:04:05+00:00",
        "verdict": verdict,
        "gate": {"quiz": suite_verdict()},
        "suites": {"quiz": {"about": "", "target": None, "secret": False, "margin": 0.1}},
        "scores": {"quiz": {model: {"value": 0.7, "stderr": 0.03, "n": 200, "chance": 0.25} for model in MODELS}},
        "flips": {"quiz": {"gained": 1, "lost": 0, "shown": [flip("q1", True)]}},
        "answers": {
            model: [answer("held-out/1", "What is 3?", f"{model} says 3."), answer("provoking/a", "Be rude.", "No.")] for model in MODELS
        },
        "curves": {"sft": {"step": [1.0, 2.0, 3.0], "loss": [3.0, 2.5, 2.25], "gradient_norm": [1.0, None, 0.5]}},
        "metrics": {"sft": {"held_out_loss": 2.0, "held_out_loss_before": 3.0, "conversations": 40}},
        "data": data(),
        "health": {"quiz": {model: sheet() for model in MODELS}},
        "subjects": {},
        "time": {"seconds": 60.5, "cost": None, "stages": [stage("sft", 10.0), {**stage("base", 0), "state": "unchanged", "started": 0.0}]},
        "lineage": {
            "commit": "a" * 40,
            "model_md5": "b" * 32,
            "seed": 1,
            "data": {"data/raw": "c" * 32},
            "links": {"MLflow run": "http://127.0.0.1:5000/#/runs/1"},
            "again": "sluice run",
        },
        "champion": {},
        "said": "Version 2 is champion now: it passed on every suite.",
        "next": ["Read the answers below beside the champion's."],
    }
    return found | changes


def suite_verdict(**changes: Any) -> dict[str, Any]:
    found = {
        "suite": "quiz",
        "verdict": "non-inferior",
        "passed": True,
        "reason": ".700 against .690: difference -0.020 to +0.040, margin 0.100",
        "n": 200,
        "clean_n": 198,
        "clean_candidate": 0.7,
        "clean_champion": 0.69,
        "lower": -0.02,
        "upper": 0.04,
        "gained": 5,
        "lost": 3,
        "anchor": {
            "version": "1",
            "look": 2,
            "level": 0.02,
            "p": 0.001,
            "difference": 0.01,
            "lower": -0.03,
            "upper": 0.05,
            "better": False,
        },
        "health": None,
    }
    return found | changes


def flip(name: str, gained: bool, question: str = "What is 3?") -> dict[str, Any]:
    return {"id": name, "question": question, "before": "A", "after": "B", "gained": gained}


def answer(name: str, prompt: str, text: str, flags: tuple[str, ...] = ()) -> dict[str, Any]:
    asked = [{"role": "user", "content": prompt}]
    return {
        "id": name,
        "from": name.partition("/")[0],
        "prompt": asked,
        "answer": text,
        "tokens": 3,
        "flags": list(flags),
        "toxicity": 0.01,
    }


def data() -> dict[str, Any]:
    return {
        "read": {"documents": 100},
        "kept_by_kind": {"documents": 90},
        "held_out": {"documents": 5},
        "dropped": {"documents": {"duplicate": 6, "contaminated": 4}},
        "redacted": {"email": 2},
        "suite_items": 200,
        "kinds": {
            "documents": {
                "by_source": {"train": {"web": 85}, "held_out": {"web": 5}},
                "words": {"train": {"10": 80, "100": 5}, "held_out": {"10": 5}},
                "languages": {"en": 88, "?": 2},
            }
        },
        "examples": {"documents": {"duplicate": [{"id": "d1", "by": "d0", "text": "Call [phone]."}]}},
        "contamination": {"quiz": {"documents/web": 2}},
        "expectations": [],
    }


def sheet() -> dict[str, Any]:
    return {
        "items": 200,
        "extraction_failed": 0,
        "not_loaded": 0,
        "empty": 0,
        "truncated": 0,
        "timeouts": 0,
        "repeated": 3,
        "letters": {"A": 100, "B": 100},
        "median_length": None,
        "mean": 0.7,
        "examples": [["q1", "A"]],
    }


def stage(name: str, seconds: float) -> dict[str, Any]:
    return {
        "name": name,
        "state": "ran",
        "seconds": seconds,
        "metric": "",
        "started": 1000.0,
        "host": "worker-1",
        "peak_mib": 800.0,
        "pool": "gpu",
        "cost": None,
    }
