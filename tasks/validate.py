"""Validate stage: every record kind against what it must look like. Prepare reads its report, to come after it."""

from pathlib import Path

from pydantic import Field

from models.core.errors import StageError, UserError
from models.core.records import read_lines, write_json
from models.data import kinds
from models.data.expectations import Finding, Limits, Tolerance
from tasks.stage import Inputs, Metrics, Outputs, Params, Record, Work

LOADS = ("great_expectations",)  # what its work imports: the warm process does it before those of others


class KindLimits(Record):
    documents: Limits | None = None  # of a kind that is not looked at
    instructions: Limits | None = None
    preferences: Limits | None = None
    prompts: Limits | None = None


class ValidateParams(Params):
    limits: KindLimits
    tolerance: Tolerance


class ValidateInputs(Inputs):
    records: Path


class ValidateOutputs(Outputs):
    validation: Path


class ValidateMetrics(Metrics):
    met: int = Field(description="expectations that hold")
    expectations: int = Field(description="expectations that were checked")
    records: dict[str, int] = Field(description="records read, by kind")
    tolerated: int = Field(description="cases of records outside an expectation that holds for enough others")


def validate(params: ValidateParams, inputs: ValidateInputs, outputs: ValidateOutputs, work: Work) -> ValidateMetrics:
    """Write the report and, to work.reports, the data docs.

    A kind that is not there is passed over: prepare says so where it is needed. Raises UserError where a file is empty or not JSON Lines,
    and, after the docs are written, StageError where an expectation is not met.
    """
    limits = {
        kind: limit for kind in kinds.FIELDS if (limit := getattr(params.limits, kind)) and (inputs.records / f"{kind}.jsonl").is_file()
    }
    records = {kind: list(read_lines(files[kind])) for kind in limits}
    for kind, found in records.items():
        if not found:
            raise UserError(f"{files[kind]} holds no record: there must be {kind}; bring the data in again, or run the stage sources")
    from models.data import expectations

    findings = expectations.check(records, limits, params.tolerance, work.reports)
    _refuse(findings, work.reports)
    counts = {kind: len(found) for kind, found in records.items()}
    write_json(
        outputs.validation, {"records": counts, "expectations": [one.model_dump(mode="json", exclude={"examples"}) for one in findings]}
    )
    return ValidateMetrics(
        met=sum(one.success for one in findings),
        expectations=len(findings),
        records=counts,
        tolerated=sum(one.unexpected for one in findings),
    )


def _refuse(findings: list[Finding], pages: Path) -> None:
    """Raise StageError naming the first unmet expectation, its count and examples, and how many others are unmet."""
    unmet = [one for one in findings if not one.success]
    if not unmet:
        return
    first, others = unmet[0], len(unmet) - 1
    where = f"{first.kind}, {first.column}" if first.column else first.kind
    found = f"{first.unexpected} of {first.checked} unexpected, e.g. {', '.join(first.examples)}"
    more = f"; {others} more unmet" if others else ""
    raise StageError(
        f"{where}: {first.expectation} is not met, {found}{more}: mend the data, or the limits in params.yaml under 'validate'; "
        f"all findings are in {pages / 'index.html'}"
    )
