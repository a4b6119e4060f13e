"""`sluice suite`: benchmarks that are published, and suites of one's own."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.common import Json, here, pairs, say, tell
from flows.host.workspace import Workspace
from models.core.errors import UserError

app = typer.Typer(help="Benchmark suites: published ones, and your own.", no_args_is_help=True, rich_markup_mode=None)
SHOWN = 3  # items
ARTIFACTS, SUITES = "artifacts", "artifacts/suites"
Pairs = Annotated[list[str] | None, typer.Option("--map", help="PART=COLUMN where a column has a name of its own; may come again.")]


@app.command("list")
def list_suites(as_json: Json = False) -> None:
    """The suites that are here, and the benchmarks that can be brought in."""
    from models.score import suite as suites
    from models.score.benchmarks import published

    found, known = suites.here(here().root), published()
    rows = []
    for name in sorted({*found, *known}):
        described = found.get(name) or known.get(name)
        rows.append(
            {
                "suite": name,
                "about": described.about if described else "its files are not here: 'dvc pull'",
                "format": described.format if described else "",
                "licence": described.licence if described else "",
                "here": "yes" if found.get(name) else "no",
                "published": described.published.url if described and described.published else "",
            }
        )
    if as_json:
        say(rows)
        return
    from flows.screen.tables import print_rows

    print_rows("Suites", [{key: value for key, value in row.items() if key != "published"} for row in rows])


@app.command("import")
def import_suite(
    name: Annotated[str, typer.Argument(help="The suite, see 'sluice suite list'.")],
    source: Annotated[str, typer.Option("--from", help="The published file, its folder, or 'hub': where it is published.")],
) -> None:
    """Bring a benchmark into data/raw/suites, once it is known to be the published one."""
    from flows.stages.tracked import importing
    from models.score import benchmarks

    def tell_bytes(done: int, whole: int) -> None:
        tell(f"sluice: {done / 1e6:.1f} MB" + (f" of {whole / 1e6:.1f} MB" if whole else ""))

    if source != benchmarks.HUB and "://" not in source:
        source = os.path.abspath(source)  # of the folder that the user is in
    workspace = here()
    suites = _raw(workspace)
    with importing(workspace, suites / name):
        count = benchmarks.bring(name, source, suites, tell_bytes)
    print(f"{count:,} items of {name} in data/raw/suites/{name}; now 'dvc add data/raw/suites/{name}', 'sluice suite use {name}'")


@app.command("new")
def new_suite(
    name: Annotated[str, typer.Argument(help="What the suite is called.")],
    source: Annotated[
        Path, typer.Option("--from", help="JSON Lines, JSON, CSV, TSV or Parquet, packed or not; or a task file of lm-eval's.")
    ],
    form: Annotated[str, typer.Option("--format", help="choice, exact, math, code, text or labels.")] = "",
    mapped: Pairs = None,
    by: Annotated[str, typer.Option(help="letter or continuation (choice), likelihood or written (labels).")] = "",
    plain: Annotated[bool, typer.Option("--plain", help="Ask without the model's chat template.")] = False,
    answer: Annotated[str, typer.Option(help="How the right choice is told: index, number, letter or text.")] = "",
    metric: Annotated[str, typer.Option(help="Where the format knows several.")] = "",
    positive: Annotated[str, typer.Option(help="The label that f1, precision, recall and auc are of.")] = "",
    data: Annotated[list[str] | None, typer.Option(help="SPLIT=FILE of a task of lm-eval's; may come again.")] = None,
    about: Annotated[str, typer.Option(help="One line about it.")] = "",
    licence: Annotated[str, typer.Option(help="Of its items.")] = "",
    trust: Annotated[bool, typer.Option("--trust", help="Take code from this file without asking.")] = False,
) -> None:
    """Make a suite of your own of a file: write its suite.yaml into data/raw/suites/NAME, and copy the file there."""
    from flows.stages.tracked import importing
    from models.score import authoring
    from models.score import suite as suites

    suites.check_name(name)
    path, files = Path(os.path.abspath(source)), [Path(os.path.abspath(file)) for _, file in pairs(data, "--data", "SPLIT=FILE")]
    given = {"by": by, "answer": answer, "metric": metric, "positive": positive, "about": about, "licence": licence}
    described: dict[str, Any] = {key: value for key, value in given.items() if value}
    if path.suffix in (".yaml", ".yml"):
        splits = {split: Path(file).name for split, file in pairs(data, "--data", "SPLIT=FILE")}
        described |= {"lm_eval": path.name, **({"data": splits} if splits else {})}
    else:
        described = _asked(name, path, form, described | {"chat": not plain}, dict(pairs(mapped, "--map", "PART=COLUMN")))
    _must_trust(path, described, trust)
    workspace = here()
    with importing(workspace, _raw(workspace) / name):
        made, items = authoring.create(name, described, [path, *files], _raw(workspace))
    print(f"{name} is in data/raw/suites/{name}: " + "; ".join(f"{what} {much}" for what, much in authoring.facts(made, items)))
    print(
        f"'sluice suite show {name}' prints three items as a model will see them, 'sluice suite use {name}' has it scored and gated; "
        f"keep it with 'dvc add data/raw/suites/{name}'"
    )


def _asked(name: str, path: Path, form: str, described: dict[str, Any], mapped: dict[str, str]) -> dict[str, Any]:
    """What suite.yaml says of a file of rows."""
    from models.core.given import require_file
    from models.score import authoring

    require_file(path, "name the file with the items, or a task file of lm-eval's")
    found = authoring.describe(name, path, form, described, mapped)
    if found["format"] == "choice":
        found = {"format": "choice", "by": found.pop("by", "continuation"), **found}
        if found["by"] == "continuation":
            found.setdefault("metric", "accuracy-per-character")
    if found["format"] in ("text", "code"):
        found["chat"] = False  # a text is foreseen and a program gone on with as they stand
    return found


def _must_trust(path: Path, described: dict[str, Any], trust: bool) -> None:
    """Ask before code is taken that will run outside the sandbox."""
    is_task = "lm_eval" in described
    if trust or not (described.get("format") == "code" or (is_task and b"!function" in path.read_bytes())):
        return
    what = "a task's own Python runs" if is_task else "the tests of a code suite are programs that run"
    question = f"{what} outside the sandbox, with your rights: do you trust {path}?"
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        agreed = False
        tell("")
    if not agreed:
        raise UserError(f"{path} is not trusted: nothing was changed; read it, then answer yes, or say --trust")


@app.command("use")
def use_suite(
    name: Annotated[str, typer.Argument(help="A suite that is here.")],
    margin: Annotated[
        float | None, typer.Option(min=0.001, max=0.999, help="The largest loss that is none; without it, what its items can decide.")
    ] = None,
) -> None:
    """Name a suite in params.yaml: every model is scored on it, and the gate asks that none gets worse on it."""
    from flows.stages import naming
    from models.score import harness
    from models.score import suite as suites

    suites.check_name(name)
    workspace = here()
    size = len(harness.read(_folder(workspace, name)))
    print("\n".join(naming.name_suite(workspace.root, name, size, margin)))


def _folder(workspace: Workspace, name: str) -> Path:
    """Where a suite lies. Raises UserError where it is not here."""
    from models.score import suite as suites

    found = next((place / name for place in (_raw(workspace), workspace.root / SUITES) if (place / name).is_dir()), None)
    if found is None:
        raise UserError(
            f"no suite {name!r} is here; there are: {', '.join(suites.here(workspace.root)) or 'none'}; see 'sluice suite list'"
        )
    return found


@app.command("show")
def show_suite(
    name: Annotated[str, typer.Argument(help="A suite in data/raw/suites, or one that the world made.")],
    as_json: Json = False,
) -> None:
    """Print items as a model will see them, and what the suite can decide. Of suites whose authors ask so, no text."""
    from flows.stages.parameters import load
    from models.score import authoring, harness, items
    from models.score import suite as suites
    from tasks.gate.verdicts import reach

    suites.check_name(name)
    workspace = here()
    folder = _folder(workspace, name)
    described, suite_items = suites.load(folder), harness.read(folder)
    params = load(workspace.params_file)
    margin = reach(len(suite_items), (params.get("gate") or {}).get("alpha", 0.05))
    leaked, looked = _leaked(workspace, items.texts(described, suite_items), params)
    found = {
        **dict(authoring.facts(described, suite_items)),
        "can decide": f"a margin of {margin:.2f}",
        "in training data": f"{len(leaked)} of {len(suite_items)} items, looked for in {looked}"
        if looked
        else "not known: no training text is here",
    }
    if as_json:
        say({"suite": name, **found, "leaked": sorted(leaked)})
        return
    print("\n".join([f"{name}: {described.about}".rstrip(": "), *(f"  {what:18}{much}" for what, much in found.items())]))
    from models.score.preview import preview  # torch and lm-eval load here

    tokenizer = workspace.root / ARTIFACTS / str(params.get("candidate"))
    for line in preview(folder, described, suite_items, tokenizer if (tokenizer / "tokenizer_config.json").is_file() else None, SHOWN):
        print(line)


def _leaked(workspace: Workspace, texts: Iterable[tuple[str, str]], params: dict[str, Any]) -> tuple[set[str], str]:
    """The items that training text holds, and where it was looked for: in what was prepared, else in what lies in data/raw."""
    from models.core.given import read_lines
    from models.data import decontaminate, kinds
    from tasks.sources import record_files

    prepared, raw = workspace.root / ARTIFACTS / "prepared", workspace.root / "data" / "raw"
    files = [(kind, path) for kind in kinds.FIELDS if (path := prepared / kind / "train.jsonl").is_file()]
    files = files or [(kind, path) for kind in kinds.FIELDS for path in record_files(raw, kind) if path.is_file()]
    sizes = params.get("contamination") or {"ngram_words": 13, "min_words": 8}
    benchmark = decontaminate.Benchmark(texts, sizes["ngram_words"], sizes["min_words"])
    found: set[str] = set()
    for kind, path in files:
        for record in read_lines(path):
            if not kinds.is_broken(kind, record):
                found |= benchmark.hits([text for _, text in kinds.texts(kind, record)])
    return found, ", ".join(path.relative_to(workspace.root).as_posix() for _, path in files)


def _raw(workspace: Workspace) -> Path:
    return workspace.root / "data" / "raw" / "suites"
