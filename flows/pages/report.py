"""The report of a run, made and kept: in the workspace, and with the run in MLflow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.host.workspace import Workspace
from flows.pages import facts, page
from flows.pages.signs import signs
from flows.registry.decisions import Registry
from models.core.errors import UserError
from models.core.files import read_json, write_json, write_whole

PAGE = "report.html"


def folder(workspace: Workspace) -> Path:
    """Where the report of the last run is."""
    return workspace.state / "report"


def keep(workspace: Workspace, found: Mapping[str, Any]) -> Path:
    """Write the facts and the page; return their folder."""
    place = folder(workspace)
    write_json(place / facts.FILE, found)
    write_whole(place / PAGE, page.render(found).encode())
    return place


def verdict(found: Mapping[str, Any], link: str) -> str:
    """The verdict, what to do next and each suite's outcome, as Markdown."""
    rows = [f"| {suite} | {one['verdict']} | {page.number(one['candidate'])} | {one['reason']} |" for suite, one in found["gate"].items()]
    table = ["| suite | verdict | score | why |", "|---|---|---|---|", *rows] if rows else []
    steps = [f"- {step}" for step in found["next"]]
    steps += [f"- look at {one.section}: {one.said}" for one in signs(found, found["champion"] or {}, "champion")]
    return "\n".join([f"**{found['said']}**", "", *steps, "", *table, *(["", f"[The whole report]({link})"] if link else [])])


def write(workspace: Workspace, found: facts.Facts, other: facts.Facts | None) -> Path:
    """Write the page of these facts, with another version's beside them where there are any; return its path."""
    names = [one["verdict"]["version"] or "none" for one in (found, other) if one]
    path = folder(workspace) / (f"version-{'-beside-'.join(names)}.html")
    write_whole(path, page.render(found, other, "the other").encode())
    return path


def last(workspace: Workspace) -> facts.Facts:
    """The facts of the last run here. Raises UserError where there was none."""
    found = facts.read(folder(workspace))
    if not found:
        raise UserError("no run of this workspace has left a report: 'sluice run' makes one, 'sluice report VERSION' fetches a version's")
    return found


def of(registry: Registry, which: str) -> facts.Facts:
    """The facts of the run that made a version. Raises UserError where none are kept."""
    version = registry.version(which)
    found = facts.of_version(registry, version)
    if not found:
        raise UserError(f"version {version.version} has no report: the run that made it left none, or it was deleted from MLflow")
    return found


if __name__ == "__main__":  # 'make example': the page that the docs show, of the facts beside it
    example = Path("docs/example-report.json")
    write_whole(example.with_suffix(".html"), page.render(read_json(example, {})).encode())
