"""Recipes: whole set-ups, a folder each under models/recipes, with a params.yaml and, where the pipeline has another shape, a dvc.yaml.

A params.yaml may say `extends: OTHER`, and then only what differs. The shape is the recipe's own, else that of the one it extends, else
the default's.
"""

import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

import models
from flows.host import git
from models.core.display import line
from models.core.errors import UserError
from models.core.files import write_whole
from models.score.suite import FILE as SUITE
from models.score.suite import NAME, check_name

DEFAULT = "tiny"
PARAMS, SHAPE = "params.yaml", "dvc.yaml"
VARIANTS = ("take", "train", "algorithm", "form", "act", "how")  # the keys that name the variant of a union
FOLDER = Path(models.__file__).parent / "recipes"
SHOWN = 100  # characters of a value


def names() -> dict[str, str]:
    """Every recipe with the first comment line of its params.yaml."""
    found = sorted(FOLDER.glob(f"*/{PARAMS}"))
    return {path.parent.name: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for path in found}


def merged(name: str) -> Any:
    """The whole params.yaml that recipe `name` stands for, comments kept: the recipe it extends, overlaid key by key."""
    recipe = _read(name)
    parent = recipe.pop("extends", None)
    return overlay(merged(parent), recipe) if parent else recipe


def _read(name: str) -> Any:
    path = FOLDER / name / PARAMS
    if not NAME.fullmatch(name) or not path.is_file():
        raise UserError(f"no recipe {name!r}; there are: {', '.join(names())}")
    return YAML().load(path.read_text(encoding="utf-8"))


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
    """The merged recipe as the text of a params.yaml, under the recipe's own head."""
    body = _without_head(dumped(merged(name)))
    head = itertools.takewhile(_is_comment, (FOLDER / name / PARAMS).read_text(encoding="utf-8").splitlines(keepends=True))
    return "".join(head) + body


def dumped(values: Any) -> str:
    """Values that ruamel.yaml has read, as text: comments kept, a blank line before each section."""
    yaml, stream = YAML(), io.StringIO()
    yaml.width = 140
    yaml.dump(values, stream)
    return re.sub(r"\n{2,}", "\n\n", re.sub(r"\n(?=\w[\w-]*:\n )", "\n\n", stream.getvalue()))


def _is_comment(line: str) -> bool:
    return line.startswith("#")


def _without_head(text: str) -> str:
    """A file without the comments that it begins with."""
    return "".join(itertools.dropwhile(_is_comment, text.splitlines(keepends=True)))


def shape(name: str) -> str:
    """The text of a recipe's dvc.yaml."""
    own, parent = FOLDER / name / SHAPE, _read(name).get("extends")
    return own.read_text(encoding="utf-8") if own.is_file() else shape(parent or DEFAULT)


def use(name: str, root: Path) -> list[str]:
    """Write a recipe's params.yaml and dvc.yaml into the workspace at `root`; return what changed in them, a line each.

    Raises UserError, with nothing changed, where one of the two was edited by hand and neither git nor a recipe holds it.
    """
    texts = {PARAMS: text(name), SHAPE: shape(name)}
    old = {file: _text_at(root / file) for file in texts}
    changed = [file for file in texts if old[file] != texts[file]]
    if lost := [file for file in changed if not _is_kept(root, file, old[file])]:
        raise UserError(
            f"{' and '.join(lost)}: changed by hand, and git does not hold the change, which recipe {name} would overwrite: keep it "
            f"('git add {' '.join(lost)}', or 'sluice recipe new NAME'), or undo it ('git checkout {' '.join(lost)}'); nothing was changed"
        )
    for file in changed:
        write_whole(root / file, texts[file].encode())
    return [f"{file}  {line}" for file in changed for line in differences(_loaded(old[file]), _loaded(texts[file]))]


def unnamed_suites(root: Path) -> list[str]:
    """The suites that lie in the workspace at `root`, and neither its params.yaml nor any recipe names."""
    known = {suite for values in (_loaded(_text_at(root / PARAMS)), *map(merged, names())) for suite in values.get("suites") or ()}
    return sorted(path.parent.name for path in (root / "data" / "raw" / "suites").glob(f"*/{SUITE}") if path.parent.name not in known)


def place(name: str, root: Path) -> Path:
    """The folder of a recipe to be made of the workspace at `root`. Raises UserError for what cannot name one, or names one already."""
    check_name(name, "recipe")
    if not FOLDER.is_relative_to(root):
        raise UserError(f"recipes lie in {FOLDER}, beside the program's code, must lie in this workspace, {root}: work in a clone")
    if (FOLDER / name).exists():
        raise UserError(f"there is a recipe {name!r}: choose another name, or remove models/recipes/{name}")
    return FOLDER / name


def new(name: str, root: Path, about: str) -> Path:
    """Make a recipe of the workspace's params.yaml, and of its dvc.yaml where that is not the default shape; return its folder."""
    folder = place(name, root)
    params, stages = (_text_at(root / file) for file in (PARAMS, SHAPE))
    if stages != shape(DEFAULT):
        write_whole(folder / SHAPE, stages.encode())
    write_whole(folder / PARAMS, (f"# {name}: {' '.join(about.split())}\n#\n" + _without_head(params)).encode())
    return folder


def _text_at(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else ""


def _is_kept(root: Path, file: str, content: str) -> bool:
    """Whether a file's content can be had again: it is empty, git's or a recipe's."""
    return not content or git.holds(root, file) or any(content == (text if file == PARAMS else shape)(name) for name in names())


def _loaded(text: str) -> Any:
    """The mapping in a text; none of a text that is no YAML: all of it is another then."""
    try:
        found = YAML(typ="safe").load(text)
    except Exception:  # whatever stood there is to be overwritten
        return {}
    return found if isinstance(found, dict) else {}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """How two nested mappings differ, a line each: a key that only one has stands for all that is in it."""
    for key in dict.fromkeys([*old, *new]):
        path, before, after = f"{prefix}{key}", old.get(key), new.get(key)
        if key not in new:
            yield f"{path}: taken out"
        elif key not in old:
            yield f"{path}: new, {line(after, SHOWN)}"
        elif isinstance(before, dict) and isinstance(after, dict) and not _is_other_variant(before, after):
            yield from differences(before, after, f"{path}.")
        elif isinstance(before, list) and isinstance(after, list) and before != after and before and after:
            yield f"{path}: " + " ".join([*_only("-", before, after), *_only("+", after, before)] or ["in another order"])
        elif before != after:
            yield f"{path}: {line(before, SHOWN)} -> {line(after, SHOWN)}"


def _only(sign: str, these: Sequence[Any], others: Sequence[Any]) -> list[str]:
    return [f"{sign}{one if isinstance(one, str) else line(one, SHOWN)}" for one in these if one not in others]
