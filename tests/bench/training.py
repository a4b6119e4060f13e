"""Steps of training against bare PyTorch loops of the same model, batch, optimiser and precision, in turn, in this process.

The model is the tiny recipe's and the records are its world's. A bare loop computes the same loss on the same batches, and does nothing
else: no log, no check, no checkpoint asked for. GRPO is held against TRL's own trainer as it comes, on the same prompts.
"""

import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import get_peft_model
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import GRPOConfig, GRPOTrainer

from flows.stages import recipes
from models.core.work import Work
from models.train import policy, training, vocabulary
from models.train.methods import finetune, group, pretraining
from models.train.settings import Blocks, Pretraining, Reinforcement, Scratch, Supervised
from models.train.worth import Rewards
from models.world import world
from tests.tiny import recorder_of

REPETITIONS, STEPS = 3, 30
SIZE = world.Size(
    people=68,
    towns=24,
    people_documents=1500,
    town_documents=200,
    answer_documents=300,
    sum_documents=200,
    code_documents=1500,
    fact_conversations=1500,
    code_conversations=300,
    open_conversations=250,
    preferences=50,
    items=50,
    dirt=0,
)


def in_turn(name: str, ours: Callable[[], float], theirs: Callable[[], float]) -> None:
    """Have both train, in turn, and print the medians of their seconds a step, the first turn left out."""
    seconds = [(ours(), theirs()) for _ in range(REPETITIONS + 1)][1:]
    mine, other = (statistics.median(side) for side in zip(*seconds, strict=True))
    said = {"name": name, "ours": round(mine, 4), "theirs": round(other, 4), "unit": "s a step", "ratio": round(other / mine, 2)}
    print(json.dumps(said), flush=True)


def timed(steps: float, work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) / steps


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, Work(folder / "work", folder / "reports")
        self.params, self.records = recipes.merged("tiny"), world.generate(1, SIZE, ())[0]
        texts = [record["text"] for record in self.records["documents"]]
        self.words = vocabulary.train(texts, 1792, 512)
        self.blocks = pretraining.pack(texts, self.words, self.params["base"]["blocks"]["tokens"])
        self.reading = Blocks(**self.params["base"]["blocks"])

    def model(self) -> Any:
        training.make_repeatable(1)
        return policy.new(Scratch(**self.params["base"]["start"]), self.words, 512)

    def pretrained(self, optimizer: str) -> float:
        """Seconds a step of ours."""
        plan = Pretraining(**{**self.params["base"]["training"], "steps": STEPS, "optimizer": optimizer})
        model = self.model()
        return timed(STEPS, lambda: pretraining.fit(model, self.blocks, plan, self.reading, 1, self.work))

    def pretrained_barely(self) -> float:
        model, source = self.model(), random.Random(1)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, betas=(0.9, 0.95), fused=True)

        def loop() -> None:
            for _ in range(STEPS):
                batch = self.blocks[source.sample(range(len(self.blocks)), self.reading.batch)]
                logits = model(input_ids=batch.clamp(min=0)).logits
                cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten(), ignore_index=pretraining.IGNORED).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

        return timed(STEPS, loop)

    def conversations(self) -> Dataset:
        coded = finetune.chat.coder(self.words)
        rows = [coded(record["messages"]) for record in self.records["instructions"]]
        return Dataset.from_list([{"input_ids": ids, "assistant_masks": said, "record": "x"} for ids, said in rows if len(ids) <= 256])

    def tuned(self, records: Dataset, **changes: Any) -> float:
        plan = Supervised(**{**{key: value for key, value in self.params["sft"].items() if key != "seed"}, **changes})
        model = self.model()
        steps = len(records) / self.params["sft"]["batch_size"]  # a step's worth of conversations, however many a row holds
        return timed(steps, lambda: finetune.fit(model, self.words, records, plan, 1, self.work))

    def tuned_barely(self, records: Dataset, lora: bool = False) -> float:
        """The records in batches of like length, drawn as ours are."""
        model, size = self.model(), self.params["sft"]["batch_size"]
        if lora:
            adapter = policy.adapter(Supervised(**{**self.params["sft"], "weights": LORA}).weights, model)
            model = get_peft_model(model, adapter)
        optimizer = torch.optim.AdamW([*policy.trained(model).values()], 1e-4, fused=True)
        lengths = [*map(len, records["input_ids"])]
        order = get_length_grouped_indices(lengths, size, generator=torch.Generator().manual_seed(1))  # as the trainer draws them
        batches = [records.select(order[start : start + size]) for start in range(0, len(order), size)]

        def loop() -> None:
            for batch in batches:
                ids, said = (pad_sequence([torch.tensor(row) for row in batch[name]], True) for name in ("input_ids", "assistant_masks"))
                logits = model(input_ids=ids, attention_mask=(ids >= 0).long(), use_cache=False).logits
                labels = ids.masked_fill(said == 0, pretraining.IGNORED)
                cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=pretraining.IGNORED).backward()
                torch.nn.utils.clip_grad_norm_(policy.trained(model).values(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

        return timed(len(records) / size, loop)

    def reinforcement(self) -> tuple[Reinforcement, list[dict[str, Any]]]:
        plan = {**self.params["rlhf"], "steps": 20}
        del plan["rewards"]
        return Reinforcement(**plan), self.records["prompts"]

    def policy(self) -> Any:
        """A model that has learned to end its answers."""
        if not (self.folder / "policy").exists():
            model, records = self.model(), self.conversations()
            plan = Supervised(**{**self.params["sft"], "learning_rate": 3e-3})
            policy.save(finetune.fit(model, self.words, records, plan, 1, self.work)[0], self.words, self.folder / "policy")
        return policy.load(self.folder / "policy")

    def reinforced(self) -> float:
        plan, prompts = self.reinforcement()
        model, recorder = self.policy(), recorder_of(plan, self.folder)
        rewards = Rewards({"letters": (1.0, lambda _, answers: [float(len(set(answer))) for answer in answers])})
        return timed(plan.steps, lambda: group.fit(model, rewards, self.words, prompts, plan, 1, self.work, recorder))

    def reinforced_by_trl(self) -> float:
        """TRL's trainer with the settings that the recipe amounts to, and nothing of ours."""
        plan, prompts = self.reinforcement()
        arguments = GRPOConfig(
            output_dir=str(self.folder / "trl"),
            max_steps=plan.steps,
            per_device_train_batch_size=plan.prompts_per_step * plan.answers_per_prompt,
            num_generations=plan.answers_per_prompt,
            max_completion_length=plan.max_new_tokens,
            temperature=plan.temperature,
            learning_rate=plan.learning_rate,
            beta=plan.beta,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            optim="adamw_torch_fused",
        )
        with training.quiet():
            trainer = GRPOTrainer(
                model=self.policy(),
                reward_funcs=lambda completions, **_: [float(len(set(one[-1]["content"]))) for one in completions],
                args=arguments,
                train_dataset=Dataset.from_list([{"prompt": record["prompt"]} for record in prompts]),
                processing_class=self.words,
            )
            trainer.remove_callback(training.PrinterCallback)
            return timed(plan.steps, trainer.train)


LORA = {"train": "lora", "rank": 8, "alpha": 16}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        in_turn("pretraining by AdamW, a bare loop", partial(bench.pretrained, "adamw"), bench.pretrained_barely)
        in_turn("pretraining by AdamW, by Muon", partial(bench.pretrained, "adamw"), partial(bench.pretrained, "muon"))
        records = bench.conversations()
        in_turn("sft, a bare loop", partial(bench.tuned, records), partial(bench.tuned_barely, records))
        in_turn("sft packed, one by one", partial(packed, bench, records), partial(bench.tuned, records))
        in_turn("sft by LoRA, PEFT in a bare loop", partial(bench.tuned, records, weights=LORA), partial(bench.tuned_barely, records, True))
        in_turn("grpo, TRL's own trainer", bench.reinforced, bench.reinforced_by_trl)


def packed(bench: Bench, records: Dataset) -> float:
    """As many conversations a step as without packing, in fewer rows."""
    rows = len(finetune.packed(records, 256))
    return bench.tuned(records, packing=True, batch_size=max(1, round(bench.params["sft"]["batch_size"] * rows / len(records))))


if __name__ == "__main__":
    main()
