"""`sluice status`: the champion, the aliases, the last run."""

import json
from typing import Any

from flows.host import spool
from flows.host.masking import masked
from flows.registry.decisions import Registry
from flows.registry.record import CHAMPION
from flows.screen import tables
from models.core.files import read_json


def status(registry: Registry) -> dict[str, Any]:
    """The whole state as plain values, for --json."""
    champion = registry.at(CHAMPION)
    workspace = registry.tracker.workspace
    return {
        "model": registry.name,
        "tracking_uri": masked(registry.tracker.uri),
        "champion": champion
        and {
            "version": str(champion.version),
            "model_md5": champion.tags.get("sluice.model_md5"),
            "run_id": champion.run_id,
            "scores": json.loads(champion.tags.get("sluice.scores", "{}")),
        },
        "aliases": registry.aliases(),
        "anchors": {suite: standing.model_dump(mode="json") for suite, standing in registry.standings().items()},
        "last_run": read_json(workspace.state / "last_run.json", None),
        "waiting": spool.waiting(workspace),
    }


def describe(found: dict[str, Any]) -> str:
    """The same for people."""
    champion = found["champion"]
    lines = [f"model     {found['model']}  ({found['tracking_uri']})"]
    if champion:
        lines.append(f"champion  version {champion['version']}, md5 {champion['model_md5']}")
        lines += [f"score     {suite} {tables.score_text(score)}" for suite, score in champion["scores"].items()]
        lines += [f"anchor    {suite} {tables.anchor_text(standing)}" for suite, standing in found["anchors"].items()]
    else:
        lines.append("champion  none yet: 'sluice run' makes the first")
    lines.append("aliases   " + (", ".join(f"{alias} -> {number}" for alias, number in sorted(found["aliases"].items())) or "none"))
    if found["last_run"]:
        states = [stage["state"] for stage in found["last_run"]["stages"]]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        lines.append(f"last run  {counts}, {found['last_run']['seconds']:.0f} s")
    lines += [f"waiting   {line}" for line in spool.describe(found["waiting"])]
    return "\n".join(lines)
