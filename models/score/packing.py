"""Several rows of tokens as one, laid end to end: no row is padded, and what all begin with is attended to where it lies.

A padded batch computes its padding and copies the keys and values of a common beginning once a row, and again for every head that shares
them. Here linear layers see the rows' own tokens only. Attention takes one row at a time on a CPU: five-shot questions are answered 1.3
times as fast so (float32, two cores, 20 rows of 48 to 192 tokens after 600 common ones). On a GPU, where a call of a kernel takes as long
as a short row, it takes all rows in one, padded.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.nn.attention.bias import CausalBias, causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "packed"
Pair = tuple[torch.Tensor, torch.Tensor]  # keys and values, [1, heads, tokens, size of a head]
Beginning = list[Pair]  # of each layer


@dataclass(frozen=True)
class Packed:
    """How rows lie in a pack: their lengths in tokens, without the beginning that they share."""

    lengths: list[int]
    beginning: Beginning
    device: torch.device

    @property
    def shared(self) -> int:
        """Tokens of the beginning."""
        return self.beginning[0][0].shape[2] if self.beginning else 0

    @property
    def positions(self) -> torch.Tensor:
        """Each token's place in its own row, [1, tokens of all rows]."""
        return torch.cat([torch.arange(self.shared, self.shared + length) for length in self.lengths])[None].to(self.device)

    @cached_property
    def masks(self) -> list[torch.Tensor | None]:
        """What is added to the scores of each row's tokens, [own tokens, shared and own tokens]: -inf on what is after them, else 0.

        None where nothing is shared: the kernel then needs no mask. Of true and false it would make these anew in every layer.
        """
        if not self.beginning:
            return [None] * len(self.lengths)
        keys, _ = self.beginning[0]
        return [keys.new_full((length, self.shared + length), -torch.inf).triu(self.shared + 1) for length in self.lengths]

    @cached_property
    def places(self) -> torch.Tensor:
        """Where in the pack each token of the padded rows lies [rows, tokens of the longest], and -1 for padding."""
        lengths, longest = torch.tensor(self.lengths), max(self.lengths)
        starts, at = lengths.cumsum(0) - lengths, torch.arange(longest)
        places = torch.where(at < lengths[:, None], starts[:, None] + at, -1)
        return places.to(self.device)

    @cached_property
    def own(self) -> torch.Tensor:
        """Where among the padded rows, laid end to end, each token of the pack lies [tokens of all rows]."""
        return (self.places.flatten() >= 0).nonzero()[:, 0]

    @cached_property
    def bias(self) -> CausalBias:
        """Tokens of the padded rows see the beginning and what is not after them. Padding is after all that counts, and needs no mask."""
        longest = max(self.lengths)
        return causal_lower_right(longest, self.shared + longest)


def can_pack(network: PreTrainedModel) -> bool:
    """Whether rows may be packed: every layer is plain causal attention that may be exchanged (no windows), and a trial agrees.

    The trial finds what no flag tells: attention that is handed no more than it expects, or computes beside the part that is exchanged.
    """
    if not network._supports_attention_backend or network.config._attn_implementation != "sdpa":
        return False
    plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=network.config).layers)
    return plain and _agrees(network)


@torch.inference_mode()
def _agrees(network: PreTrainedModel) -> bool:
    """Whether two short rows after a common beginning get in a pack what each gets alone, but for rounding."""
    beginning, rows = list(range(8)), [list(range(5)), list(range(3, 10))]
    try:
        packed = run(network, rows, begin(network, beginning), list(range(12)))
        alone = torch.cat([network(input_ids=torch.tensor([beginning + row], device=network.device)).logits[0, 8:] for row in rows])
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False
    spread = (alone - alone.mean(-1, keepdim=True)).abs().max()
    rounding = 1e-3 if network.dtype == torch.float32 else 0.1
    return packed.shape == alone.shape and bool((packed - alone).abs().max() <= rounding * spread)


def run(network: PreTrainedModel, rows: list[list[int]], beginning: Beginning, kept: list[int]) -> torch.Tensor:
    """Logits [places kept, vocabulary] of rows that go on after `beginning`; `kept` are places in the pack."""
    logits: torch.Tensor = _forward(network, rows, beginning, kept, use_cache=False).logits[0]
    return logits


def begin(network: PreTrainedModel, tokens: list[int]) -> Beginning:
    """The keys and values of a beginning; empty for no tokens."""
    if not tokens:
        return []
    cache = _forward(network, [tokens], [], [len(tokens) - 1], use_cache=True).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


def _forward(network: PreTrainedModel, rows: list[list[int]], beginning: Beginning, kept: list[int], use_cache: bool) -> Any:
    device = network.device
    packed = Packed([len(row) for row in rows], beginning, device)
    network.set_attn_implementation(NAME)
    try:
        return network(
            input_ids=torch.tensor([[token for row in rows for token in row]], device=device),
            position_ids=packed.positions,
            logits_to_keep=torch.tensor(kept, device=device),
            use_cache=use_cache,
            packed=packed,
        )
    finally:
        network.set_attn_implementation("sdpa")


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: None,
    packed: Packed,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of each row to the beginning and itself: [1, heads, tokens, size] to [1, tokens, heads, size]."""
    shared = packed.beginning[module.layer_idx] if packed.beginning else (key[:, :, :0], value[:, :, :0])
    attend = _together if query.is_cuda and len(packed.lengths) > 1 else _one_by_one
    return attend(packed, query, (key, value), shared, scaling).contiguous(), None


def _one_by_one(packed: Packed, query: torch.Tensor, own: Pair, shared: Pair, scale: float | None) -> torch.Tensor:
    """A call for each row, none of which is padded or copied."""
    rows = zip(*(states.split(packed.lengths, dim=2) for states in (query, *own)), packed.masks, strict=True)
    outputs = []
    for own_query, *pair, mask in rows:
        keys, values = (torch.cat(whole, dim=2) for whole in zip(shared, pair, strict=True))
        outputs.append(scaled_dot_product_attention(own_query, keys, values, mask, is_causal=mask is None, scale=scale, enable_gqa=True))
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _together(packed: Packed, query: torch.Tensor, own: Pair, shared: Pair, scale: float | None) -> torch.Tensor:
    """One call for all rows, padded on the right, each with a copy of the beginning's keys and values.

    In bfloat16 that is the flash kernel, which leaves out what is after a token and serves heads that share keys: no mask is made. The
    copies are some per cent of what a layer reads and writes beside; a layer's products see no padding.
    """
    places = packed.places.clamp(min=0)  # padding has the first token's states: nothing that counts sees it
    padded, *pair = (states[0][:, places].transpose(0, 1) for states in (query, *own))  # [rows, heads, tokens, size]
    keys, values = (torch.cat([whole.expand(len(places), -1, -1, -1), states], dim=2) for whole, states in zip(shared, pair, strict=True))
    output = scaled_dot_product_attention(padded, keys, values, packed.bias, scale=scale, enable_gqa=True)
    return output.transpose(1, 2).flatten(0, 1)[packed.own][None]


ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
