"""What a crash may leave half-written by DVC, put right: dvc.lock and its table of running commands, both rewritten in place.

A run keeps a copy of the last whole dvc.lock, and drops it when it ends by itself. Where a run finds one, the last run was killed: a
dvc.lock that is cut off is replaced by the copy. The stage that was being written down is then restored from DVC's run-cache or repeated;
no other is. Cut off is what DVC leaves that was killed while it wrote: the beginning of the copy, with one entry's change. What git holds,
or a whole file that differs in more than that, was put there by somebody since (a branch was changed), and stays.
"""

import json
import threading
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.host import git
from flows.host.workspace import Workspace
from flows.stages import warm
from models.core.files import write_whole

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
    kept, text = _read(copy) or b"", _read(lock)
    if text is not None and is_cut_off(kept, text) and text not in git.committed(workspace.root, "dvc.lock"):
        aside = workspace.state / "dvc.lock.cut"
        write_whole(aside, text)
        if kept:
            write_whole(lock, kept)
        else:
            lock.unlink(missing_ok=True)
        mended.append(f"dvc.lock was cut off when the last run was killed: the last whole one is back, what stood there is {aside}")
    table = workspace.root / ".dvc" / "tmp" / "rwlock"
    if table.is_file() and not _at_work(table):
        table.unlink()
    return mended


def stages(text: bytes) -> dict[str, Any] | None:
    """The entries of a dvc.lock by stage, in its order; None where it is empty, or cut off inside a line or a file's entry."""
    try:
        value: Any = YAML(typ="safe").load(text.decode()) if text.endswith(b"\n") else None
    except (YAMLError, UnicodeDecodeError):
        return None
    entries = value.get("stages") if isinstance(value, dict) else None
    if not isinstance(entries, dict) or not all(map(_is_whole, entries.values())):
        return None
    return {str(name): entry for name, entry in entries.items()}


def _is_whole(entry: Any) -> bool:
    """Whether an entry has its command, and each of its files more than a path."""
    if not isinstance(entry, dict) or "cmd" not in entry:
        return False
    files = [entry.get(kind, []) for kind in ("deps", "outs")]
    return all(isinstance(part, list) and all(isinstance(one, dict) and one.keys() > {"path"} for one in part) for part in files)


def is_cut_off(kept: bytes, text: bytes) -> bool:
    """Whether `text` is what a kill leaves of a `kept` dvc.lock that DVC was rewriting: its beginning, with one entry's change."""
    before, found = stages(kept) or {}, stages(text)
    if found is None:
        return True
    if list(found) != list(before)[: len(found)]:  # DVC puts an entry where it was, or at the end
        return False
    last = next(reversed(found), "")
    shorter = bool(found) and _is_shorter(found[last], before[last])
    changed = sum(entry != before[name] for name, entry in found.items() if not (shorter and name == last))
    return changed <= 1 and (shorter or len(found) < len(before))


def _is_shorter(entry: dict[str, Any], before: dict[str, Any]) -> bool:
    return entry.keys() < before.keys() or len(entry.get("outs", [])) < len(before.get("outs", []))


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
    return b"dvc" in words or warm.SERVER.encode() in words  # the warm process forks DVC for a run's stages


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
