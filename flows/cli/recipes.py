"""`sluice recipe`: whole set-ups of params.yaml."""

import typer

from flows.cli.common import Json, here, say

app = typer.Typer(help="Whole set-ups of params.yaml.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def recipe_list(as_json: Json = False) -> None:
    """The recipes there are."""
    from flows.stages import recipes

    if as_json:
        say(recipes.names())
        return
    for name, line in recipes.names().items():
        print(f"{name:16} {line}")


@app.command("show")
def recipe_show(name: str) -> None:
    """Print the params.yaml that a recipe stands for."""
    from flows.stages import recipes

    print(recipes.text(name), end="")


@app.command("use")
def recipe_use(name: str) -> None:
    """Write a recipe into params.yaml."""
    from flows.stages import recipes

    workspace = here()
    recipes.use(name, workspace.params_file)
    print(f"params.yaml is recipe {name} now; 'sluice stages' says what must run")
