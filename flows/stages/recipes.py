"""Recipes: whole set-ups of params.yaml, one YAML file each under models/recipes."""

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

import models
from models.core.errors import UserError
from models.core.records import write_whole

VARIANTS = ("take", "train")  # the keys that name the variant of a union
FOLDER = Path(models.__file__).parent / "recipes"


def names() -> dict[str, str]:
    """Every recipe with the first comment line of its file."""
    return {path.stem: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for path in sorted(FOLDER.glob("*.yaml"))}


def merged(name: str) -> Any:
    """The whole params.yaml that recipe `name` stands for, comments kept: the recipe it extends, overlaid key by key."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"no recipe {name!r}; there are: {', '.join(names())}")
    recipe = YAML().load(path.read_text(encoding="utf-8"))
    parent = recipe.pop("extends", None)
    return overlay(merged(parent), recipe) if parent else recipe


def overlay(below: Any, above: Any) -> Any:
    """`above` over `below`: mappings merge, unless they are variants of another name; anything else replaces; `unset` drops a key."""
    for key, value in above.items():
        if value == "unset":
            del below[key]
            continue
        merge = isinstance(value, dict) and isinstance(below.get(key), dict) and not _is_other_variant(below[key], value)
        below[key] = overlay(below[key], value) if merge else value
    return below


def _is_other_variant(below: Any, above: Any) -> bool:
    """Whether two mappings are different variants of one union, whose keys have nothing in common."""
    return any(tag in above and above[tag] != below.get(tag) for tag in VARIANTS)


def text(name: str) -> str:
    """The merged recipe as the text of a params.yaml."""
    yaml, stream = YAML(), io.StringIO()
    yaml.width = 140
    yaml.dump(merged(name), stream)
    return stream.getvalue()


def use(name: str, params_file: Path) -> None:
    """Write the merged recipe over params.yaml, whole or not at all."""
    write_whole(params_file, text(name).encode())
