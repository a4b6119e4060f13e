"""Rows laid end to end are answered as each is alone."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from models.score import packing

SHAPE = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
BEGINNING, ROWS = [7, 3, 9, 9, 1], [[4, 8, 15], [16], [23, 42, 4, 8, 15, 16, 23]]


@pytest.fixture(scope="module", params=[1, 2, 4])
def network(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A random model whose 4 heads of queries share 1, 2 or 4 heads of keys."""
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=request.param)).eval()


@torch.inference_mode()
def alone(network: PreTrainedModel, row: list[int]) -> torch.Tensor:
    return network(input_ids=torch.tensor([row])).logits[0]


@pytest.fixture(params=["one by one", "together"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How rows are attended to: as on a CPU, or as on a GPU."""
    if request.param == "together":
        monkeypatch.setattr(packing, "_one_by_one", packing._together)


@torch.inference_mode()
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("beginning", [[], BEGINNING])
def test_every_row_of_a_pack_gets_the_logits_that_it_gets_alone(network: PreTrainedModel, beginning: list[int]) -> None:
    found = packing.run(network, ROWS, packing.begin(network, beginning), list(range(11)))
    expected = torch.cat([alone(network, beginning + row)[len(beginning) :] for row in ROWS])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@torch.inference_mode()
@pytest.mark.usefixtures("way")
def test_only_the_places_that_are_kept_are_read(network: PreTrainedModel) -> None:
    found = packing.run(network, ROWS, packing.begin(network, BEGINNING), [2, 10])
    torch.testing.assert_close(found, torch.stack([alone(network, BEGINNING + row)[-1] for row in (ROWS[0], ROWS[2])]), rtol=0, atol=1e-6)


@torch.inference_mode()
def test_the_model_attends_as_before_afterwards_even_where_packing_failed(network: PreTrainedModel) -> None:
    before = alone(network, ROWS[2])
    with pytest.raises(IndexError):
        packing.run(network, [[10_000]], [], [0])
    assert packing.can_pack(network)
    assert alone(network, ROWS[2]).equal(before)


@torch.inference_mode()
def test_one_call_a_layer_serves_all_rows(network: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    beginning, calls = packing.begin(network, BEGINNING), []

    def counted(query: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        calls.append(query.shape)
        return torch.nn.functional.scaled_dot_product_attention(query, *args, **options)

    monkeypatch.setattr(packing, "scaled_dot_product_attention", counted)
    monkeypatch.setattr(packing, "_one_by_one", packing._together)
    packing.run(network, ROWS, beginning, [10])
    assert calls == [(3, 4, 7, 8)] * 3, "3 rows, 4 heads, the longest row's 7 tokens, 8 numbers a head; in 3 layers"


@pytest.mark.usefixtures("way")
def test_a_model_that_looks_through_a_window_cannot_be_packed(network: PreTrainedModel) -> None:
    assert packing.can_pack(network)
    assert not packing.can_pack(MistralForCausalLM(MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=4)))
