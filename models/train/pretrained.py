"""Published models: how to get model and tokenizer out of a folder that holds one, and whether they are what they should be.

A published model that lacks a weight is no error to Transformers: it makes one at random. Here it is one.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from models.core.errors import UserError

SHOWN = 2


def tokenizer(folder: Path, source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of the model in `folder`; `source` names it in what is raised: UserError where it is missing or another model's."""
    made: PreTrainedTokenizerBase = _read(AutoTokenizer, folder, f"the tokenizer of {source}")
    for name in _packed(folder).values():
        end = GGUFReader(folder / name).get_field("tokenizer.ggml.eos_token_id")
        made.eos_token = (
            made.convert_ids_to_tokens(int(end.contents())) if end else None
        )  # Transformers 5.12 takes the one that begins texts
    rows = None if _packed(folder) else getattr(_read(AutoConfig, folder, f"config.json of {source}").get_text_config(), "vocab_size", None)
    if rows is not None and made.vocab_size > rows:  # what was added on top may have no row yet: such a token gets one
        raise UserError(
            f"pretrained: the tokenizer of {source} has {made.vocab_size:,} tokens, its model rows for {rows:,}: "
            "must be the model's own; copy the right files there"
        )
    return made


def model(folder: Path, source: str) -> PreTrainedModel:
    """The causal language model in `folder`, in float32. Raises UserError where it cannot be read, or is not whole and sound."""
    found = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    loaded, about = _read(AutoModelForCausalLM, folder, f"the model {source}", **found)
    for fault in _faults(loaded, about, source):
        raise UserError(f"pretrained: {fault}")
    if hasattr(loaded.config, "quantization_config"):
        # The weights were dequantised on reading; a model that still claims to be quantised cannot be saved.
        del loaded.config.quantization_config
        loaded.hf_quantizer, loaded.is_quantized = None, False
    return loaded.float()


def _packed(folder: Path) -> dict[str, str]:
    """How Transformers is told that a model is one GGUF file; empty where it is not."""
    names = [path.name for path in folder.glob("*.gguf")]
    return {"gguf_file": names[0]} if names else {}


def _read(kind: Any, folder: Path, what: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **_packed(folder), **options)
    except MemoryError:
        raise
    except Exception as error:  # of whichever library reads these files: each has its own for what is wrong in them
        reason = f"{type(error).__name__}: {_first_sentence(str(error))}"
        cut = "; if the GGUF file is cut short, copy it again" if _packed(folder) else ""
        must = f"must be a causal language model that Transformers knows{cut}"
        raise UserError(f"pretrained: {what} cannot be read ({reason}): {must}") from error


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0][:200]


def _faults(loaded: PreTrainedModel, about: dict[str, Any], source: str) -> Iterator[str]:
    """Why what was loaded is not what was published."""
    missing, found = sorted(about["missing_keys"]), sorted(about["unexpected_keys"])
    weights = {name for name, _ in loaded.named_parameters()}
    if missing:
        kept = len(weights - {*missing})
        lost = f"{source} holds {kept or 'none'} of the model's {len(weights)} weights (missing {_listed(missing)}"
        yield f"{lost}; {_instead(missing, found)}"
    for name, there, wanted in sorted(about["mismatched_keys"]):
        yield f"{name} is {_shape(there)} in {source}, by its config.json it must be {_shape(wanted)}: copy both from one place"
    kinds = {_any_layer(name) for name in weights}
    surplus = [name for name in found if _any_layer(name) in kinds]
    if surplus:
        yield f"{source} holds layers that its config.json does not count ({_listed(surplus)}): copy both from one place"
    for name, weight in loaded.named_parameters():
        if not weight.isfinite().all():
            yield f"{source} holds weights that are no numbers (NaN or infinite, in {name}): take an earlier checkpoint"


def _instead(missing: list[str], found: list[str]) -> str:
    """What the file holds instead, and what to do."""
    if not found:
        return "nothing stands in their place): copy it again"
    prefix = next((name.removesuffix(lost) for lost in missing for name in found if name.endswith(lost)), "")
    do = (
        f"save the plain model, without what puts '{prefix}' before each name" if prefix else "config.json and weights must be of one model"
    )
    return f"found {_listed(found)}): {do}"


def _any_layer(name: str) -> str:
    return re.sub(r"\d+", "N", name)


def _shape(size: Any) -> str:
    return "×".join(map(str, size))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
