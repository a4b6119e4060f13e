"""Candidates without training: other weights in place of those at hand, and the records that benchmarks would have written of them."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from models.core.content import folder_md5
from models.core.files import read_json, write_json, write_lines
from models.core.given import read_lines

Row = dict[str, Any]


def offer(workspace: Path, number: int, right: dict[str, float]) -> None:
    """Put model `number` in the place of the candidate, with sound answers of which these shares, by suite, are right."""
    weights = workspace / "artifacts" / "rlhf" / "model.safetensors"
    tensors = load_file(weights)
    next(iter(tensors.values())).view(-1)[0] += number / 1000
    save_file(tensors, weights, metadata={"format": "pt"})
    for suite, share in right.items():
        rewrite(workspace, suite, partial(answered, share=share))


def answered(rows: list[Row], share: float) -> list[Row]:
    """Sound answers to the items, the first `share` of them right."""
    return [_answered(row, place, place < share * len(rows)) for place, row in enumerate(rows)]


def _answered(row: Row, place: int, right: bool) -> Row:
    if "answer" in row:
        return {**row, "score": int(right), "predicted": row["answer"] if right else (row["answer"] + 1) % 4, "flags": []}
    return {**row, "score": int(right), "response": f"    return {place}\n", "flags": []}


def rewrite(workspace: Path, suite: str, change: Callable[[list[Row]], list[Row]]) -> None:
    """Change the records of the candidate's answers to a suite; model and template are those of its folder as it is now."""
    folder, model = workspace / "artifacts" / "benchmark" / f"rlhf-{suite}", workspace / "artifacts" / "rlhf"
    write_lines(folder / "items.jsonl", change(list(read_lines(folder / "items.jsonl"))))
    template = hashlib.md5((model / "chat_template.jinja").read_bytes(), usedforsecurity=False).hexdigest()
    write_json(
        folder / "evidence.json", {**read_json(folder / "evidence.json", {}), "model_md5": folder_md5(model), "template_md5": template}
    )
