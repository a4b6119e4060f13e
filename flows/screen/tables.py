"""What a run leaves for people: the table of stages, the table of scores, the verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.host.masking import masked
from flows.stages.attempt import StageResult
from flows.stages.pipeline import Pipeline, read_metrics
from tasks.gate.early import EarlyResult
from tasks.gate.verdicts import GateResult, SuiteVerdict


def score_rows(pipeline: Pipeline) -> list[dict[str, str]]:
    """One row a model, one column a suite: "0.742 ± 0.028 (n 240)"; "unavailable" where a suite could not be run."""
    rows: dict[str, dict[str, str]] = {}
    for cell in pipeline.cells:
        row = rows.setdefault(cell.model, {"model": cell.model})
        row[cell.suite] = score_text(read_metrics(pipeline.workspace.root, cell.stage))
    return [rows[model] for model in sorted(rows, key=list(rows).index)]


def scores(pipeline: Pipeline) -> dict[str, Any]:
    """Every model's score on every suite, as nested numbers for MLflow: MODEL-SUITE.value."""
    return {f"{cell.model}-{cell.suite}": read_metrics(pipeline.workspace.root, cell.stage) for cell in pipeline.cells}


def score_text(metrics: Mapping[str, Any]) -> str:
    """Value, standard error and n of a score, as people read it; one item has no standard error."""
    if not metrics:
        return "not run"
    if metrics["value"] is None:
        return "unavailable"
    error = "" if metrics["stderr"] is None else f" ± {metrics['stderr']:.3f}"
    return f"{metrics['value']:.3f}{error} (n {metrics['n']})"


def stage_rows(results: Sequence[StageResult]) -> list[dict[str, str]]:
    """One row a stage: ran / restored / unchanged, seconds, main metric."""
    return [
        {
            "stage": result.name,
            "state": result.state,
            "seconds": f"{result.seconds:.1f}" if result.seconds else "",
            "main metric": result.metric,
        }
        for result in results
    ]


def print_gate(result: GateResult) -> None:
    """The verdict on each suite, the health of its answers, and raw answers of evaluations that are broken."""
    print_rows("Gate", [{"suite": v.suite, "verdict": v.verdict, "anchor": _anchor(v), "reason": v.reason} for v in result.suites])
    print_rows("Health of the answers", [_health(v) for v in result.suites if v.health])
    for verdict in result.suites:
        if verdict.verdict == "invalid" and verdict.health:
            print(f"{verdict.suite}, raw answers:")
            for item, answer in verdict.health.examples:
                print(f"  {item}  {answer!r}")


def anchor_text(standing: Mapping[str, Any]) -> str:
    """Which version is a suite's anchor, how often candidates were held against it, and how far champion has drifted from it."""
    drift, looks = standing["drift"], standing["looks"]
    seen = "champion's drift from it: not measured until the next gate"
    if drift is not None:
        seen = f"champion's drift from it: {drift[0]:+.3f}, {drift[1]:+.3f} to {drift[2]:+.3f}" if any(drift) else "the champion itself"
    return f"version {standing['version']}, {looks} look{'s' * (looks != 1)}; {seen}"


def print_early(result: EarlyResult) -> None:
    """What was shown on each suite, and after how many items."""
    print_rows(
        "Early decision",
        [
            {"suite": v.suite, "verdict": v.verdict, "asked": f"{v.used} of {v.items}", "gained": str(v.gained), "lost": str(v.lost)}
            | {"reason": v.reason}
            for v in result.suites
        ],
    )


def _anchor(verdict: SuiteVerdict) -> str:
    anchor = verdict.anchor
    return "" if anchor is None else f"v{anchor.version} {anchor.difference:+.3f}, {anchor.lower:+.3f} to {anchor.upper:+.3f}"


def _health(verdict: SuiteVerdict) -> dict[str, str]:
    found = verdict.health
    assert found is not None
    letters = " ".join(f"{letter} {count}" for letter, count in found.letters.items())
    leaked = verdict.n - verdict.clean_n
    return {
        "suite": verdict.suite,
        "n": str(found.items),
        "unreadable": str(found.extraction_failed + found.not_loaded),
        "empty": str(found.empty),
        "cut": str(found.truncated),
        "repeated": str(found.repeated),
        "timeouts": str(found.timeouts),
        "answers": letters or f"median {found.median_length or 0:g} characters",
        "leaked": str(leaked),
    }


def print_rows(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows as a table; every row has the first row's columns."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for column in rows[0]:
        table.add_column(
            column, justify="right" if column == "seconds" else "left", overflow="fold", no_wrap=column in ("stage", "state", "model")
        )
    for row in rows:
        table.add_row(*(masked(row.get(column, "")) for column in rows[0]))
    console = Console()
    Console(width=None if console.is_terminal else 130).print(table)
