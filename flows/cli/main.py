"""The command line. Heavy imports wait inside the commands: `--help` answers in under half a second."""

import contextlib
import gc
import os
import sys
import traceback
from typing import Any

import typer

from flows.cli import data, gate, recipes, registry, report, run, servers, suites, team
from flows.cli.common import here, tell
from flows.host import failures
from flows.host import workspace as workspaces
from flows.host.masking import masked
from flows.screen import terminal
from models.core.errors import SluiceError

app = typer.Typer(
    name="sluice",
    help="Retrain a language model, and let a version through only when it has proven itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (run, report, data, gate, registry, servers):  # as --help lists them
    app.add_typer(group.app)
app.add_typer(recipes.app, name="recipe")
app.add_typer(suites.app, name="suite")
app.add_typer(team.app, name="team")

INTERRUPTED = 130
FORWARDED = ("repro", "stage", "probe", "register", "rescore")  # what a flow starts: its warm process does it, where one is up
TRAINING = ("stage", "probe", "rescore")  # what holds tensors: their garbage is collected as soon as ever
COLLECTED_EVERY = 50_000  # objects made; Python's own 700 cost an eighth of a command, whose imports make hundreds of thousands that stay


def run_command(arguments: list[str]) -> int:
    """Run one command line; return its exit code. A failure is one line on standard error, without a secret, never a traceback."""
    try:
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # typer's parser turns Ctrl-C into a return value
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return stopped()
    except Exception as error:
        if failures.interrupted(error):
            return stopped()
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # a mistake on the command line, told by typer's parser
            misused(error)
            return int(error.exit_code)
        known = failures.named(error)
        if known is None:
            return unforeseen(error)
        tell("\n".join(f"sluice: {line}" for line in str(known).splitlines()))
        return known.exit_code


def stopped() -> int:
    """Say that Ctrl-C was heard; return its exit code."""
    tell("sluice: stopped; finished stages are kept, the next run carries on")
    return INTERRUPTED


def misused(error: Any) -> None:
    """Say in one line what is wrong with the words of a command; a command without any shows what there is."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        said = " ".join(error.format_message().split()).rstrip(".")
        tell(f"sluice: {said}; the command's --help says what it takes")


def unforeseen(error: Exception) -> int:
    """One line for a failure without a name; its traceback goes into a file beside the other logs, where there is a place for it."""
    said = f"sluice: unforeseen: {type(error).__name__}: {failures.one_line(error, 200)}"
    with contextlib.suppress(SluiceError, OSError):
        log = here().work / "logs" / "unforeseen.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(masked("".join(traceback.format_exception(error))), encoding="utf-8", errors="backslashreplace")
        said += f"; the traceback is in {os.path.relpath(log)}"
    tell(f"{said}: please report it")
    return 1


def main() -> None:
    """The script `sluice`."""
    if sys.getfilesystemencoding() != "utf-8":  # DVC hashes paths as UTF-8, and fails on one that this locale cannot spell
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    terminal.prepare_streams()
    workspaces.forgive_warnings(os.environ)
    arguments = sys.argv[1:]
    warm_address = os.environ.get("SLUICE_WARM")
    if warm_address and arguments[:1] and arguments[0] in FORWARDED:
        from flows.stages import warm

        code = warm.forward(warm_address, arguments)
        if code is not None:
            sys.exit(code)
    if arguments[:1] and arguments[0] not in TRAINING:
        gc.set_threshold(COLLECTED_EVERY)
    sys.exit(run_command(arguments))
