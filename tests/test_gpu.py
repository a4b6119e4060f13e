"""`make test-gpu` where there is no GPU: it says so, and in miniature all of it runs."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.gpu.bench import flops
from tests.gpu.models import BILLION, MILLIONS_20, TINY, write
from tests.gpu.reporting import Part, peak_tflops, run

ROOT = Path(__file__).parents[1]
PINS = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def test_a_part_that_fails_or_finds_no_time_hides_no_other(capsys):
    parts = [
        Part("fails", lambda: {"ok": 1 / 0 > 1}, 0),
        Part("waits", lambda: {"ok": True}, 10**6),
        Part("ends", lambda: {"ok": True}, 0),
    ]
    run(parts, budget_s=60, started=time.perf_counter())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines] == ["fails", "waits", "ends"]
    assert lines[0]["error"] == "ZeroDivisionError: division by zero"
    assert "it may need 1000000" in lines[1]["skipped"]
    assert lines[2]["ok"]


def test_a_token_costs_what_the_formula_says():
    """6 * (2 layers * (32² * 2 * 1.5 + 3 * 32 * 64) + 600 * 32) = 225,792, and 6 * 2 * 32 * 64 = 24,576 for attention."""
    assert TINY.multiplied == 37_632
    assert flops(TINY, 64) == 225_792 + 24_576
    assert flops(TINY, 64, trained=False) == 150_528 + 24_576
    assert (round(MILLIONS_20.multiplied, -5), round(BILLION.multiplied, -6)) == (20_400_000, 1_040_000_000)


def test_the_weights_that_are_counted_are_those_of_the_linear_layers(tmp_path):
    from tests.tiny import tiny_model

    folder = write(TINY, tiny_model(tmp_path / "tokenizer"), tmp_path / "model", "cpu")
    from models.train import policy

    linear = [module.weight.numel() for module in policy.load(folder).modules() if isinstance(module, torch.nn.Linear)]
    assert sum(linear) == TINY.multiplied


def test_a_card_has_the_peak_of_the_longest_name_that_fits():
    assert (peak_tflops("NVIDIA H100 PCIe"), peak_tflops("NVIDIA H100 80GB HBM3"), peak_tflops("NVIDIA H200")) == (756.0, 989.4, 989.4)
    assert peak_tflops("CPU") != peak_tflops("CPU"), "no number"


def test_what_a_bare_machine_is_brought_is_pinned():
    script = (ROOT / "infra" / "gpu-wheels.sh").read_text(encoding="utf-8")
    assert not re.search(r"\w==\d", script), "versions are those of requirements.lock"
    for name in re.search("^needed='(.*)'$", script, re.MULTILINE)[1].split():
        assert re.search(f"^{name}==", PINS, re.MULTILINE), name


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line():
    done = subprocess.run(
        ["sh", ROOT / "infra" / "test-gpu.sh"], env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"test-gpu: \S+ has no PyTorch that sees a CUDA GPU, must have one: .*\n", done.stderr)


@pytest.mark.slow
def test_in_miniature_every_part_runs_on_a_cpu(tmp_path):
    """One training of all, on one thread: another process may have the other core."""
    command = [sys.executable, "-m", "tests.gpu", "--device", "cpu", "--small", "--only", "sft-full", "--to", tmp_path]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert not [line["name"] for line in lines if "skipped" in line or "error" in line]
    by_name = {line["name"]: line for line in lines}
    assert by_name["20 M: sft-full"]["two_runs_byte_equal"]
    assert by_name["20 M: scoring"]["packed"]
    rows = (tmp_path / "table.md").read_text().splitlines()
    assert [row.split("|")[1].strip() for row in rows if row.startswith("| ")] == [
        "measured",
        *(line["name"] for line in lines if "peak GiB" in line or "ratio" in line),
    ]
