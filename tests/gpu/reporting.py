"""A JSON object a line, a part that fails does not end the others, and a table of what was measured."""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

Line = dict[str, Any]
# Dense bf16 with float32 sums, TFLOP/s, from NVIDIA's data sheets (docs/gpu.md names them); the first name that the card's begins with.
PEAKS = {
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H100 NVL": 835.0,
    "NVIDIA H100": 989.4,
    "NVIDIA H200": 989.4,
    "NVIDIA A100": 312.0,
    "NVIDIA L40S": 362.0,
    "NVIDIA GeForce RTX 4090": 165.2,
}


@dataclass(frozen=True)
class Part:
    """One check or measurement; `seconds` is what it may need on a GPU, and it is left out where less is left."""

    name: str
    call: Callable[[], Line]
    seconds: float


def run(parts: Iterable[Part], budget_s: float, started: float) -> list[Line]:
    """Run what there is time for, and print a line each: what it found, why it failed, or that it was left out."""
    lines = []
    for part in parts:
        left = budget_s - (time.perf_counter() - started)
        lines.append({"name": part.name, **(_guarded(part) if left >= part.seconds else _left_out(part, left))})
        print(json.dumps(lines[-1]), flush=True)
    return lines


def _left_out(part: Part, left: float) -> Line:
    return {"skipped": f"{max(0.0, left):.0f} s are left, it may need {part.seconds:.0f}"}


def _guarded(part: Part) -> Line:
    began = time.perf_counter()
    try:
        found = part.call()
    except Exception as error:  # whatever it is, it must not hide what the other parts find
        found = {"ok": False, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {**found, "seconds": round(time.perf_counter() - began, 1)}


def failed(lines: Iterable[Line]) -> list[str]:
    return [line["name"] for line in lines if line.get("ok") is False]


def card(device: str) -> Line:
    """What it ran on."""
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    packages = {package: version(package) for package in ("torch", "transformers", "trl", "peft", "lm_eval")}
    return {"name": "card", "card": name, "date": f"{datetime.now(UTC):%Y-%m-%d}", "cuda": torch.version.cuda, **packages}


def peak_tflops(name: str) -> float:
    """The card's peak; no number where it is not in the table."""
    return next((peak for begin, peak in PEAKS.items() if name.startswith(begin)), math.nan)


COLUMNS = ("tokens/s", "MFU", "peak GiB", "ours", "theirs", "unit", "ratio", "same answers")


def table(about: Mapping[str, Any], lines: Iterable[Line]) -> str:
    """What was measured, for docs/gpu.md."""
    versions = ", ".join(f"{name} {about[name]}" for name in ("torch", "transformers", "trl", "peft", "lm_eval"))
    head = [f"{about['card']}, {about['date']}, {versions}", ""]
    rows = [f"| measured | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    measured = [line for line in lines if any(column in line for column in COLUMNS)]
    rows += [f"| {line['name']} | {' | '.join(str(line.get(column, '')) for column in COLUMNS)} |" for line in measured]
    return "\n".join([*head, *rows])
