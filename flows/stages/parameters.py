"""params.yaml, read as DVC reads it and checked against every stage's class at once; and the recipes that fill it."""

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path, PurePosixPath
from types import GenericAlias, UnionType
from typing import Annotated, Any, get_args, get_origin

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.host import failures
from flows.stages.pipeline import Contract, Stage, cells, contract
from models.core.errors import UserError
from models.score import rewards
from models.score import suite as suites
from tasks.gate.verdicts import Policy
from tasks.stage import Params

FLOW_KEYS = {"model", "models", "candidate"}  # top-level keys that no stage reads: the flow does, and dvc.yaml's matrix
PRICES = "prices"  # need not be there: by pool, what an hour costs


def load(path: Path) -> dict[str, Any]:
    """The file's mapping. Raises UserError with the line of a syntax error or a duplicate key."""
    if not os.path.lexists(path):
        raise UserError(f"{path.name} is missing: every number lives there; 'sluice recipe use tiny' writes it")
    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise failures.of_system(error) from None
    except (YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path.name}{where}: not valid YAML ({getattr(error, 'problem', None) or error}); mend the line") from None
    if not isinstance(values, dict):
        raise UserError(f"{path.name}: must map sections to numbers; 'sluice recipe use tiny' writes a good one")
    return values


def stage_params(values: Mapping[str, Any], stage: Stage, stage_contract: Contract) -> Params:
    """The stage's typed params: the keys of its own section, and the top-level values that dvc.yaml lists for it."""
    return stage_contract.params.model_validate(_flat(values, stage))


def _flat(values: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    shared = {section: values[section] for section in stage.sections if section != stage.section and section in values}
    own = values.get(stage.section) or {}
    return {**shared, **own} if isinstance(own, dict) else shared


def check(values: Mapping[str, Any], stages: Iterable[Stage], root: Path, name: str = "params.yaml") -> None:
    """Check every section, against the suites that lie in the project `root`.

    Raises one UserError with a line for each fault: the key, what it is, what it must be, the nearest valid key.
    """
    stages = list(stages)
    for key, does in (
        ("suites", "'sluice suite new NAME --from FILE' makes one, 'sluice suite use NAME' names it"),
        ("models", "name the candidate"),
    ):
        if values.get(key) == []:  # dvc.yaml's matrix has no cell then: nothing else that would be said is true
            raise UserError(f"{name}: {key} names none, and nothing would be scored: {does}")
    first_of_section = {stage.section: stage for stage in reversed(stages)}
    faults: list[str] = []
    known = FLOW_KEYS | {"gate"} | {section for stage in first_of_section.values() for section in stage.sections}
    faults += [_unknown(name, str(key), known, "") for key in values if key not in known | {PRICES}]
    faults += [f"{name}: {key} is missing; 'sluice recipe show tiny' prints the default" for key in sorted(known - set(values))]
    for section, stage in sorted(first_of_section.items()):
        if section in values:
            faults += _faults(name, section, contract(stage).params, _flat(values, stage), set(stage.sections) - {section})
    if "gate" in values:
        faults += _faults(name, "gate", Policy, values["gate"], set())
    if not isinstance(values.get("model", ""), str) or values.get("model") == "":
        faults.append(f"{name}: model is {values['model']!r}: must be the registered model's name, e.g. assistant")
    faults += [
        *_price_faults(values, stages, name),
        *_suite_faults(values, stages, root, name),
        *_policy_faults(values, stages, root, name),
        *_model_faults(values, stages, name),
        *_function_faults(values, stages, root, name),
    ]
    if faults:
        raise UserError("\n".join(dict.fromkeys(faults)))


def _price_faults(values: Mapping[str, Any], stages: Sequence[Stage], name: str) -> Iterable[str]:
    """Prices are numbers by pool."""
    prices, pools = values.get(PRICES) or {}, sorted({stage.pool for stage in stages})
    if not isinstance(prices, dict):
        yield f"{name}: {PRICES} is {prices!r}, must say by pool what an hour costs, e.g. {{{pools[0]}: 0.1}}"
        return
    for pool, price in prices.items():
        if pool not in pools:
            yield f"{name}: {PRICES}.{pool}: no stage of dvc.yaml has that pool; {_nearest(str(pool), pools, '')}"
        elif isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < float("inf"):
            yield f"{name}: {PRICES}.{pool} is {price!r}, must be what an hour costs, a number of at least 0"


def _model_faults(values: Mapping[str, Any], stages: Sequence[Stage], name: str) -> Iterable[str]:
    """The models that are scored, and the one that is offered to the gate, are made by stages."""
    made = [PurePosixPath(out).name for stage in stages for out in stage.outs]
    models, candidate = values.get("models"), values.get("candidate")
    if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
        yield f"{name}: models is {models!r}: must list the models that are scored, each made by a stage"
        return
    for key, model in (*(("models", model) for model in models), ("candidate", candidate)):
        if model not in made:
            yield f"{name}: {key} names {model!r}, which no stage of dvc.yaml makes; {_nearest(str(model), made, '')}"
    if candidate in made and candidate not in models:
        yield f"{name}: candidate is {candidate!r}, must be among models: the gate needs its scores"


def _function_faults(values: Mapping[str, Any], stages: Sequence[Stage], root: Path, name: str) -> Iterable[str]:
    """A team's own function lies in the workspace, in a file that its stage depends on."""
    for stage in stages:
        for key, source in (_mapping(values, stage.section, "rewards") or {}).items():
            if not isinstance(source, dict) or not isinstance(function := source.get("function"), str):
                continue
            file = rewards.file_of(function)
            if not (root / file).is_file():
                yield f"{name}: {stage.section}.rewards.{key}.function is {function}, and {file} is missing: write it, or name another"
            elif file not in stage.deps:
                yield (
                    f"{name}: {stage.section}.rewards.{key}.function is in {file}, which is no dep of {stage.name}: a change of it would "
                    f"train nothing again: add it to the deps of {stage.name} in dvc.yaml"
                )


def _suite_faults(values: Mapping[str, Any], stages: Sequence[Stage], root: Path, name: str) -> Iterable[str]:
    """`suites` names what there is, and how many items of each are asked is said."""
    listed, known = _listed(values), _known(root)
    for suite in listed:
        if suite not in known:
            near = "import" if suite in suites.catalogue() else "new"
            yield (
                f"{name}: suites names {suite!r}, which is no suite here; {_nearest(suite, known, '')} "
                f"'sluice suite {near} {suite} --from FILE' brings one"
            )
    for section, suite in product(sorted({cell.stage.section for cell in cells(stages)}), listed):
        asked = _mapping(values, section, "items")
        if suite in known and asked is not None and suite not in asked:
            yield f"{name}: {section}.items.{suite} is missing: add '{suite}: null' for all its items"


def _policy_faults(values: Mapping[str, Any], stages: Sequence[Stage], root: Path, name: str) -> Iterable[str]:
    """gate.suites says of every suite that is scored what is asked of it, null where nothing is, and asks only of what is scored."""
    listed, rules, candidate = _listed(values), _mapping(values, "gate", "suites"), values.get("candidate")
    if rules is None or not listed:
        return
    for suite in rules:
        if suite not in listed:
            yield f"{name}: gate.suites.{suite} is not among suites; {_nearest(str(suite), listed, 'gate.suites.')}"
    scored, known = {(cell.model, cell.suite) for cell in cells(stages)}, _known(root)
    for suite in sorted({suite for _, suite in scored}.difference(listed, rules)):
        yield f"{name}: suites does not name {suite}, which dvc.yaml scores: add it there, and its policy: {_to_gate(suite, root)}"
    for suite in listed:
        if suite in known and suite not in rules:
            yield f"{name}: gate.suites.{suite} is missing, and suites names it, must say what is asked of it: {_to_gate(suite, root)}"
        if candidate in {model for model, _ in scored} and rules.get(suite) is not None and (candidate, suite) not in scored:
            yield (
                f"{name}: gate.suites.{suite} asks what no stage of dvc.yaml measures: the candidate {candidate} must be scored on it: "
                f"add that to dvc.yaml, or write '{suite}: null' there"
            )


def gated(values: Mapping[str, Any]) -> list[str]:
    """The suites of which the gate asks something."""
    return [suite for suite, asked in values["gate"]["suites"].items() if asked is not None]


def _to_gate(suite: str, root: Path) -> str:
    """What has a suite gated, and what has it scored only."""
    here = any((root / place / suite).is_dir() for place in ("data/raw/suites", "artifacts/suites"))
    writes = f"'sluice suite use {suite}' writes it" if here else f"add '{suite}: {{margin: 0.1, floor: null, require: non-inferior}}'"
    return f"{writes}, or '{suite}: null' under gate.suites, for one that is scored and decides nothing"


def _listed(values: Mapping[str, Any]) -> list[str]:
    """The suites that params.yaml names; none where that is no list of names: that is another fault."""
    found = values.get("suites")
    return found if isinstance(found, list) and all(isinstance(suite, str) for suite in found) else []


def _known(root: Path) -> set[str]:
    """The suites that lie in the project, and those that the world makes."""
    return {*suites.here(root), *(made for made, described in suites.catalogue().items() if described.published is None)}


def _mapping(values: Mapping[str, Any], section: str, key: str) -> Mapping[str, Any] | None:
    """A section's mapping under `key`; None where there is none: that is another fault."""
    found = values.get(section)
    inner = found.get(key) if isinstance(found, dict) else None
    return inner if isinstance(inner, dict) else None


def _faults(name: str, section: str, model: type[Any], values: Mapping[str, Any], shared: set[str]) -> Iterable[str]:
    try:
        model.model_validate(values)
    except ValidationError as error:
        for fault in error.errors():
            path, known = _place(model, fault["loc"])
            key = ".".join(path if path and path[0] in shared else [section, *path])
            if fault["type"] == "extra_forbidden":
                yield _unknown(name, key, known - shared, key.rpartition(".")[0])
            elif fault["type"] == "missing":
                yield f"{name}: {key} is missing; 'sluice recipe show tiny' prints the default"
            else:
                yield f"{name}: {key} is {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _place(model: Any, location: Sequence[str | int]) -> tuple[list[str], set[str]]:
    """The keys that lead to a fault, and those known where it is. Pydantic puts the name of a union's variant between the keys."""
    keys, record = list[str](), model
    for part in map(str, location):
        variant = _variants(model).get(part)
        if variant is not None:
            model = record = variant
            continue
        keys.append(part)
        if hasattr(model, "model_fields"):
            record = model
            model = _inner(model.model_fields[part].annotation) if part in model.model_fields else model
    return keys, set(record.model_fields)


def _inner(annotation: Any) -> Any:
    """What is inside of a mapping, a sequence, or what may be None."""
    while isinstance(annotation, GenericAlias) or get_origin(annotation) is Annotated:
        annotation = annotation.__origin__ if get_origin(annotation) is Annotated else annotation.__args__[-1]
    given = [one for one in get_args(annotation) if one is not type(None)]
    return given[0] if isinstance(annotation, UnionType) and len(given) == 1 else annotation


def _variants(annotation: Any) -> dict[str, Any]:
    """The records of a union by their tags: the words that the field allows which all of them have."""
    records = [one for one in get_args(annotation) if hasattr(one, "model_fields")]
    shared = set.intersection(*(set(record.model_fields) for record in records)) if len(records) > 1 else set()
    tags = ((record, get_args(record.model_fields[name].annotation)) for record in records for name in shared)
    return {word: record for record, words in tags for word in words if isinstance(word, str)}


def _unknown(name: str, key: str, known: Iterable[str], section: str) -> str:
    return f"{name}: {key} is not a known key; {_nearest(key.rpartition('.')[2], known, f'{section}.' if section else '')}"


def _nearest(word: str, known: Iterable[str], prefix: str) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean {prefix}{near[0]}?" if near else f"valid ones: {', '.join(sorted(known))}"
