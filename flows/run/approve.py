"""The flow `approve`: a person decides about a version in the Prefect page. It waits without a process, over any restart."""

from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import Field

from flows.host.failures import told
from flows.host.masking import masked
from flows.host.workspace import find, prepare_environment
from flows.registry import record, release
from flows.registry.decisions import registry_of
from flows.registry.record import CHAMPION, Decision
from flows.stages.session import Session
from models.core.errors import UserError
from tasks.gate.verdicts import GateResult

PATIENCE_S = 30 * 86400


class Approval(RunInput):
    """What the reviewer says; all of it is kept on record."""

    who: str = Field(min_length=1, description="your name")
    why: str = Field(min_length=1, description="what you looked at, and what decided")
    approve: bool = Field(description="true makes the version champion; false refuses it, on record too")


@flow(name="approve", persist_result=True)
@told()
def approve(version: int) -> Any:
    """Show the gate's comparison with the champion, wait for a person, then promote or refuse.

    Begun again when the person has answered, it repeats only what can be repeated: where the champion has moved meanwhile, the comparison
    is another one, and it asks again. Raises UserError where there is no such version.
    """
    workspace = find()
    prepare_environment(workspace)
    session = Session.reading(workspace)
    registry = registry_of(workspace, session.params)
    registry.settle()
    number, mine = str(registry.version(str(version)).version), f"prefect:{flow_run.id}"
    decided = next((run for run in registry.decisions() if run.data.tags.get("sluice.pipeline_run") == mine), None)
    if decided is not None:  # a crash after the decision
        return Completed(message=f"{decided.data.tags['sluice.verdict']}: {decided.data.tags['sluice.reason']}")
    champion = registry.at(CHAMPION)
    seen = None if champion is None else str(champion.version)
    if seen == number:
        raise UserError(f"version {number} is champion already: there is nothing to approve")
    found = release.compare(session, registry, number, champion)
    shown = masked(_comparison(number, seen, found.result))
    create_markdown_artifact(markdown=shown, key="approval", description="What the reviewer decides on")
    asked = Approval.with_initial_data(description=shown, approve=False)
    said = suspend_flow_run(wait_for_input=asked, key=f"approve-{number}-{seen}", timeout=PATIENCE_S)
    reason = masked(f"{said.who}: {said.why}")
    get_run_logger().info("version %s: %s, %s", number, "approved" if said.approve else "rejected", reason)
    if said.approve:
        registry.promote(number, seen, "approved", reason, mine, found.result, found.items)
        return Completed(message=f"approved: {reason}")
    with registry.lock():
        registry.put_on_record(Decision(record.REJECTED, reason, "", number, seen), mine, found.result, found.items)
    return Completed(name="Rejected", message=f"rejected: {reason}")


def _comparison(version: str, champion: str | None, result: GateResult) -> str:
    """The gate's verdict as the reviewer reads it; no question or answer is in it."""
    lines = [
        f"## Version {version} against {f'version {champion}' if champion else 'no champion'}",
        "",
        f"**{result.decision}**: {result.reason}",
    ]
    lines += ["", "| suite | verdict | why |", "|---|---|---|", *(f"| {v.suite} | {v.verdict} | {v.reason} |" for v in result.suites)]
    return "\n".join(lines)
