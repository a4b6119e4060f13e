"""How fast trainings are, of what the card could do, and in how much memory; scoring against lm-eval's own model, GRPO against TRL's.

Everything runs in bfloat16 as the stages run it: a training through its stage, timed between two of the steps that it tells of.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback

from models.core.files import write_lines
from models.train import chat, policy, vocabulary
from tests.gpu.checks import choices, memory, ours
from tests.gpu.models import Shape, Stages
from tests.gpu.reporting import Line, Part, card, peak_tflops
from tests.trainings import PRETRAINING, finetuning, reinforcement

RATE = 1e-5  # random weights stay where they are


@dataclass(frozen=True)
class Sizes:
    """How much is measured. Lengths in tokens."""

    tokens: int
    batch: int
    steps: int
    subjects: int
    questions: int
    examples_tokens: int
    question_tokens: int
    stock_questions: int
    stock_batches: tuple[int, ...]
    batch_size: int
    prompts: int
    prompt_tokens: int
    new_tokens: int
    group: int


FULL = Sizes(2048, 8, 20, 4, 256, 520, 120, 96, (16, 64), 64, 48, 160, 128, 8)
SMALL = Sizes(64, 4, 20, 2, 8, 60, 20, 8, (2, 4), 4, 4, 20, 8, 2)


class Timed(Stages):
    """Notes when it was told of a step, with all work on the device done."""

    def __init__(self, *given: Any, **work: Any) -> None:
        super().__init__(*given, **work)
        self.at: list[tuple[int, float]] = []

    def _hear(self, step: int, total: int, values: Any) -> None:
        super()._hear(step, total, values)
        self.at.append((step, now()))

    def seconds_a_step(self, begin: int) -> float:
        """Between the first step told from `begin` on, which compiles and allocates, and the last."""
        times = dict(reversed([one for one in self.at if one[0] >= begin]))  # of a step told twice, the first time
        (first, started), (last, ended) = min(times.items()), max(times.items())
        return (ended - started) / (last - first)


def now() -> float:
    """Seconds, with all work on the device done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def parts(stages: Timed, shape: Shape, sizes: Sizes) -> Iterator[Part]:
    """All measurements, the most important first. `stages` has the model, as published, base and sft."""
    yield Part("pretraining, AdamW", lambda: pretraining(stages, shape, sizes, "adamw"), 50)
    yield Part("sft, full", lambda: sft(stages, shape, sizes, "full"), 45)
    yield Part("MMLU-like, five-shot", lambda: mmlu(stages, sizes), 60)
    yield Part("GRPO", lambda: grpo(stages, sizes), 60)
    yield Part("sft, LoRA", lambda: sft(stages, shape, sizes, "lora"), 40)
    yield Part("HumanEval-like, greedy", lambda: humaneval(stages, sizes), 60)
    yield Part("pretraining, Muon", lambda: pretraining(stages, shape, sizes, "muon"), 60)


def flops(shape: Shape, tokens: int, trained: bool = True) -> float:
    """Floating-point operations that one token costs in a training, by the formula in docs/gpu.md.

    6 for each weight that it is multiplied with, 2 of them forward (4 where the weights are frozen beside an adapter: they get no
    gradient), and for causal attention 6 * layers * width * tokens: half of the 12 of Chowdhery et al. (2022), appendix B.
    """
    return (6 if trained else 4) * shape.multiplied + 6 * shape.layers * shape.hidden_size * tokens


def _rates(stages: Timed, shape: Shape, tokens_a_step: int, length: int, gib: float, begin: int, trained: bool = True) -> Line:
    rate = tokens_a_step / stages.seconds_a_step(begin)
    share = rate * flops(shape, length, trained) / (peak_tflops(card(stages.work.device)["card"]) * 1e12)
    return {"tokens/s": round(rate), "MFU": f"{share:.1%}" if share == share else "", "peak GiB": gib}


def pretraining(stages: Timed, shape: Shape, sizes: Sizes, optimizer: str) -> Line:
    """Blocks of `tokens`, four times `batch` of them a step: an update costs the same for few tokens as for many."""
    tokenizer = vocabulary.load(stages.target / "tokenizer")
    texts = [{"text": text_of(tokenizer, sizes.tokens - 1, start)} for start in range(64)]
    long = _records(stages, {"documents": texts})
    blocks = {**PRETRAINING["blocks"], "tokens": sizes.tokens, "batch": 4 * sizes.batch, "micro_batch": sizes.batch}
    plan = {"blocks": {**blocks, "precision": "bfloat16"}}
    plan["training"] = {**PRETRAINING["training"], "steps": sizes.steps, "optimizer": optimizer, "learning_rate": RATE}
    gib = memory(lambda: long.base("made", plan=plan))
    return _rates(long, shape, 4 * sizes.batch * sizes.tokens, sizes.tokens, gib, 10)


def sft(stages: Timed, shape: Shape, sizes: Sizes, weights: str) -> Line:
    """Conversations of equal length, next to `tokens`."""
    tokenizer = vocabulary.load(stages.target / "tokenizer")
    rows = [{"id": str(number), "messages": _conversation(tokenizer, sizes.tokens - 32)} for number in range(sizes.batch * sizes.steps)]
    length = len(chat.coder(tokenizer)(rows[0]["messages"])[0])
    long = _records(stages, {"instructions": rows})
    plan = {**dict(finetuning(weights)), "batch_size": sizes.batch, "max_tokens": sizes.tokens, "learning_rate": RATE}
    gib = memory(lambda: long.sft("made", {**plan, "precision": "bfloat16"}))
    return _rates(long, shape, sizes.batch * length, length, gib, 5, trained=weights == "full")


def _records(stages: Timed, rows: dict[str, list[Any]]) -> Timed:
    """The same stages over other records, a few of which are held out."""
    folder = stages.target / "records"
    for kind, some in rows.items():
        write_lines(folder / kind / "train.jsonl", some)
        write_lines(folder / kind / "held_out.jsonl", some[:4])
    return Timed(folder, stages.target, stages.work.device)


WORDS = ("the river runs by the town where people", "bake bread, mend boats,", "count to 17", "and tell each other in the evening what was")


def text_of(tokenizer: Any, tokens: int, start: int = 0) -> str:
    """A text of about so many tokens."""
    long = " ".join(islice(cycle(WORDS), start % len(WORDS), start % len(WORDS) + 2 * tokens))
    text: str = tokenizer.decode(tokenizer(long, add_special_tokens=False)["input_ids"][:tokens])
    return text


def _conversation(tokenizer: Any, tokens: int) -> list[dict[str, str]]:
    asked, said = text_of(tokenizer, tokens // 4), text_of(tokenizer, tokens - tokens // 4)
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]


def mmlu(stages: Timed, sizes: Sizes) -> Line:
    """Questions after five worked examples of their subject, answered by the likeliest letter: in the lengths that MMLU's have."""
    model = stages.target / "sft"
    tokenizer = vocabulary.load(model)
    examples = [f"{text_of(tokenizer, sizes.examples_tokens, 7 * subject)}\n" for subject in range(sizes.subjects)]
    asked = [
        f"{examples[number * sizes.subjects // sizes.questions]}{number}. "
        f"{text_of(tokenizer, sizes.question_tokens - number % 16, number)}\nAnswer: ("
        for number in range(sizes.questions)
    ]

    def answers(network: Any, questions: list[str]) -> list[int]:
        found = network.loglikelihood(choices(questions, ("A", "B", "C", "D")), disable_tqdm=True)
        values = [value for value, _ in found]
        return [max(range(4), key=values[at : at + 4].__getitem__) for at in range(0, len(values), 4)]

    line = _against_stock(stages, sizes, answers, asked, asked[: sizes.stock_questions])
    return {**line, "unit": "questions/s"}


def humaneval(stages: Timed, sizes: Sizes) -> Line:
    """Greedy continuations of prompts of the length that HumanEval's have. Random weights hardly ever end a text: all are of one length."""
    tokenizer = vocabulary.load(stages.target / "sft")
    asked = [f"def f{number}():\n    {text_of(tokenizer, sizes.prompt_tokens - number % 32, number)}\n" for number in range(sizes.prompts)]
    how = {"until": ["\nclass ", "\ndef "], "max_gen_toks": sizes.new_tokens, "do_sample": False}

    def answers(network: Any, prompts: list[str]) -> list[str]:
        requests = [Instance("generate_until", {}, (prompt, dict(how)), at) for at, prompt in enumerate(prompts)]
        texts: list[str] = network.generate_until(requests, disable_tqdm=True)
        return texts

    line = _against_stock(stages, sizes, answers, asked, asked)
    tokens = {side: round(line[side] * sizes.new_tokens, 1) for side in ("ours", "theirs")}
    return {**line, **tokens, "unit": "tokens/s"}


def _against_stock(stages: Timed, sizes: Sizes, answers: Callable[[Any, list[str]], list[Any]], asked: list[str], few: list[str]) -> Line:
    """Prompts a second of our scorer and of lm-eval's own model at its best batch size, and how many answers are the same."""
    folder, device = stages.target / "sft", stages.work.device
    ours_s, mine, packed = _ours(folder, device, sizes, answers, asked)
    found = {size: _stock(folder, device, size, answers, few) for size in sizes.stock_batches}
    best = min(found, key=lambda size: found[size][0])
    theirs_s, theirs = found[best]
    rates = len(asked) / ours_s, len(few) / theirs_s
    same = sum(one == other for one, other in zip(mine, theirs, strict=False))
    line = {"ours": round(rates[0], 2), "theirs": round(rates[1], 2), "ratio": round(rates[0] / rates[1], 2)}
    return {**line, "same answers": f"{same} of {len(theirs)}", "packed": packed, "their_batch_size": best}


def _ours(folder: Path, device: str, sizes: Sizes, answers: Callable[[Any, list[str]], list[Any]], asked: list[str]) -> Any:
    """(seconds, answers, whether rows were packed) of our scorer; one batch goes before, untimed."""
    network = ours(folder, device, sizes.batch_size, "bfloat16", sizes.new_tokens)
    answers(network, asked[: sizes.batch_size])
    return *_timed(lambda: answers(network, asked)), network.packs


def _stock(folder: Path, device: str, batch_size: int, answers: Callable[[Any, list[str]], list[Any]], asked: list[str]) -> Any:
    """(seconds, answers) of lm-eval's own model; one batch goes before, untimed."""
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device)
    network = HFLM(pretrained=loaded, tokenizer=vocabulary.load(folder), backend="causal", batch_size=batch_size)
    answers(network, asked[:batch_size])
    return _timed(lambda: answers(network, asked))


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = now()
    found = call()
    return now() - started, found


def grpo(stages: Timed, sizes: Sizes) -> Line:
    """Steps a second of the stage and of TRL's trainer, both with all answers of a step written at once and the same numbers."""
    timed = Timed(stages.records, stages.target, stages.work.device)
    numbers = {"max_new_tokens": sizes.new_tokens, "prompts_per_step": sizes.group, "answers_per_prompt": sizes.group, "steps": 6}
    plan = {**dict(reinforcement()), **numbers, "learning_rate": RATE, "precision": "bfloat16"}
    gib = memory(lambda: timed.rlhf("made", plan, rewards={"short": {"take": "length", "weight": 1.0, "words": 10}}, judged=False))
    mine, theirs = 1 / timed.seconds_a_step(2), 1 / _stock_grpo(timed, plan)
    return {"ours": round(mine, 3), "theirs": round(theirs, 3), "unit": "steps/s", "ratio": round(mine / theirs, 2), "peak GiB": gib}


def _stock_grpo(stages: Timed, plan: dict[str, Any]) -> float:
    """Seconds a step of TRL's own trainer, from the end of the second on."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, device = policy.load(stages.target / "sft").to(stages.work.device), stages.work.device
    at: list[float] = []
    told = type("Told", (TrainerCallback,), {"on_step_end": lambda *_, **__: at.append(now())})
    arguments = GRPOConfig(
        output_dir=str(stages.target / "stock"),
        per_device_train_batch_size=plan["prompts_per_step"] * plan["answers_per_prompt"],
        num_generations=plan["answers_per_prompt"],
        max_completion_length=plan["max_new_tokens"],
        max_steps=plan["steps"],
        beta=plan["beta"],
        learning_rate=plan["learning_rate"],
        temperature=plan["temperature"],
        bf16=True,
        gradient_checkpointing=False,
        use_cpu=device == "cpu",
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    questions = [{"prompt": [{"role": "user", "content": f"What does number {number} bake?"}]} for number in range(64)]
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [-float(len(each[-1]["content"].split())) for each in completions],
        args=arguments,
        train_dataset=Dataset.from_list(questions),
        processing_class=vocabulary.load(stages.target / "sft"),
        callbacks=[told()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return (at[-1] - at[1]) / (len(at) - 2)
