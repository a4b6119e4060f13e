"""What a crash may leave half-written by DVC, put right: dvc.lock and its table of running commands, both rewritten in place.

A run keeps a copy of the last whole dvc.lock, and drops it when it ends by itself. Where a run finds one, the last run was killed: a
dvc.lock that is cut off, or has lost stages that the copy has, is replaced by the copy. The stage that was being written down is then
restored from DVC's run-cache or repeated; no other is.
"""

import json
import threading
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.workspace import Workspace
from models.records import write_whole

_writing = threading.Lock()


def _copy(workspace: Workspace) -> Path:
    return workspace.state / "dvc.lock"


def keep(workspace: Workspace) -> None:
    """Copy dvc.lock as it is, if it is whole: a sibling's DVC may be writing it."""
    with _writing:
        text = _read(workspace.root / "dvc.lock")
        if text is None or stages(text) is not None:
            write_whole(_copy(workspace), text or b"")


def forget(workspace: Workspace) -> None:
    """Drop the copy: this run ended by itself."""
    _copy(workspace).unlink(missing_ok=True)


def mend(workspace: Workspace) -> list[str]:
    """Put right what the last run left, if it was killed; say what. Only the holder of the workspace's lock may."""
    copy, lock = _copy(workspace), workspace.root / "dvc.lock"
    if not copy.is_file():
        return []
    mended = []
    kept, text = stages(_read(copy) or b"") or {}, _read(lock)
    if _is_cut_off(kept, {} if text is None else stages(text)):
        if kept:
            write_whole(lock, copy.read_bytes())
        else:
            lock.unlink(missing_ok=True)
        mended.append("dvc.lock was cut off when the last run was killed: the last whole one is back")
    table = workspace.root / ".dvc" / "tmp" / "rwlock"
    if table.is_file() and not _at_work(table):
        table.unlink()
    return mended


def stages(text: bytes) -> dict[str, Any] | None:
    """The entries of a dvc.lock by stage, in its order; None where it is cut off inside a line."""
    try:
        value: Any = YAML(typ="safe").load(text.decode()) if text.endswith(b"\n") else None
    except (YAMLError, UnicodeDecodeError):
        return None
    entries = value.get("stages") if isinstance(value, dict) else None
    whole = isinstance(entries, dict) and all(isinstance(entry, dict) and "cmd" in entry for entry in entries.values())
    return {str(name): entry for name, entry in entries.items()} if isinstance(entries, dict) and whole else None


def _is_cut_off(kept: dict[str, Any], found: dict[str, Any] | None) -> bool:
    """Cut inside a line, or at a line's end: then stages are gone, or the last one has lost lines."""
    if found is None or kept.keys() - found.keys():
        return True
    last = next(reversed(found), "")
    return last in kept and kept[last] != found[last]


def _at_work(table: Path) -> bool:
    """Whether a DVC command of the table still runs; one that was killed, or whose number is another program's by now, does not."""
    try:
        value = json.loads(table.read_text(encoding="utf-8"))
        entries = [*(one for many in value["read"].values() for one in many), *value["write"].values()]
        return any(_is_dvc(int(entry["pid"])) for entry in entries)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _is_dvc(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()  # empty for the dead that are not buried yet
    except OSError:
        return False
    return b"dvc" in words or b"flows.warm" in words  # the warm process forks DVC for a run's stages


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
