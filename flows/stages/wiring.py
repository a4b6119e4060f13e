"""The code and the packages that a stage can reach, in dvc.yaml: a person writes what a stage is, `make wire` what it is made of."""

import ast
import functools
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML

from flows.stages import packages
from flows.stages.pipeline import bindings
from models.core.files import write_whole

PACKAGES = ("flows", "tasks", "models")
PLAIN = re.compile(r"[\w./-]+")  # what YAML takes for a word
FIRST, WIDTH = "    deps: [", 140


def reached(root: Path, module: str) -> set[str]:
    """The files that importing `module` can load: its own and, transitively, those of the project's modules that it names anywhere.

    A file that a reached one starts as a program counts as well: it stands there as a string, "checker.py", and lies beside it. Packages
    hold nothing but their docstrings.
    """
    found: set[str] = set()
    waiting = [_file(module)]
    while waiting:
        name = waiting.pop()
        path = root / name
        if name in found or not path.is_file():
            continue
        found.add(name)
        modules, programs = _named(path.read_text(encoding="utf-8"))
        waiting += [_file(module) for module in modules if module.split(".")[0] in PACKAGES]
        waiting += [(PurePosixPath(name).parent / text).as_posix() for text in programs]
    return found


def imported(root: Path, files: Iterable[str]) -> set[str]:
    """The top-level modules that these files name in imports, at their head or in a function, and that are neither ours nor Python's."""
    sources = ((root / name).read_text(encoding="utf-8") for name in files)
    names = {module.split(".")[0] for source in sources for module in _named(source)[0]}
    return {name for name in names if name not in PACKAGES and packages.is_foreign(name)}


def _file(module: str) -> str:
    return f"{module.replace('.', '/')}.py"


@functools.cache  # the stages share most of their files, and each is looked at three times a stage
def _named(source: str) -> tuple[frozenset[str], frozenset[str]]:
    """(the modules, the programs) that a file names anywhere, but for what only a type checker reads."""
    nodes = list(_run(ast.parse(source)))
    return frozenset(_imports(nodes)), frozenset(_programs(nodes))


def _run(node: ast.AST) -> Iterable[ast.AST]:
    """The nodes below one that may be run."""
    yield node
    for child in ast.iter_child_nodes(node):
        typed = isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"
        for part in child.orelse if typed else [child]:  # type: ignore[attr-defined]
            yield from _run(part)


def _imports(nodes: Iterable[ast.AST]) -> Iterable[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _programs(nodes: Iterable[ast.AST]) -> Iterable[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".py") and "/" not in node.value:
            yield node.value


def is_code(dep: str) -> bool:
    """Whether a dep is a module of ours, which `wire` writes."""
    return dep.split("/")[0] in PACKAGES and dep.endswith(".py")


def is_lock(dep: str) -> bool:
    """Whether a dep holds pinned packages; `wire` writes that too."""
    return dep == packages.LOCK or (dep.split("/")[0] == packages.FOLDER and dep.endswith(".lock"))


def wired(root: Path, name: str, stage: Mapping[str, Any]) -> list[str]:
    """The deps that a stage must have: the code and packages that it can reach, then what a person wrote; one of no task keeps its own."""
    deps = list(stage.get("deps") or ())
    task = _task(name, stage)
    code = reached(root, f"tasks.{task}")
    return [*sorted(code), _lock(task), *(dep for dep in deps if not (is_code(dep) or is_lock(dep)))] if code else deps


def lock_files(root: Path, tasks: Iterable[str]) -> dict[str, str]:
    """The text of each task's lock file, by path: a file a task and never one for two, so that what one imports moves no other's."""
    pins = packages.pins((root / packages.LOCK).read_text(encoding="utf-8"))
    code = {task: reached(root, f"tasks.{task}") for task in tasks}
    return {_lock(task): packages.cut(pins, imported(root, files)) for task, files in code.items() if files}


def _task(name: str, stage: Mapping[str, Any]) -> str:
    return bindings(str(stage.get("cmd")).split()).get("task", name)


def _lock(task: str) -> str:
    return f"{packages.FOLDER}/{task}.lock"


def wire(root: Path) -> list[str]:
    """Write the code and lock deps of all stages into dvc.yaml and those of the recipes, no other line of them, and the lock files.

    Returns what was another before: stages, those of a recipe as RECIPE/STAGE, and lock files.
    """
    changed, tasks = _wire(root, root / "dvc.yaml")
    for path in sorted((root / "models" / "recipes").glob("*/dvc.yaml")):
        more, others = _wire(root, path)
        changed += [f"{path.parent.name}/{name}" for name in more]
        tasks |= others
    return changed + _write_locks(root, lock_files(root, tasks))


def _wire(root: Path, path: Path) -> tuple[list[str], set[str]]:
    """Wire one dvc.yaml; return the stages that were another before, and the tasks of all."""
    text = path.read_text(encoding="utf-8")
    lines, stages = text.split("\n"), YAML().load(text)["stages"]
    now = {name: wired(root, name, stage) for name, stage in stages.items()}
    changed = [name for name, stage in stages.items() if now[name] != list(stage.get("deps") or ())]
    for name in reversed(changed):  # from below: the lines above keep their numbers
        start, end = _place(stages[name], lines)
        lines[start:end] = _written(now[name])
    if changed:
        path.write_text("\n".join(lines), encoding="utf-8")
    return changed, {_task(name, stage) for name, stage in stages.items()}


def _write_locks(root: Path, texts: Mapping[str, str]) -> list[str]:
    """Make the folder hold these lock files and no other; return those that it did not."""
    old = {f"{packages.FOLDER}/{path.name}": path.read_text(encoding="utf-8") for path in (root / packages.FOLDER).glob("*.lock")}
    changed = sorted(name for name in {*old, *texts} if old.get(name) != texts.get(name))
    for name in changed:
        if name in texts:
            write_whole(root / name, texts[name].encode())
        else:
            (root / name).unlink()
    return changed


def _place(stage: Any, lines: list[str]) -> tuple[int, int]:
    """The lines that a stage's deps take, without the blank ones and comments below."""
    start = stage.lc.key("deps")[0]
    margin = len(lines[start]) - len(lines[start].lstrip())
    end = start + 1
    while end < len(lines) and (not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > margin):
        end += 1
    while not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#"):
        end -= 1
    return start, end


def _written(deps: Iterable[str]) -> list[str]:
    """The deps as lines of YAML, code and the rest apart."""
    parts = [[dep for dep in deps if is_code(dep) == code] for code in (True, False)]
    words = [", ".join(dep if PLAIN.fullmatch(dep) else json.dumps(dep) for dep in part) for part in parts if part]
    width = WIDTH - len(FIRST) - 1
    wrapped = ["\n".join(textwrap.wrap(word, width, break_long_words=False, break_on_hyphens=False)) for word in words]
    return textwrap.indent(",\n".join(wrapped) + "]", " " * len(FIRST)).replace(" " * len(FIRST), FIRST, 1).split("\n")


if __name__ == "__main__":
    print(f"dvc.yaml: {', '.join(wire(Path.cwd())) or 'nothing'} wired anew", file=sys.stderr)
