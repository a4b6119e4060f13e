"""docs/params.md: every key of params.yaml, what it may be and what it is, from the classes that check it."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.stages.pipeline import bindings, task_contract
from flows.stages.recipes import FOLDER, SHAPE
from models.core.files import write_whole
from tasks.gate.verdicts import Policy

PAGE = "docs/params.md"
HEAD = """# params.yaml

Every number of the pipeline, by section; a stage reads its own section and the keys at the top that `dvc.yaml` lists for it. `make wire`
makes this page of the classes that check the file. A key that is not here is refused, with the nearest that is. A stage of another name
has the keys of its task.
"""
TOP = {
    "model": ("text", "the registered model's name"),
    "models": ("list of text", "the models that are scored on every suite, each made by a stage of dvc.yaml"),
    "candidate": ("text", "the one of them that is offered to the gate"),
    "prices": ("mapping of number, or not there", "by pool what an hour costs, in any currency: the report says what a run cost"),
}
ABOUT = {"seed": "what all random choices of the stages follow from"}
BOUNDS = (("exclusiveMinimum", "above {}"), ("minimum", "at least {}"), ("exclusiveMaximum", "below {}"), ("maximum", "at most {}"))
WORDS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null", "array": "list"}


def page(tasks: Mapping[str, str]) -> str:
    """The page, for tasks with the first line of what each does."""
    schemas = {task: task_contract(task).params.model_json_schema() for task in tasks}
    shared = _shared(schemas)
    top = [_row(key, words, about) for key, (words, about) in TOP.items()]
    top += [_row(key, _words(*schema), ABOUT.get(key, schema[0].get("description", ""))) for key, schema in sorted(shared.items())]
    parts = [HEAD, "## At the top\n", *_table(top)]
    for task, about in tasks.items():
        own = {key: value for key, value in schemas[task]["properties"].items() if key not in shared}
        parts += [f"\n## {task}\n", f"{about}\n", *_table(_rows(own, schemas[task].get("$defs", {})))]
    policy = Policy.model_json_schema()
    parts += ["\n## gate\n", "What a version must show to become champion.\n"]
    return "\n".join([*parts, *_table(_rows(policy["properties"], policy["$defs"]))]) + "\n"


def _shared(schemas: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys that stand at the top of params.yaml, because several stages read them."""
    held = [(schema["properties"], schema.get("$defs", {})) for schema in schemas.values()]
    return {key: (keys[key], defs) for key in ("seed", "pretrained", "suites") for keys, defs in held if key in keys}


def _table(rows: list[str]) -> list[str]:
    return ["| key | may be | is |", "|---|---|---|", *rows]


def _row(key: str, words: str, about: str) -> str:
    return f"| `{key}` | {words} | {about.replace('|', '/')} |"


def _rows(properties: Mapping[str, Any], defs: Mapping[str, Any], prefix: str = "") -> list[str]:
    return [row for key, schema in properties.items() for row in _of_key(f"{prefix}{key}", schema, defs)]


def _of_key(key: str, schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Iterator[str]:
    """The lines of one key, and of those below it."""
    about = schema.get("description", "")
    found = [_resolved(one, defs) for one in _alternatives(schema)]
    records = [one for one in found if "properties" in one]
    if not records:
        below = _resolved(schema.get("additionalProperties") or {}, defs) if isinstance(schema.get("additionalProperties"), dict) else {}
        yield _row(key, _words(schema, defs), about)
        if "properties" in below:
            yield from _rows(below["properties"], defs, f"{key}.NAME.")
        return
    if len(records) == 1 and "discriminator" not in schema:
        yield _row(key, "section, or null" if len(found) > 1 else "section", about or _first(records[0]))
        yield from _rows(records[0]["properties"], defs, f"{key}.")
        return
    yield _row(key, "one of the following", about)
    for record in records:
        tag, words = next((name, _tags(one)) for name, one in record["properties"].items() if _tags(one))
        yield _row(f"{key}: {{{tag}: {words}}}", "", _first(record))
        yield from _rows({name: one for name, one in record["properties"].items() if name != tag}, defs, f"{key}.")


def _tags(schema: Mapping[str, Any]) -> str:
    """The words by which a record of a union is told; "" for a field that is no tag."""
    return str(schema.get("const") or ", ".join(map(str, schema.get("enum", ()))))


def _alternatives(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = schema.get("oneOf") or schema.get("anyOf") or [schema]
    return found


def _resolved(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = defs[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return found


def _first(record: Mapping[str, Any]) -> str:
    """What a class says of itself, in its first sentence, where it says it itself."""
    return str(record.get("description", "")).partition("\n")[0]


def _words(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    """What a value may be."""
    return ", or ".join(_word(_resolved(one, defs), defs) for one in _alternatives(schema))


def _word(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f"`{one}`" for one in schema["enum"])
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties")
        return f"NAME: {_words(inner, defs)}" if isinstance(inner, dict) and "$ref" not in inner else "section by NAME"
    bounds = [text.format(schema[key]) for key, text in BOUNDS if key in schema]
    multiple = [f"a multiple of {schema['multipleOf']}"] if "multipleOf" in schema else []
    items = [f"of {_words(schema['items'], defs)}"] if "items" in schema else []
    return " ".join([WORDS[schema["type"]], *items, ", ".join(bounds + multiple)]).strip()


def tasks_of(root: Path) -> dict[str, str]:
    """The tasks of all recipes in the order of their pipelines, with what dvc.yaml says of each."""
    from ruamel.yaml import YAML

    found: dict[str, str] = {}
    for path in sorted(FOLDER.glob(f"*/{SHAPE}"), key=lambda path: (path.parent.name != "tiny", path)):
        for name, stage in YAML(typ="safe").load((root / path).read_text(encoding="utf-8"))["stages"].items():
            if bindings(str(stage["cmd"]).split()).get("task", name) == name:
                found.setdefault(name, stage["desc"])
    return found


def write(root: Path) -> bool:
    """Write the page; return whether it was another before."""
    text, path = page(tasks_of(root)), root / PAGE
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_whole(path, text.encode())
    return True


if __name__ == "__main__":
    print(f"{PAGE}: {'made anew' if write(Path.cwd()) else 'as it was'}", file=sys.stderr)
