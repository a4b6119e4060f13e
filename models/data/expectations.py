"""What every record kind must look like, checked by Great Expectations: the only module that imports it.

Data docs show lengths, roles and ids, never a record's text: the expectations read columns that are derived from the text.
"""

import html
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from models.core.records import Record
from models.data import kinds

EXAMPLES = 3


class Limits(Record):
    """What one record kind must hold."""

    min_records: int = Field(ge=1, description="fewer records stop the pipeline")
    min_characters: int = Field(ge=0, description="of all texts of a record together")
    max_characters: int = Field(ge=1, description="of all texts of a record together")

    @model_validator(mode="after")
    def limits_are_in_order(self) -> "Limits":
        if self.min_characters > self.max_characters:
            raise ValueError(f"min_characters is {self.min_characters}, must not be above max_characters, {self.max_characters}")
        return self


class Tolerance(Record):
    """The share of records that must meet an expectation; prepare drops the others, counted. Ids are never tolerated."""

    complete: float = Field(gt=0, le=1, description="records with every field, of the right type")
    filled: float = Field(gt=0, le=1, description="records without an empty text")
    length: float = Field(gt=0, le=1, description="records within the limits of characters")
    roles: float = Field(gt=0, le=1, description="records whose roles are system, user, assistant, in alternation")
    answers_differ: float = Field(gt=0, le=1, description="preferences whose chosen answer is not the rejected one")


class Finding(Record):
    """One expectation on one kind, and what came of it."""

    kind: str
    expectation: str
    column: str | None
    success: bool
    checked: int
    unexpected: int
    examples: tuple[str, ...]


AllRecords = Mapping[str, Sequence[Mapping[str, Any]]]


def check(records: AllRecords, limits: Mapping[str, Limits], tolerance: Tolerance, pages: Path) -> list[Finding]:
    """Return what came of every expectation, and write the data docs as pages that need no network.

    System messages that say nothing count as none. `records` and `limits` are keyed by record kind. The findings are the same for equal
    records; the pages hold the time.
    """
    shutil.rmtree(pages, ignore_errors=True)  # the pages of an earlier try
    context = _context(pages)
    findings: list[Finding] = []
    for kind, raw in records.items():
        found = [kinds.without_empty_system(kind, record) for record in raw]
        findings += _run(context, kind, found, _suite(kind, found, limits[kind], tolerance))
    _make_offline(pages, findings)
    return findings


def _context(pages: Path) -> Any:
    """An in-memory context with one site under `pages`, without analytics and progress bars."""
    import great_expectations
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults, ProgressBarsConfig

    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(pages)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    return great_expectations.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
            data_docs_sites={"records": site},
        ),
    )


def _suite(kind: str, records: Sequence[Mapping[str, Any]], limits: Limits, tolerance: Tolerance) -> list[Any]:
    """The expectations of one kind; those on a column that no record has are left out, its absence being one of them."""
    from great_expectations import expectations as gx

    suite: list[Any] = [gx.ExpectTableRowCountToBeBetween(min_value=limits.min_records)]
    for field in kinds.FIELDS[kind]:
        suite.append(gx.ExpectColumnToExist(column=field))
        if any(field in record for record in records):
            mostly = 1.0 if field == "id" else tolerance.complete
            of_type = "list" if field in kinds.CONVERSATIONS else "str"
            suite.append(gx.ExpectColumnValuesToNotBeNull(column=field, mostly=mostly))
            suite.append(gx.ExpectColumnValuesToBeOfType(column=field, type_=of_type, mostly=mostly))
            if field == "id":
                suite.append(gx.ExpectColumnValuesToBeUnique(column=field))
            if field in kinds.CONVERSATIONS:
                pattern = f"^{kinds.CONVERSATIONS[field]}$"
                suite.append(gx.ExpectColumnValuesToMatchRegex(column=f"{field}: roles", regex=pattern, mostly=tolerance.roles))
    suite.append(gx.ExpectColumnValuesToBeBetween(column="shortest text", min_value=1, mostly=tolerance.filled))
    length = {"min_value": limits.min_characters, "max_value": limits.max_characters}
    suite.append(gx.ExpectColumnValuesToBeBetween(column="characters", mostly=tolerance.length, **length))
    if kind == "preferences":
        suite.append(gx.ExpectColumnValuesToBeInSet(column="answers", value_set=["differ"], mostly=tolerance.answers_differ))
    return suite


def _run(context: Any, kind: str, records: Sequence[Mapping[str, Any]], suite: Sequence[Any]) -> list[Finding]:
    """Run a kind's suite as one checkpoint, which adds its pages to the data docs."""
    import great_expectations as gx
    import pandas

    asset = context.data_sources.add_pandas(f"raw {kind}").add_dataframe_asset(kind)
    definition = gx.ValidationDefinition(
        name=kind,
        data=asset.add_batch_definition_whole_dataframe("all"),
        suite=context.suites.add(gx.ExpectationSuite(name=kind, expectations=list(suite))),
    )
    checkpoint = gx.Checkpoint(
        name=kind,
        validation_definitions=[context.validation_definitions.add(definition)],
        actions=[gx.checkpoint.UpdateDataDocsAction(name="pages", site_names=["records"])],
        result_format={
            "result_format": "SUMMARY",
            "unexpected_index_column_names": ["record"],
            "partial_unexpected_count": EXAMPLES,
        },
    )
    rows = [_row(kind, record, number) for number, record in enumerate(records, 1)]
    outcome = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": pandas.DataFrame(rows, dtype=object)})
    (result,) = outcome.run_results.values()
    names = tuple(row["record"] for row in rows[:EXAMPLES])
    return [_finding(kind, one, len(rows), names) for one in result.results]


def _row(kind: str, record: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The record's own fields and what the expectations read: its name, its roles and lengths."""
    row = {field: record[field] for field in kinds.FIELDS[kind] if field in record}
    for field in kinds.CONVERSATIONS:
        if field in record:
            row[f"{field}: roles"] = kinds.roles(record[field])
    lengths = None if kinds.is_broken(kind, record) else [len(text.strip()) for _, text in kinds.texts(kind, record)]
    row["record"] = kinds.name_of(record, number)
    row["shortest text"] = lengths and min(lengths)  # None is not counted: what is broken has met its own expectation
    row["characters"] = lengths and sum(lengths)
    if kind == "preferences":
        row["answers"] = "equal" if record.get("chosen") == record.get("rejected") else "differ"
    return row


def _finding(kind: str, one: Any, records: int, names: tuple[str, ...]) -> Finding:
    """What came of one expectation; one on the whole table counts 1 where unmet, and names the first records."""
    of_table = "unexpected_count" not in one.result
    unexpected = int(not one.success) if of_table else int(one.result["unexpected_count"])
    examples = () if of_table else tuple(str(found["record"]) for found in one.result.get("partial_unexpected_index_list", ()))
    return Finding(
        kind=kind,
        expectation=one.expectation_config.type,
        column=one.expectation_config.kwargs.get("column"),
        success=bool(one.success),
        checked=records,
        unexpected=unexpected,
        examples=examples or (() if one.success else names),
    )


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1.5rem; color: #1f2430; background: #fff; }
table { border-collapse: collapse; margin: .5rem 0; } td, th { border: 1px solid #d5d9e2; padding: .3rem .7rem; text-align: left; }
a { color: #1a56b0; } .alert { background: #f1f3f7; padding: .6rem 1rem; border-radius: .3rem; } ul { padding-left: 1.2rem; }
.met, .text-success { color: #11703a; } .unmet, .text-danger { color: #b3261e; } .sticky { position: static; } .badge { padding: 0 .3rem; }
.fa-check-circle::before { content: "met"; } .fa-times::before { content: "unmet"; } .fa-exclamation-triangle::before { content: "error"; }
.card:not(.d-none), a[data-toggle=collapse] { display: none; }
@media (prefers-color-scheme: dark) { body { color: #e4e7ee; background: #181b22; } .alert { background: #262b36; } a { color: #8ab4f8; }
  td, th { border-color: #3a404d; } .met, .text-success { color: #6fce95; } .unmet, .text-danger { color: #ff8a80; } }
"""
"""Replaces the style sheets that Great Expectations loads from four hosts, puts words for icons, and hides buttons that need scripts."""


def _make_offline(pages: Path, findings: Iterable[Finding]) -> None:
    """Take out of the data docs whatever a page would load, and write an index that is a plain table.

    The index of Great Expectations is filled by scripts from other hosts; without them it is empty.
    """
    shutil.rmtree(pages / "static", ignore_errors=True)  # 4 MB of logos and fonts that nothing shows any more
    for page in pages.rglob("*.html"):
        page.write_text(_offline(page.read_text(encoding="utf-8")), encoding="utf-8")
    (pages / "index.html").write_text(_index(pages, findings), encoding="utf-8")


def _offline(page: str) -> str:
    """The page with our style and without scripts, style sheets, images and links that leave it."""
    page = re.sub(r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*>|<style\b.*?</style>", "", page, flags=re.DOTALL)
    page = re.sub(r'(<a\b[^>]*?)\shref="(?:https?:)?//[^"]*"', r"\1", page)
    return page.replace("</head>", f"<style>{STYLE}</style></head>", 1)


def _index(pages: Path, findings: Iterable[Finding]) -> str:
    """One row an expectation, the unmet ones first, each kind linked to its page."""
    links = {page.relative_to(pages).parts[1]: page.relative_to(pages).as_posix() for page in pages.glob("validations/**/*.html")}
    rows = []
    for one in sorted(findings, key=lambda one: one.success):
        link = f'<a href="{html.escape(links[one.kind])}">{one.kind}</a>' if one.kind in links else one.kind
        state = "met" if one.success else "unmet"
        cells = [link, html.escape(one.column or ""), one.expectation, str(one.checked), str(one.unexpected)]
        cells += [html.escape(", ".join(one.examples)), f'<b class="{state}">{state}</b>']
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = "".join(f"<th>{head}</th>" for head in ("kind", "column", "expectation", "records", "unexpected", "for example", "state"))
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="UTF-8"><title>Validation</title><style>{STYLE}</style></head><body>'
        f"<h1>Validation</h1><table><tr>{heads}</tr>{''.join(rows)}</table></body></html>\n"
    )
