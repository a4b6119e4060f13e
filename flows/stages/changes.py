"""What `dvc status` says of one stage, a change at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Change:
    """Why a stage must run, in words; `dep` is the path of a dep that is here and has another content than on record."""

    text: str
    dep: str = ""


def changes_of(entries: Sequence[Any]) -> Iterator[Change]:
    """The changes in a stage's entry: words, or {"changed deps": {path: state}}, where params have a state each."""
    for entry in entries:
        if isinstance(entry, str):
            yield Change(entry)
            continue
        for kind, paths in entry.items():
            for path, state in paths.items():
                yield _change(kind.removeprefix("changed ").removesuffix("s"), path, state)


def _change(kind: str, path: str, state: Any) -> Change:
    if isinstance(state, dict):
        return Change(f"{kind} {path} ({', '.join(f'{key} {change}' for key, change in state.items())})")
    return Change(f"{kind} {state}: {path}", path if kind == "dep" and state in ("modified", "new") else "")
