"""What checkpoints cost: the seconds that writing one takes, of a model with 135 M weights, beside the interval between two."""

import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from models.core.checkpoints import Checkpoints
from models.train import resuming

SHAPE = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
REPETITIONS = 3


def written(model: torch.nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    resuming.save({"parts": [model.state_dict(), optimizer.state_dict()]}, folder / resuming.FILE)


def main() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=3, tie_word_embeddings=True))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    seconds, plain = [], []
    for repetition in range(REPETITIONS):
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpoints(Path(folder))
            started = time.perf_counter()
            checkpoints.save(repetition + 1, partial(written, model, optimizer))
            seconds.append(time.perf_counter() - started)
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
            started = time.perf_counter()
            resuming.save({"parts": [model.state_dict(), optimizer.state_dict()]}, Path(folder) / "plain")
            plain.append(time.perf_counter() - started)
    ours, theirs = statistics.median(seconds), statistics.median(plain)
    said = {"name": f"a checkpoint of {size / 1e6:,.0f} MB: whole and on the disk, torch.save alone", "unit": "s"}
    print(json.dumps({**said, "ours": round(ours, 2), "theirs": round(theirs, 2), "ratio": round(theirs / ours, 2)}), flush=True)
    share = ours / (60 * 5 + ours)
    print(json.dumps({"name": "share of the time at the default interval, at most", "ours": round(share, 4), "theirs": 0.02, "unit": ""}))


if __name__ == "__main__":
    main()
