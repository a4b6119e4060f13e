"""Reinforcement learning on the tiny recipe: reward against KL of each method over five seeds, and what the flight recorder says.

It starts from what `make run` left in this checkout: artifacts/sft, artifacts/reward and the prompts. Honest runs take the recipe's
numbers; sabotaged ones are wrong in one place each. Prints a JSON object a run and two tables, and writes
docs/plots/rl.svg; all runs, with their curves, are kept in a file.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.core.files import read_json, write_json
from models.core.work import Work
from models.train.recorder import diagnoses
from tests.tiny import method_of

ROOT = Path(__file__).parents[2]
SEEDS = (1, 2, 3, 4, 5)
METHODS = {
    "GRPO": method_of("grpo"),
    "RLOO": method_of("rloo"),
    "PPO, KL in the reward": method_of("ppo"),
    "PPO, KL in the loss": method_of("ppo", kl="loss"),
}
WORDS = {"words": {"take": "function", "weight": 1.0, "function": "tests.bench.rl:words"}}
CONSTANT = {"constant": {"take": "function", "weight": 1.0, "function": "tests.bench.rl:constant"}}
SABOTAGE: Mapping[str, tuple[dict[str, Any], str]] = {  # what is wrong, and the diagnosis that must be among those made
    "a reward that pays for length": ({"rewards": WORDS}, "length"),
    "no KL, 60 steps": ({"beta": 1e-9, "steps": 60}, "kl"),
    "rate x 100": ({"learning_rate": 0.01}, "kl"),
    "max_new_tokens 4": ({"max_new_tokens": 4}, "cut"),
    "a constant reward": ({"rewards": CONSTANT}, "alike"),
}


def words(_asked: Any, answers: list[str]) -> list[float]:
    return [len(answer.split()) / 5 for answer in answers]


def constant(_asked: Any, answers: list[str]) -> list[float]:
    return [1.0 for _ in answers]


def train(plan: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """One run: its curve, what the recorder finds in it as it grows, its gain and its KL."""
    from tasks.rlhf import RlhfInputs, RlhfOutputs, RlhfParams, rlhf

    curve: list[dict[str, float]] = []

    def progress(step: int, _total: int, values: Mapping[str, float]) -> None:
        if "mean_reward" in values:
            curve.append({"step": step, **values})

    with tempfile.TemporaryDirectory() as folder:
        inputs = RlhfInputs(sft=ROOT / "artifacts/sft", reward=ROOT / "artifacts/reward", prompts=ROOT / "artifacts/prepared/prompts")
        work = Work(Path(folder) / "work", Path(folder) / "reports", progress=progress)
        params = RlhfParams(seed=seed, **{**plan, "max_kl": 1e9})  # it is to end, however it goes
        metrics = rlhf(params, inputs, RlhfOutputs(rlhf=Path(folder) / "rlhf"), work)
    seen = (one.name for rows in range(1, len(curve) + 1) for one in diagnoses(curve[:rows], plan["max_kl"]))
    return {"gain": metrics.reward_gain, "kl": metrics.kl, "found": list(dict.fromkeys(seen)), "curve": curve}


def runs(plan: Mapping[str, Any], honest: bool) -> Iterator[dict[str, Any]]:
    for name, method in METHODS.items():
        for seed in SEEDS if honest else ():
            yield {"run": "honest", "method": name, "seed": seed, **train({**plan, "method": method}, seed)}
    for fault, (changes, _) in SABOTAGE.items():
        for name in ("GRPO", "PPO, KL in the reward"):
            yield {"run": fault, "method": name, "seed": 1, **train({**plan, "method": METHODS[name], **changes}, 1)}


def plot(known: list[dict[str, Any]]) -> str:
    """Mean reward of a step's answers against their KL to sft, a line a seed: SVG."""
    import vl_convert

    rows = [
        {
            "method": one["method"],
            "seed": one["seed"],
            "step": row["step"],
            "reward": round(row["mean_reward"], 3),
            "KL": round(_kl(row), 3),
        }
        for one in known
        for row in one["curve"]
        if one["run"] == "honest"
    ]
    lines = {
        "width": 320,
        "height": 180,
        "mark": {"type": "line", "point": {"size": 12}, "strokeWidth": 1.4},
        "encoding": {
            "x": {"field": "KL", "type": "quantitative", "title": "KL to sft, nats an answer"},
            "y": {"field": "reward", "type": "quantitative", "title": "reward, nats"},
            "order": {"field": "step", "type": "quantitative"},
            "color": {"field": "seed", "type": "nominal", "legend": {"orient": "top"}},
        },
    }
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "config": {"background": "white", "font": "sans-serif"},
        "data": {"values": rows},
        "facet": {"field": "method", "type": "nominal", "sort": list(METHODS), "title": None},
        "columns": 2,
        "spec": lines,
    }
    found: str = vl_convert.vegalite_to_svg(spec)
    return found


def _kl(row: Mapping[str, float]) -> float:
    return row["kl_per_token"] * row["answer_tokens"]


def table(known: list[dict[str, Any]]) -> str:
    """Of honest runs gain and KL with the standard deviation over seeds; of all what the flight recorder said: Markdown."""
    lines = ["| method | gain in reward, nats | KL, nats an answer | named by the recorder |", "|---|---|---|---|"]
    for name in METHODS:
        some = [one for one in known if (one["run"], one["method"]) == ("honest", name)]
        gains, kls = ([one[key] for one in some] for key in ("gain", "kl"))
        spread = [f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" for values in (gains, kls)]
        lines.append(f"| {name} | {spread[0]} | {spread[1]} | {sum(bool(one['found']) for one in some)} of {len(some)} |")
    lines += ["", "| what is wrong | method | gain | KL | named | as |", "|---|---|---|---|---|---|"]
    for one in known:
        if one["run"] != "honest":
            named, said = "yes" if SABOTAGE[one["run"]][1] in one["found"] else "**no**", ", ".join(one["found"]) or "nothing"
            lines.append(f"| {one['run']} | {one['method']} | {one['gain']:.2f} | {one['kl']:.1f} | {named} | {said} |")
    return "\n".join(lines)


def main() -> None:
    from flows.stages.parameters import load

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sabotage", action="store_true", help="only the sabotaged runs")
    options.add_argument("--to", type=Path, default=ROOT / ".work" / "bench-rl.json")
    chosen = options.parse_args()
    known = {(one["run"], one["method"], one["seed"]): one for one in read_json(chosen.to, [])}
    for one in runs(load(ROOT / "params.yaml")["rlhf"], not chosen.sabotage):
        known[one["run"], one["method"], one["seed"]] = one
        write_json(chosen.to, list(known.values()))
        print(json.dumps({key: value for key, value in one.items() if key != "curve"}), flush=True)
    print(table(list(known.values())))
    if not chosen.sabotage:
        (ROOT / "docs" / "plots" / "rl.svg").write_text(plot(list(known.values())))


if __name__ == "__main__":
    main()
