"""The numbers that training and scoring take, as bounded records. Light to import: reading params.yaml must not load torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.core.records import Record

Precision = Annotated[
    Literal["float32", "bfloat16"],
    Field(description="of the forward passes, of weights that are not trained, and of those that are saved; bfloat16: trained in float32"),
]


Schedule = Annotated[
    Literal["linear", "cosine", "wsd"],
    Field(
        description="of the rate after its warm-up: down a line, down half a cosine (Loshchilov and Hutter 2017), or level, and down a "
        "line over the last fifth of the steps (Hu et al. 2024)"
    ),
]


class Taken(Record):
    """What a published model brings."""

    take: Literal["pretrained"]


class Scratch(Record):
    """Random weights: the size of a Llama-architecture model."""

    take: Literal["scratch"]
    layers: int = Field(ge=1, le=128)
    hidden_size: int = Field(ge=16, le=16384, multiple_of=8, description="width of the residual stream")
    feed_forward_size: int = Field(ge=16, le=65536, description="width inside the gated feed-forward layer")
    heads: int = Field(ge=1, le=128, description="attention heads; they divide hidden_size")


class Full(Record):
    """All weights."""

    train: Literal["full"]


class Lora(Record):
    """Two matrices of low rank beside each linear layer (Hu et al. 2021); scaled by the rank's root (rslora), or lengths apart (dora).

    rslora: Kalajdzievski (2023), alpha / sqrt(rank) in the place of alpha / rank. dora: Liu et al. (2024), the length of each weight's
    columns is learned by itself. qlora: Dettmers et al. (2023), beside weights of four bits, which the trained model keeps, written out.
    """

    train: Literal["lora", "rslora", "dora", "qlora"]
    rank: int = Field(ge=1, le=1024, description="of the matrices")
    alpha: float = Field(gt=0, description="their product is scaled by alpha / rank")


class LastLayers(Record):
    """The last layers, with the norm and the head after them."""

    train: Literal["last-layers"]
    layers: int = Field(ge=1, description="how many")


Weights = Annotated[
    Full | Lora | LastLayers,
    Field(discriminator="train", description="which weights are trained; a whole model is saved in every case, adapters are merged"),
]


class Learned(Record):
    """A vocabulary learned from the texts at hand."""

    take: Literal["texts"]
    size: int = Field(ge=300, le=500_000, description="tokens to learn")
    max_tokens: int = Field(ge=32, description="the longest text that the model is made for")


class Room(Record):
    """What a training may take of a device's memory; neither moves a weight by more than rounding."""

    micro_batch: int | None = Field(ge=1, description="of a batch at once, the rest after it; null: all; halved where memory runs out")
    gradient_checkpointing: bool = Field(description="compute activations again in the backward pass: less memory, a third more time")


class Blocks(Room):
    """How documents are read: whole texts, packed into blocks of one length."""

    tokens: int = Field(ge=16, description="length of a block")
    batch: int = Field(ge=1, description="blocks an optimiser step")
    precision: Precision


class Pretraining(Record):
    steps: int = Field(ge=1, description="optimiser steps")
    optimizer: Literal["muon", "adamw"] = Field(
        description="muon: for the matrices inside the layers, AdamW for the rest; adamw: for all, as published models were made"
    )
    learning_rate: float = Field(gt=0, le=0.1, description="peak rate of Muon, scaled to AdamW's, and of AdamW")
    warmup_share: float = Field(ge=0, lt=1, description="of the steps, in which the rate rises")
    schedule: Schedule
    weight_decay: float = Field(ge=0, lt=1, description="on the matrices inside the layers")
    max_rise: float | None = Field(
        gt=0, description="nats by which a step's loss may be above the median of the 20 before it, else the stage stops; null: any"
    )


class Finetuning(Room):
    weights: Weights
    epochs: float = Field(gt=0, le=100, description="passes over the training records")
    batch_size: int = Field(ge=1, description="records an optimiser step")
    max_tokens: int = Field(ge=16, description="longer records are dropped and counted, never cut")
    learning_rate: float = Field(gt=0, le=0.1, description="peak rate of AdamW")
    warmup_share: float = Field(ge=0, lt=1, description="of the steps, in which the rate rises")
    schedule: Schedule
    weight_decay: float = Field(ge=0, lt=1)
    max_rise: float | None = Field(
        gt=0, description="nats by which a step's loss may be above the median of the 20 before it, else the stage stops; null: any"
    )
    precision: Precision


class Supervised(Finetuning):
    packing: bool = Field(
        description="several conversations in a row of max_tokens, none of which sees another: batch_size counts rows, little is padded"
    )
    neftune: float = Field(ge=0, le=100, description="noise on the embeddings while training (Jain et al. 2023); 0: none")


class Sigmoid(Record):
    """DPO's own loss (Rafailov et al. 2023, eq. 7), or its conservative form (Mitchell 2023, eq. 3)."""

    form: Literal["sigmoid"]
    label_smoothing: float = Field(ge=0, lt=0.5, description="share of the preferences that are taken to be the wrong way round")


class Ipo(Record):
    """The squared distance from a gap of 1 / (2 beta), a token (Azar et al. 2023, eq. 17): it stops where sigmoid would go on for ever."""

    form: Literal["ipo"]


class Dpo(Record):
    """The log-odds of a preference are beta times the gap of two log-ratios of policy to sft (Rafailov et al. 2023)."""

    algorithm: Literal["dpo"]
    beta: float = Field(gt=0, le=10, description="how strongly the policy is held to what it began as")
    loss: Annotated[Sigmoid | Ipo, Field(discriminator="form", description="what is lowered")]


class Kto(Record):
    """Each answer is good or bad by itself, against how far the policy has moved at all (Ethayarajh et al. 2024, eq. 8)."""

    algorithm: Literal["kto"]
    beta: float = Field(gt=0, le=10, description="how strongly the policy is held to what it began as")
    chosen_weight: float = Field(gt=0, description="of answers that were chosen")
    rejected_weight: float = Field(gt=0, description="of those that were rejected")


class Orpo(Record):
    """What sft lowers on the chosen answers, and the odds of the two answers; held to nothing (Hong et al. 2024, eq. 6)."""

    algorithm: Literal["orpo"]
    odds_weight: float = Field(gt=0, le=10, description="lambda: of the odds beside the likelihood")


class Preference(Finetuning):
    method: Dpo | Kto | Orpo = Field(discriminator="algorithm", description="what is learned of a pair")

    @model_validator(mode="after")
    def others_are_in_the_batch(self) -> "Preference":
        if isinstance(self.method, Kto) and self.batch_size < 2:
            raise ValueError(f"batch_size is {self.batch_size}, must be 2 at least: kto holds an answer against others' prompts")
        return self


class Group(Record):
    """An answer is held against the others to its prompt, and no value model is needed.

    grpo: against their mean, its own among them, and KL is a term of the loss (Shao et al. 2024). rloo: against the mean of the others
    alone, and KL is a part of the reward (Ahmadian et al. 2024).
    """

    algorithm: Literal["grpo", "rloo"]
    vllm_memory: float | None = Field(
        gt=0, lt=1, description="share of the GPU for vLLM, which writes the answers beside the training; null: the model does so itself"
    )


class Ppo(Record):
    """A token is held against what a value model foresaw before it, which is trained as well (Schulman et al. 2017)."""

    algorithm: Literal["ppo"]
    passes: int = Field(ge=1, le=100, description="over the answers of a step")
    minibatches: int = Field(ge=1, description="into which they are parted: optimiser steps a pass")
    clip: float = Field(gt=0, lt=1, description="how far a token's probability may move in a step, as a share")
    value_clip: float = Field(gt=0, description="how far what is foreseen may, nats")
    value_weight: float = Field(gt=0, le=10, description="of the value model's loss beside the policy's")
    trace: float = Field(ge=0, le=1, description="lambda: 1 trusts what came, 0 what the value model foresees after one token")
    kl: Literal["reward", "loss"] = Field(description="where the KL term is: a part of each token's reward, or of the loss")
    target_kl: float | None = Field(
        gt=0, description="nats an answer, for which beta is moved by a fiftieth a step at most; null: beta stays"
    )
    cut_reward: float | None = Field(description="of an answer that was cut, in the place of its own; null: its own")


class Warn(Record):
    """Say it, in the log, the metrics and the report."""

    act: Literal["warn"]


class Stop(Record):
    """Fail, with the last checkpoint kept."""

    act: Literal["stop"]


class Restore(Record):
    """Say it, and hand on the weights that had the most reward on held-out prompts."""

    act: Literal["restore"]
    every: int = Field(ge=1, description="steps between two looks at the held-out prompts")


class Reinforcement(Room):
    method: Group | Ppo = Field(discriminator="algorithm", description="what an answer is held against")
    weights: Weights
    steps: int = Field(ge=1, description="batches of answers")
    prompts_per_step: int = Field(ge=1)
    answers_per_prompt: int = Field(ge=1, description="the group whose rewards are the baseline, two at least; with ppo one will do")
    max_new_tokens: int = Field(ge=4, description="longer answers are cut")
    temperature: float = Field(gt=0, le=2, description="of sampling, in training and in measuring")
    learning_rate: float = Field(gt=0, le=0.1, description="peak rate of AdamW")
    warmup_share: float = Field(ge=0, lt=1, description="of the steps, in which the rate rises")
    schedule: Schedule
    beta: float = Field(gt=0, le=10, description="weight of the KL term")
    max_kl: float = Field(gt=0, description="KL to sft, in nats an answer, above which the stage fails")
    measured_answers: int = Field(ge=1, description="answers a held-out prompt, before and after")
    measured_prompts: int = Field(ge=2, description="held-out prompts at most")
    answers_per_batch: int = Field(ge=1, le=65536, description="sampled, rated and compared at once while measuring; bounds the memory")
    precision: Precision
    recorder: Warn | Stop | Restore = Field(discriminator="act", description="what to do where the numbers of the steps show a fault")

    @model_validator(mode="after")
    def a_group_has_two(self) -> "Reinforcement":
        if isinstance(self.method, Group) and self.answers_per_prompt < 2:
            raise ValueError(f"answers_per_prompt is {self.answers_per_prompt}, must be 2 at least: {self.method.algorithm} compares them")
        return self


class Sampling(Record):
    samples: int = Field(ge=1, le=1000, description="programs written for each item")
    pass_at: int = Field(ge=1, description="the k of pass@k; 1 is the share of samples that pass")
    temperature: float = Field(ge=0, le=2, description="0 is greedy, with one sample")

    @model_validator(mode="after")
    def fits_together(self) -> "Sampling":
        if self.pass_at > self.samples:
            raise ValueError(f"pass_at is {self.pass_at}, must be at most samples, {self.samples}")
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(f"samples is {self.samples}, must be 1 at temperature 0, where all are the same")
        return self
