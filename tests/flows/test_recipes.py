"""Recipes: every one fits the pipeline that it brings; what only the user holds is not overwritten."""

import json

import pytest
from ruamel.yaml import YAML

from flows.host.workspace import Workspace
from flows.stages import recipes
from flows.stages.naming import name_suite
from flows.stages.parameters import check, load
from flows.stages.pipeline import Pipeline, contract
from flows.stages.recipes import differences
from flows.stages.wiring import wired
from models.core.errors import UserError
from tests.suites import described, own
from tests.workspaces import ROOT, git, make_workspace, run


@pytest.fixture
def root(tmp_path):
    made = make_workspace(tmp_path / "sluice", recipe="")
    recipes.use("tiny", made)
    git(made, "add", "-A")
    git(made, "commit", "-qm", "tiny")
    return made


def taken(root, name):
    """The pipeline and the params of a recipe, with one suite of its user's where it brings none."""
    recipes.use(name, root)
    if not load(root / "params.yaml")["suites"]:
        name_suite(root, "mmlu", 100, None)
    params = load(root / "params.yaml")
    for suite in params["suites"]:
        described(root / "data" / "raw" / "suites" / suite)
    return Pipeline(Workspace(root)), params


@pytest.mark.parametrize("name", list(recipes.names()))
def test_a_recipe_fits_the_pipeline_that_it_brings(root, name):
    pipeline, params = taken(root, name)
    check(params, pipeline.stages.values(), root)
    assert pipeline.needed(params) == set(pipeline.stages)
    entries = YAML(typ="safe").load((root / "dvc.yaml").read_text())["stages"]
    for stage in pipeline.stages.values():
        spec, shared = contract(stage), {section for section in stage.sections if section != stage.section}
        assert shared | set(params.get(stage.section) or {}) == set(spec.params.model_fields)
        assert sorted(stage.bind(spec.inputs, stage.artifacts).values()) == sorted(stage.artifacts)
        assert sorted(stage.bind(spec.outputs, stage.outs).values()) == sorted(
            [*stage.outs, *(plot for plot in stage.plots if plot != stage.curve_file)]
        )
        assert wired(ROOT, stage.section, entries[stage.section]) == entries[stage.section]["deps"], "'make wire' writes its deps anew"


@pytest.mark.parametrize("name", list(recipes.names()))
def test_a_recipe_says_in_its_first_line_what_it_is(name):
    assert recipes.names()[name].startswith(f"{name}: ")
    assert recipes.text(name).startswith(f"# {name}: ")


def test_a_recipe_that_is_not_there_is_named(root):
    for wrong in ("sfft", "../tiny", "", "tiny/params.yaml"):
        with pytest.raises(UserError, match=rf"^no recipe .*; there are: {', '.join(sorted(recipes.names()))}$"):
            recipes.use(wrong, root)


def test_what_a_recipe_changes_is_said(root):
    said = recipes.use("sft", root)
    assert 'params.yaml  candidate: "rlhf" -> "sft"' in said
    assert "params.yaml  reward: taken out" in said
    assert "dvc.yaml  stages.rlhf: taken out" in said
    assert recipes.use("sft", root) == []


def test_a_suite_of_ones_own_that_no_recipe_names_is_told_of(root):
    own(root / "data" / "raw" / "suites" / "desk-quiz", "format: exact\n")
    name_suite(root, "desk-quiz", 100, None)
    assert recipes.unnamed_suites(root) == []
    git(root, "add", "-A")
    recipes.use("sft", root)
    assert recipes.unnamed_suites(root) == ["desk-quiz"]


@pytest.mark.parametrize("file", ["params.yaml", "dvc.yaml"])
def test_what_only_the_user_holds_is_not_overwritten(root, file):
    (root / file).write_text(mine := (root / file).read_text() + "# mine\n")
    before = {name: (root / name).read_bytes() for name in ("params.yaml", "dvc.yaml")}
    with pytest.raises(UserError, match=rf"^{file}: changed by hand, and git does not hold the change.*nothing was changed$"):
        recipes.use("sft", root)
    assert {name: (root / name).read_bytes() for name in before} == before
    git(root, "add", file)
    recipes.use("sft", root)
    assert git(root, "show", f":{file}") + "\n" == mine


def test_what_an_earlier_commit_holds_may_go(root):
    mine = (root / "params.yaml").read_text() + "# mine\n"
    for text in (mine, recipes.text("nano")):
        (root / "params.yaml").write_text(text)
        git(root, "commit", "-qam", "another")
    (root / "params.yaml").write_text(mine)
    recipes.use("sft", root)


def test_outside_git_only_a_recipes_own_words_may_go(root, monkeypatch):
    monkeypatch.setattr("flows.host.git.ask", lambda *_: None)
    recipes.use("nano", root)
    recipes.use("sft", root)
    (root / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(UserError, match="changed by hand"):
        recipes.use("tiny", root)


@pytest.mark.parametrize("text", ["", "a: [", "- 1\n", "\udcff"])
def test_a_file_that_is_no_yaml_is_replaced_where_git_holds_it(root, text):
    (root / "params.yaml").write_bytes(text.encode(errors="surrogateescape"))
    git(root, "commit", "-qam", "broken")
    assert recipes.use("tiny", root)
    assert load(root / "params.yaml")["candidate"] == "rlhf"


@pytest.mark.long
def test_a_recipe_is_made_of_a_workspace_and_taken_again(root):
    for arguments in (("use", "sft"), ("new", "mine")):
        done = run(root, "sluice", "recipe", *arguments)
    assert done.returncode == 2
    assert "suites names none" in done.stderr  # a recipe that cannot run is none
    name_suite(root, "mmlu", 100, None)
    described(root / "data" / "raw" / "suites" / "mmlu")
    params, stages = (root / "params.yaml").read_text(), (root / "dvc.yaml").read_text()
    done = run(root, "sluice", "recipe", "new", "mine", "--about", "for the desk")
    assert done.stdout == "mine is a recipe: models/recipes/mine; 'git add' keeps it\n", done.stderr
    assert json.loads(run(root, "sluice", "recipe", "list", "--json").stdout)["mine"] == "mine: for the desk"
    git(root, "add", "-A")
    assert run(root, "sluice", "recipe", "use", "tiny").returncode == 0
    assert run(root, "sluice", "recipe", "use", "mine").returncode == 0
    assert load(root / "params.yaml") == YAML(typ="safe").load(params)
    assert (root / "dvc.yaml").read_text() == stages
    assert run(root, "sluice", "recipe", "new", "mine").returncode == 2


def test_a_recipe_of_the_default_shape_has_no_stages_of_its_own(root, monkeypatch):
    monkeypatch.setattr(recipes, "FOLDER", root / "models" / "recipes")
    assert [path.name for path in recipes.new("plain", root, "as it is").iterdir()] == ["params.yaml"]


def test_differences_name_what_is_new_gone_and_other():
    old = {"a": 1, "b": {"c": [1, 2], "d": {"take": "x", "n": 1}}, "gone": {"x": 1}, "same": 0, "order": [1, 2]}
    new = {"a": 2, "b": {"c": [2, 3], "d": {"take": "y"}}, "new": {"y": None}, "same": 0, "order": [2, 1]}
    assert list(differences(old, new)) == [
        "a: 1 -> 2",
        "b.c: -1 +3",
        'b.d: {"take": "x", "n": 1} -> {"take": "y"}',
        "gone: taken out",
        "order: in another order",
        'new: new, {"y": null}',
    ]


def test_a_suite_is_named_once_at_what_its_items_decide(root):
    text = (root / "params.yaml").read_text()
    said = name_suite(root, "desk", 150, None)
    assert said == [
        "params.yaml  suites: +desk",
        "params.yaml  benchmark.items.desk: new, null",
        'params.yaml  gate.suites.desk: new, {"margin": 0.11, "floor": null, "require": "non-inferior"}',
        "150 items can decide a margin of 0.11 or more",
    ]
    assert name_suite(root, "desk", 150, None)[0] == "params.yaml  names desk already"
    assert name_suite(root, "desk", 150, 0.2)[0] == "params.yaml  gate.suites.desk.margin: 0.11 -> 0.2"
    (root / "params.yaml").write_text(
        (root / "params.yaml").read_text().replace("desk: {margin: 0.2, floor: null, require: non-inferior}", "desk: null")
    )
    assert name_suite(root, "desk", 150, None)[0] == (
        'params.yaml  gate.suites.desk: null -> {"margin": 0.11, "floor": null, "require": "non-inferior"}'
    )
    comments = [[line.partition("#")[2] for line in one.splitlines() if "#" in line] for one in (text, (root / "params.yaml").read_text())]
    assert comments[0] == comments[1]


def test_without_a_gate_a_suite_cannot_be_named(root):
    (root / "params.yaml").write_text("suites: []\n")
    with pytest.raises(UserError, match=r"suites and gate.suites must be there, to name desk"):
        name_suite(root, "desk", 150, None)


@pytest.mark.parametrize(("key", "said"), [("suites", "sluice suite new NAME"), ("models", "name the candidate")])
def test_a_matrix_without_cells_is_said_in_one_line(root, key, said):
    values = load(root / "params.yaml") | {key: []}
    with pytest.raises(UserError, match=rf"^params.yaml: {key} names none, and nothing would be scored: .*{said}") as raised:
        check(values, [], root)
    assert "\n" not in str(raised.value)
