"""dvc.yaml, the stage signatures, params.yaml and the imports say the same thing."""

import ast
import functools
import re
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.host.workspace import Workspace
from flows.stages import recipes, reference
from flows.stages.parameters import load
from flows.stages.pipeline import Pipeline, contract
from flows.stages.wiring import PACKAGES, reached, wired

ROOT = Path(__file__).parents[1]
PIPELINE = Pipeline(Workspace(ROOT))
STAGES = PIPELINE.stages
ONE_OF_EACH = {stage.section: stage for stage in STAGES.values()}


def strings_of(path: Path) -> set[str]:
    """The strings in a module, those of messages among them; of a formatted one the parts between its values."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def tools_of(node: ast.AST) -> set[str]:
    """The top-level packages that an import statement names; none for any other node."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) else set()


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_every_artifact_of_dvc_yaml_is_a_field_and_every_field_an_artifact(stage):
    spec = contract(stage)
    inputs = stage.bind(spec.inputs, stage.artifacts)
    outputs = stage.bind(spec.outputs, stage.outs)
    assert sorted(inputs.values()) == sorted(stage.artifacts)
    assert sorted(outputs.values()) == sorted([*stage.outs, *(plot for plot in stage.plots if plot != stage.curve_file)])


def test_the_code_deps_of_dvc_yaml_are_what_the_stages_can_reach():
    for name, stage in YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        assert wired(ROOT, name, stage) == stage["deps"], f"stage {name}: 'make wire' writes its deps anew"
        assert all((ROOT / dep).exists() for dep in stage["deps"] if dep.startswith(PACKAGES))


def test_packages_hold_nothing_but_what_they_are():
    """Deps name modules: what a package held would move results that no hash covers. That of flows finds the others."""
    for package in (path for name in PACKAGES for path in (ROOT / name).rglob("__init__.py") if path.parent != ROOT / "flows"):
        body = ast.parse(package.read_text(encoding="utf-8")).body
        assert [type(node) for node in body] == [ast.Expr], package


@pytest.mark.parametrize("stage", ONE_OF_EACH.values(), ids=lambda stage: stage.section)
def test_the_params_that_dvc_hashes_are_the_fields_of_the_class(stage):
    values = load(ROOT / "params.yaml")
    shared = {section for section in stage.sections if section != stage.section}
    own = set(values.get(stage.section) or {})
    assert shared | own == set(contract(stage).params.model_fields)


def test_params_yaml_and_dvc_yaml_are_the_default_recipe():
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == recipes.text("tiny")
    assert (ROOT / "dvc.yaml").read_text(encoding="utf-8") == recipes.shape("tiny")


def test_the_page_of_params_is_that_of_the_classes():
    assert (ROOT / reference.PAGE).read_text(encoding="utf-8") == reference.page(reference.tasks_of(ROOT)), "'make wire' makes it anew"


def test_no_field_of_params_has_a_default():
    for stage in ONE_OF_EACH.values():
        for name, field in contract(stage).params.model_fields.items():
            assert field.is_required(), f"{stage.section}.{name} has a default: values live in params.yaml"


def test_stage_modules_import_nothing_heavy():
    heavy = {"torch", "transformers", "trl", "lm_eval", "great_expectations", "mlflow", "prefect", "dvc"}
    for stage in ONE_OF_EACH.values():
        for path in reached(ROOT, f"tasks.{stage.section}"):
            if not path.startswith("tasks/"):
                continue
            for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
                assert not heavy & tools_of(node), path


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOORS = {  # tool: the modules that its line in pyproject.toml names
    name.replace("-", "_"): set(modules.split())
    for name, modules in re.findall(
        r'"([\w-]+)[^"]*",\s*# ((?:(?:flows|tasks|models)/\S+\.py ?)+)$', (ROOT / "pyproject.toml").read_text(), re.M
    )
}


@functools.cache
def imports():
    """The tools that each module imports, wherever it does."""
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in sources}
    return {path: set().union(*map(tools_of, ast.walk(tree))) for path, tree in trees.items()}


@pytest.mark.parametrize("tool", sorted(DOORS))
def test_a_tool_is_imported_where_pyproject_says_and_nowhere_else(tool):
    assert {path for path, tools in imports().items() if tool in tools} == DOORS[tool]


def test_the_tools_with_few_doors_are_known():
    assert {"prefect", "mlflow", "dvc", "typer", "lm_eval", "great_expectations"} <= set(DOORS)


def test_the_contract_of_independence_names_every_stage():
    [contract_of_stages] = [one for one in PROJECT["tool"]["importlinter"]["contracts"] if one["type"] == "independence"]
    assert set(contract_of_stages["modules"]) == {f"tasks.{task}" for task in TASKS} | {"tasks.gate"}
    assert set(ONE_OF_EACH) <= TASKS


TASKS = {path.stem for path in (ROOT / "tasks").glob("*.py")} - {"__init__", "stage"}
ARTIFACTS = {"contamination"}  # what the gate reads under that name is an artifact, whichever stage makes it


def test_no_module_of_the_flow_or_the_gate_names_a_stage():
    names = TASKS - ARTIFACTS
    modules = [*(ROOT / "flows").rglob("*.py"), *(ROOT / "tasks" / "gate").rglob("*.py")]
    named = {(path.relative_to(ROOT).as_posix(), text) for path in modules for text in strings_of(path)}
    assert [(path, text) for path, text in sorted(named) if {text, text.partition("@")[0], text.rpartition("/")[2]} & names] == []


def test_the_models_and_the_candidate_are_made_by_stages_and_scored():
    values = load(ROOT / "params.yaml")
    assert {cell.model for cell in PIPELINE.cells} == set(values["models"])
    assert {cell.suite for cell in PIPELINE.cells} == set(values["suites"])
    assert PIPELINE.maker(values["candidate"]) is not None
    assert PIPELINE.needed(values) == set(STAGES)


def test_every_page_that_a_message_names_is_there():
    named = {
        (path.relative_to(ROOT).as_posix(), page)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for text in strings_of(path)
        for page in re.findall(r"[\w./-]+\.md\b", text)
    }
    assert ("tasks/sources.py", "data/README.md") in named
    assert [(path, page) for path, page in sorted(named) if not (ROOT / page).is_file()] == []
