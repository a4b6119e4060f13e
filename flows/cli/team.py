"""A team's servers and workers on this machine."""

import typer

from flows.cli.common import Json, here, say

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="A team's servers, pools of workers and logins.")


@app.command()
def up() -> None:
    """Start Postgres, S3, MLflow, Prefect and a worker for each pool, where they are down; make what they need."""
    from flows.team.servers import Team

    team = Team(here())
    team.up(lambda name: print(f"{name:12} starting", flush=True))
    print(f"prefect      {team.url('prefect')}\nmlflow       {team.url('mlflow')}\na shell joins with   . {team.folder / 'env.sh'}")


@app.command()
def down() -> None:
    """Stop all of it; what it keeps stays."""
    from flows.team.servers import Team

    print("stopped" if Team(here()).down() else "nothing was running")


@app.command()
def status(as_json: Json = False) -> None:
    """What runs."""
    from flows.team.servers import Team

    states = Team(here()).states()
    if as_json:
        say(states)
    else:
        print("\n".join(f"{name:12} {state.lower()}" for name, state in states.items()) or "nothing is running: 'sluice team up' starts it")
