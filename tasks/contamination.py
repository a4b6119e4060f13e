"""Contamination stage: which benchmark items stand in what training is fed, by kind of record and source. The gate reads it.

It looks at the prepared files themselves, whatever preparation was asked to remove: a benchmark must not be trusted to a filter.
"""

from collections import defaultdict
from pathlib import Path

from pydantic import Field

from models.core.files import write_lines
from models.core.given import read_lines
from models.data import decontaminate, kinds
from models.score import items
from models.score.suite import folders
from tasks.stage import Inputs, Metrics, Outputs, Params

LOADS = ()  # nothing heavy


class ContaminationParams(Params):
    ngram_words: int = Field(
        ge=2, le=50, description="an item is held where this many of its words come in a row, or all of a shorter one's"
    )
    min_words: int = Field(ge=1, description="an item with fewer words is looked for by its syntax tree only")


class ContaminationInputs(Inputs):
    suites: Path
    documents: Path | None = None  # a kind that no stage of the pipeline reads may be missing
    instructions: Path | None = None
    preferences: Path | None = None
    prompts: Path | None = None


class ContaminationOutputs(Outputs):
    contamination: Path


class ContaminationMetrics(Metrics):
    items: int = Field(description="suite items that were looked for")
    contaminated: dict[str, int] = Field(description="items that training text holds, by suite")
    leaks: dict[str, int] = Field(description="contaminated items by kind/source")


def contamination(params: ContaminationParams, inputs: ContaminationInputs, outputs: ContaminationOutputs) -> ContaminationMetrics:
    """Write a file a suite, {id, where: [kind/source]} for each item that is held; a suite without any gets an empty file."""
    benchmark = decontaminate.Benchmark(decontaminate.suite_texts(inputs.suites), params.ngram_words, params.min_words)
    where: dict[str, set[str]] = defaultdict(set)
    for kind in kinds.FIELDS:
        fed = getattr(inputs, kind)
        for record in read_lines(fed / "train.jsonl") if fed is not None else ():
            texts = [text for _, text in kinds.texts(kind, record)]
            for name in benchmark.hits(texts):
                where[name].add(f"{kind}/{record.get('source', kind)}")
    contaminated = {}
    for suite in folders(inputs.suites):
        held = [(item.id, where[f"{suite.name}/{item.id}"]) for item in items.read(suite) if f"{suite.name}/{item.id}" in where]
        write_lines(outputs.contamination / f"{suite.name}.jsonl", [{"id": item, "where": sorted(places)} for item, places in held])
        contaminated[suite.name] = len(held)
    places = [place for found in where.values() for place in found]
    return ContaminationMetrics(
        items=benchmark.items, contaminated=contaminated, leaks={place: places.count(place) for place in sorted(set(places))}
    )
