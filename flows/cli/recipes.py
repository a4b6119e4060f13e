"""`sluice recipe`: whole set-ups, params.yaml and dvc.yaml."""

from typing import Annotated

import typer

from flows.cli.common import Json, here, say

app = typer.Typer(help="Whole set-ups of params.yaml and dvc.yaml.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def recipe_list(as_json: Json = False) -> None:
    """The recipes there are."""
    from flows.stages import recipes

    if as_json:
        say(recipes.names())
        return
    for name, line in recipes.names().items():
        print(f"{name:16} {line.removeprefix(f'{name}: ')}")


@app.command("show")
def recipe_show(
    name: str,
    stages: Annotated[bool, typer.Option("--stages", help="Its dvc.yaml.")] = False,
) -> None:
    """Print the params.yaml that a recipe stands for."""
    from flows.stages import recipes

    print(recipes.shape(name) if stages else recipes.text(name), end="")


@app.command("use")
def recipe_use(name: str) -> None:
    """Write a recipe into params.yaml and dvc.yaml, and say what changed; nothing that only you hold is overwritten."""
    from flows.stages import recipes

    root = here().root
    print("\n".join([*recipes.use(name, root), f"this is recipe {name} now; 'sluice stages' says what must run"]))
    for suite in recipes.unnamed_suites(root):
        print(f"data/raw/suites/{suite} is scored by no recipe: 'sluice suite use {suite}' has it scored and gated")


@app.command("new")
def recipe_new(
    name: str,
    about: Annotated[str, typer.Option(help="One line about it.")] = "made of a workspace",
) -> None:
    """Make a recipe of params.yaml and dvc.yaml as they are."""
    from flows.stages import recipes
    from flows.stages.session import Session

    workspace = here()
    recipes.place(name, workspace.root)
    Session.reading(workspace)  # a recipe that cannot run is none
    folder = recipes.new(name, workspace.root, about)
    print(f"{name} is a recipe: {folder.relative_to(workspace.root).as_posix()}; 'git add' keeps it")
