"""Llamas of random weights, and the training stages over one."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from models.train import policy, vocabulary
from tests.trainings import PRETRAINING, Pipeline, reinforcement

BESIDE_LAYERS = 1 << 14  # rows of the vocabulary, most of them spare: a head as large as small published models have


@dataclass(frozen=True)
class Shape:
    """The size of a Llama; each head of keys serves `shared` heads of queries."""

    layers: int
    hidden_size: int
    feed_forward_size: int
    heads: int
    shared: int = 1
    vocabulary: int = BESIDE_LAYERS
    positions: int = 4096

    @property
    def multiplied(self) -> int:
        """Weights that each token is multiplied with: those of all linear layers, the head among them, and not the embedding."""
        attention = self.hidden_size**2 * 2 * (1 + 1 / self.shared)
        own = attention + 3 * self.hidden_size * self.feed_forward_size
        return round(self.layers * own + self.vocabulary * self.hidden_size)


TINY = Shape(layers=2, hidden_size=32, feed_forward_size=64, heads=4, shared=2, vocabulary=600)
MILLIONS_20 = Shape(layers=8, hidden_size=384, feed_forward_size=1024, heads=6)
BILLION = Shape(layers=16, hidden_size=2048, feed_forward_size=8192, heads=32, shared=4, vocabulary=2 * BESIDE_LAYERS)


def write(shape: Shape, tokenizer_folder: Path, folder: Path, device: str, seed: int = 1) -> Path:
    """Write a model of random weights, drawn on the device, with the tokenizer, and return the folder."""
    tokenizer = vocabulary.load(tokenizer_folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.feed_forward_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads // shape.shared,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.device(device):
        model = LlamaForCausalLM(config)
    policy.save(model, tokenizer, folder)
    return folder


class Stages(Pipeline):
    """The stages over a published model of a given shape; `rows` are the steps of the last training, as it told them."""

    def __init__(self, records: Path, target: Path, device: str, **work) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        super().__init__(records, target, device=device, **{"progress": self._hear, **work})

    def _hear(self, step: int, _total: int, values) -> None:
        self.rows.append((step, dict(values)))

    def begin(self, shape: Shape) -> "Stages":
        """The tokenizer, and the model as its publisher and as the stages base and sft would leave it: random in all three."""
        if not (self.target / "tokenizer").exists():
            self.tokenizer()
        write(shape, self.target / "tokenizer", self.target / "published" / "model", self.work.device)
        for name in ("base", "sft"):
            (self.target / name).symlink_to(self.target / "published" / "model")
        return self

    def base(self, name="base", pretrained="random", plan=PRETRAINING):
        return super().base(name, pretrained, {**plan, "start": {"take": "pretrained"}})

    def rlhf(self, name="rlhf", plan=None, **others):
        return super().rlhf(name, {**dict(plan or reinforcement()), "max_kl": 1e9}, **others)  # random weights go far in two steps

    def losses(self) -> list[float]:
        return [values["loss"] for _, values in self.rows if "loss" in values]
