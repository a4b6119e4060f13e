"""`sluice run` around the flow: its log on the terminal, its result as tables."""

from pathlib import Path

from flows.run.retrain import RunResult, retrain_here
from flows.screen import terminal
from flows.screen.tables import print_gate, print_rows, score_rows, stage_rows
from flows.stages.pipeline import Pipeline
from flows.stages.session import Session
from models.core.errors import SluiceError, StageError


def run(session: Session, log: Path) -> RunResult:
    """Run the flow on an open session, in this process. Raises what made it fail."""
    terminal.attach(log)
    state = retrain_here(session)
    if state.is_cancelled():
        raise StageError("the run was cancelled; finished stages are kept, the next run carries on")
    result = state.result(raise_on_failure=False)
    if isinstance(result, SluiceError | RunResult):
        if isinstance(result, SluiceError):
            raise result
        return result
    raise StageError(f"the run failed: {result}; the whole story is in {log}") from (result if isinstance(result, Exception) else None)


def show(pipeline: Pipeline, result: RunResult, log: Path, seconds: float) -> None:
    """Print the tables of stages and scores, the verdict, the version, and how to look further; `seconds` since the command began."""
    from flows.pages import report  # what draws pages loads when the work is done

    print()
    print_rows("Stages", stage_rows(result.stages))
    print_rows("Scores", score_rows(pipeline))
    if result.gate is not None:
        print_gate(result.gate)
    names = [alias for alias, number in sorted(result.aliases.items()) if number == result.version]
    print(f"verdict   {result.decision}: {result.reason}")
    print(f"version   {result.version}{' (' + ', '.join(names) + ')' if names else ''}")
    workspace = pipeline.workspace
    servers = workspace.servers()
    pages = (
        "  ".join(f"{name} {server['url']}" for name, server in servers.items())
        or "'sluice up' opens the Prefect and MLflow pages, 'sluice down' closes them"
    )
    print(f"pages     {pages}")
    if (page := report.folder(workspace) / report.PAGE).is_file():
        print(f"report    {page.relative_to(workspace.root)}")
    print(f"log       {log.relative_to(workspace.root)}")
    print(f"total     {seconds:.0f} s")
