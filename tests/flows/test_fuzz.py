"""Every command, read from the command line itself, with words, paths and addresses that nobody would give it: lines of ours, always."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from flows.cli import main
from tests.lines import in_one_line
from tests.odd import ODD
from tests.shapes import based_on

pytestmark = pytest.mark.long

WORDS = {
    "empty": "",
    "not UTF-8": "\udcff\udc80",
    "too long for a name": "x" * 300,
    "too long for a path": "x/" * 3000,
    "lines": "two\nlines\r\x1b[31m",
    "up and away": "../../../..",
    "a dash": "-",
    "a template": "{0}%s${HOME}$(exit 4)",
    "SQL": "1' OR '1'='1",
    "of another script": "١٢ ½ 版本",
    "a large number": "9" * 30,
    "a negative number": "-1",
    "an alias": "champion",
    "an address": "http://ada:hunter22@[::1/x?y=z",
}
ADDRESSES = {
    "no address": "hello",
    "blank": "  ",
    "a port too large": "http://localhost:99999",
    "no port": "http://localhost:http",
    "no host": "http://",
    "half a bracket": "http://[::1",
    "not IDNA": "http://" + "ü" * 70 + ".example",
    "two dots": "http://a..b",
    "lines": "http://local\nhost:1",
    "not UTF-8": "http://\udcff:1",
    "a folder": "/tmp",
    "a file": "file:///dev/null",
    "SQLite in memory": "sqlite://",
    "SQLite in a device": "sqlite:////dev/null/x.db",
    "SQLite's options": "sqlite:///x.db?mode=rwc&nolock=2&timeout=x",
    "a database without driver": "oracle://x/y",
    "Postgres that is away": "postgresql://127.0.0.1:1/x?connect_timeout=1",
    "a bucket": "s3://bucket/key",
    "Databricks": "databricks",
    "closed": "http://127.0.0.1:1",
    "closed, TLS": "https://127.0.0.1:1",
}
QUICK = ("not UTF-8", "a link to itself")
LONG_RUNNING = ("up",)  # starts servers whatever it is told
OTHERS_WORDS = ("repro",)  # is DVC, for the flow


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command of the tree with the words that call it."""
    inner = getattr(group, "commands", None)
    if inner is None:
        yield words, group
    for name, command in (inner or {}).items():
        yield from commands(command, (*words, name))


def takes_words(command: Any) -> list[Any]:
    """The arguments of a command, and its options that are no flags."""
    return [place for place in command.params if not getattr(place, "is_flag", False)]


COMMANDS = {" ".join(words): command for words, command in commands(typer.main.get_command(main.app)) if words[0] not in OTHERS_WORDS}


def asking() -> Iterator[object]:
    """Each command that is told anything, with each odd value."""
    for name, command in COMMANDS.items():
        if takes_words(command):
            for value in (*WORDS, *ODD):
                yield pytest.param(
                    name, value, id=f"{name}: {value}", marks=() if value in QUICK and name != "rescore" else pytest.mark.slow
                )


def lines_for(name: str, value: str) -> Iterator[list[str]]:
    """The command line with the value in each place in turn, a harmless word in the others."""
    places = takes_words(COMMANDS[name])
    for odd in places:
        given = [(place, value if place is odd else "0") for place in places if place is odd or place.required]
        options = [word for place, said in given if place.opts[0].startswith("-") for word in (place.opts[0], said)]
        line = [*name.split(), *options, "--", *(said for place, said in given if not place.opts[0].startswith("-"))]
        yield line


@pytest.fixture
def kept(bare, empty_store):
    """A workspace whose MLflow database is there already."""
    (bare / ".sluice").mkdir()
    shutil.copy(empty_store, bare / ".sluice" / "mlflow.db")
    return bare


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "value"), list(asking()))
def test_no_word_and_no_path_ends_a_command_otherwise_than_in_a_line(kept, capsys, name, value):
    word = WORDS.get(value)
    if word is None:
        word = str(kept / "odd")
        ODD[value][0](kept / "odd")
    for line in lines_for(name, word):
        in_one_line(line, capsys)


@pytest.mark.usefixtures("kept")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "PREFECT_API_URL"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_no_address_ends_a_command_otherwise_than_in_a_line(capsys, monkeypatch, variable, address):
    monkeypatch.setenv(variable, ADDRESSES[address])
    for name in ("doctor", "history") if variable == "MLFLOW_TRACKING_URI" else ("doctor",):
        in_one_line([name], capsys)


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in LONG_RUNNING])
@pytest.mark.parametrize("address", [address for address in ADDRESSES if address != "blank"])  # which means the workspace's own
def test_no_command_is_ended_otherwise_by_an_address(capsys, monkeypatch, address, name):
    for variable in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.setenv(variable, ADDRESSES[address])
    line = next(lines_for(name, "1"), name.split())
    in_one_line(line, capsys)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("value", [*WORDS, *ODD, "a number", "a list", "a mapping", "true"])
def test_nothing_that_pretrained_may_say_ends_in_a_trace(bare, capsys, value):
    other = {"a number": 12, "a list": ["a/b"], "a mapping": {"a": "b"}, "true": True}
    if value in ODD:
        ODD[value][0](bare / "odd")
    based_on(bare, other.get(value, WORDS.get(value, str(bare / "odd"))))
    code, _ = in_one_line(["stages"], capsys)
    assert code == 2
