"""Benchmark stage: one model on one suite, item by item. The gate compares the items, people read the scores."""

import csv
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt

from models.core.errors import UserError
from models.sandbox.sandbox import ResourceLimits
from models.train.settings import Sampling
from tasks.stage import Inputs, Metrics, Outputs, Params, Seed, Work

if TYPE_CHECKING:
    from models.score import asking, evaluation


Progress = Callable[[int, int], None]  # how many of how many


class BenchmarkParams(Params):
    batch_size: int = Field(ge=1, le=4096, description="prompts computed at once; low precision scores may move with it")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(description="of the weights while scoring")
    items: dict[str, PositiveInt | None] = Field(
        description="suite: size of its fixed, stratified subset, or null for all; one key for each suite"
    )
    items_seed: Seed = Field(description="picks the subset; apart from `seed`, so that retraining is scored on the same items")
    max_new_tokens: int = Field(ge=1, le=32768, description="a longer program counts as truncated")
    sampling: Sampling = Field(description="how programs are written: greedily once, or sampled for pass@k")
    program: ResourceLimits = Field(description="what one generated program may use")


class BenchmarkInputs(Inputs):
    model: Path
    suite: Path


class BenchmarkOutputs(Outputs):
    items: Path
    scores: Path | None = None  # a plot: the mean of each subject


class BenchmarkMetrics(Metrics):
    value: float | None = Field(description="mean score of the items, or the set's metric, 0-1; null where the suite could not be run")
    stderr: float | None = Field(description="standard error of value over items")
    n: int = Field(description="items scored")
    chance: float = Field(description="value expected of random answers")
    available: bool = Field(description="false where nothing isolates generated programs here")
    empty: int = Field(description="items with an empty response")
    truncated: int = Field(description="items whose prompt or response was cut")
    extraction_failed: int = Field(description="items without a readable answer")
    timeouts: int = Field(description="programs stopped at a time limit")


def summary(result: "asking.Result") -> BenchmarkMetrics:
    """The suite's metric and its standard error, and how many items carry each flag; no value without items."""
    from models.core import sets

    scored, value, stderr = result.items or [], None, None
    if scored and result.of_set is None:
        value, stderr = sets.mean([float(item["score"]) for item in scored])
    elif scored and result.of_set is not None:
        found = sets.answers(scored, result.of_set)
        value, stderr = float(sets.value(result.of_set, found)), sets.stderr(result.of_set, found)
    flags = [flag for item in scored for flag in item["flags"]]
    return BenchmarkMetrics(
        value=None if value is None else round(value, 6),
        stderr=None if stderr is None else round(stderr, 6),
        n=len(scored),
        chance=round(result.chance, 6),
        available=result.items is not None,
        empty=flags.count("empty"),
        truncated=flags.count("truncated"),
        extraction_failed=flags.count("extraction-failed"),
        timeouts=flags.count("timeout"),
    )


def scorer(params: BenchmarkParams, model: Path, suite: Path, device: str, progress: Progress) -> "evaluation.Scorer":
    """The scorer of a model on a suite, asked as `params` say."""
    from models.score import evaluation

    return evaluation.Scorer(model, suite, settings(params, suite.name), device, progress)


def settings(params: BenchmarkParams, suite: str) -> "asking.Settings":
    """How `suite` is asked. Raises UserError where params know nothing of it."""
    from models.score import asking  # torch and lm-eval load here

    if suite not in params.items:
        raise UserError(
            f"benchmark.items has no key {suite!r}, must have one for each suite: add '{suite}: null' for all its items to params.yaml"
        )
    return asking.Settings(
        batch_size=params.batch_size,
        dtype=params.dtype,
        items=params.items[suite],
        items_seed=params.items_seed,
        max_new_tokens=params.max_new_tokens,
        sampling=params.sampling,
        limits=params.program,
    )


def benchmark(params: BenchmarkParams, inputs: BenchmarkInputs, outputs: BenchmarkOutputs, work: Work) -> BenchmarkMetrics:
    from models.score import evaluation

    asked = settings(params, inputs.suite.name)
    result = evaluation.score_suite(
        inputs.model, inputs.suite, outputs.items, asked, work.device, lambda step, total: work.progress(step, total, {}), work.ranks
    )
    if outputs.scores is not None:
        write_scores(outputs.scores, result.items or [])
    return summary(result)


def write_scores(path: Path, items: Sequence[Mapping[str, Any]]) -> None:
    """The mean score of all items and of each subject, as a plot that DVC draws: columns subject, score, items."""
    by_subject = defaultdict[str, list[float]](list)
    for item in items:
        by_subject["all"].append(float(item["score"]))
        if item["subject"] != "all":
            by_subject[item["subject"]].append(float(item["score"]))
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("subject", "score", "items"))
        table.writerows((name, round(sum(found) / len(found), 6), len(found)) for name, found in sorted(by_subject.items()))
