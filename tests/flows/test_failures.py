"""Whatever stands where a file must be, and whatever the environment is like: one line, the right exit code, no traceback."""

import errno
import getpass  # noqa: F401
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import main, registry
from flows.host import failures, git
from flows.host.workspace import Workspace, forgive_warnings, prepare_environment
from models.core.errors import StageError, Unavailable, UserError
from tests.lines import in_one_line
from tests.workspaces import PROGRAMS, ROOT, environment

NOBODY = 12345


def a_folder(path):
    path.mkdir()


def a_socket(path):
    there = os.getcwd()
    os.chdir(path.parent)  # an address of a socket is short
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(there)


def a_loop(path):
    path.symlink_to(path.name)


def a_broken_link(path):
    path.symlink_to("/proc/nowhere/at/all")  # where nobody can make it


def noise(path):
    path.write_bytes(bytes(range(128, 256)) * 3)


def nothing(path):
    path.write_bytes(b"")


KINDS = (a_folder, a_socket, a_loop, a_broken_link, noise, nothing)
COMMANDS = {
    "params.yaml": (["stages"], ["history"]),
    "dvc.yaml": (["stages"],),
    "dvc.lock": (["stages"], ["stage", "sources"]),
    ".dvc/config": (["stages"],),
    ".sluice": (["history"],),
    ".sluice/mlflow.db": (["status"],),
    ".sluice/locks": (["history"],),
    ".sluice/servers.json": (["status"],),
}


def combinations():
    """Every kind at every place; of those that open MLflow's database two in the default run."""
    for place, commands in COMMANDS.items():
        for kind in KINDS:
            default = ["stages"] in commands or (place, kind) in ((".sluice", noise), (".sluice/mlflow.db", a_folder))
            yield pytest.param(place, kind, id=f"{place}-{kind.__name__}", marks=() if default else pytest.mark.slow)


@pytest.mark.parametrize(("place", "kind"), list(combinations()))
def test_what_stands_where_a_file_must_be_is_told_in_one_line(bare, capsys, monkeypatch, place, kind):
    monkeypatch.setattr("flows.stages.pipeline.PATIENCE", 1)
    path = bare / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    kind(path)
    for arguments in COMMANDS[place]:
        in_one_line(arguments, capsys)


ERRNOS = sorted({*failures.FILE_FAULTS, *failures.MACHINE_FAULTS, *failures.FULL, errno.ECONNRESET, errno.EPROTO, errno.EMLINK})


@pytest.mark.parametrize("number", ERRNOS, ids=lambda number: errno.errorcode[number])
def test_each_refusal_of_the_system_names_the_file_and_what_to_do(number):
    said = failures.named(OSError(number, os.strerror(number), "/some/file"))
    assert isinstance(said, UserError | Unavailable)
    assert "\n" not in str(said)
    assert ":" in str(said)
    assert "/some/file" in str(said) or number in failures.MACHINE_FAULTS


def test_a_refusal_without_a_file_s_name_is_a_line_as_well():
    for error in (OSError(errno.EACCES, "Permission denied"), OSError("odd"), FileNotFoundError(), OSError(errno.ENOSPC, "full", 7)):
        assert len(str(failures.named(error)).splitlines()) == 1


def test_a_failure_that_nobody_foresaw_has_no_name_and_its_trace_is_kept_without_secrets(bare, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "planted-in-trace")
    assert failures.named(KeyError("x")) is None
    try:
        raise KeyError("with planted-in-trace")
    except KeyError as error:
        code = main.unforeseen(error)
    assert code == 1
    said = capsys.readouterr().err
    trace = (bare / ".work" / "logs" / "unforeseen.log").read_text()
    assert len(said.splitlines()) == 1
    assert "KeyError: 'with ***'" in trace
    assert "planted-in-trace" not in said
    shutil.rmtree(bare / ".work")
    (bare / ".work").write_text("in the way")
    assert main.unforeseen(KeyError("x")) == 1
    assert "please report it" in capsys.readouterr().err


def test_what_a_flow_s_server_would_keep_has_a_name_and_no_secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "planted-in-flow")
    with pytest.raises(UserError, match="is closed to this user"), failures.told():
        raise PermissionError(errno.EACCES, "no", "/some/file")
    with pytest.raises(StageError, match=r"^KeyError: 'about \*\*\*'$"), failures.told():
        raise KeyError("about planted-in-flow")
    with pytest.raises(ValueError, match="no secret"), failures.told():
        raise ValueError("no secret")


def as_nobody(work):
    """The exit code of `work()` in a forked process of a user without a name, who may write nothing here."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            for name in ("USER", "LOGNAME", "LNAME", "USERNAME", "HOME"):
                os.environ.pop(name, None)
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(os.getuid() != 0, reason="becoming somebody else needs root")
def test_a_number_without_a_name_or_a_home_is_somebody(tmp_path):
    def work():
        prepare_environment(Workspace(tmp_path))
        home = os.environ["HOME"] == str(tmp_path / ".sluice" / "home")
        return 0 if failures.user_name() == os.environ["USER"] == f"uid {NOBODY}" and home else 1

    assert as_nobody(work) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="becoming somebody else needs root")
def test_doctor_says_that_a_workspace_cannot_be_written(tmp_path):
    from flows.host.doctor import _disk

    assert _disk(Workspace(tmp_path))["ok"]
    assert as_nobody(lambda: _disk(Workspace(tmp_path))["ok"]) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="becoming somebody else needs root")
@pytest.mark.parametrize("home", ["", "relative", "/dev/null"])
def test_a_home_that_can_be_none_is_replaced(tmp_path, home):
    def work():
        os.environ["HOME"] = home
        prepare_environment(Workspace(tmp_path))
        return 0 if os.environ["HOME"] == str(tmp_path / ".sluice" / "home") else 1

    assert as_nobody(work) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="becoming somebody else needs root")
@pytest.mark.parametrize("arguments", [["history"], ["recipe", "use", "nano"], ["status"], ["down"]], ids=" ".join)
def test_a_folder_that_is_closed_to_the_user_is_named(arguments, tmp_path, monkeypatch):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        for place in (Path(folder), tmp_path):
            for name in ("dvc.yaml", "params.yaml"):
                shutil.copy(ROOT / name, place)
            (place / ".dvc").mkdir()
        monkeypatch.chdir(tmp_path)
        main.run_command(arguments)  # imports what it needs: the interpreter itself may lie in a folder that is closed to others
        Path(folder).chmod(0o755)
        said = Path(folder) / "said"
        said.touch(0o666)
        said.chmod(0o666)

        def work():
            os.chdir(folder)
            with said.open("w") as sys.stderr:
                return main.run_command(arguments)

        code = as_nobody(work)
        assert (code, "is closed to this user (uid 12345)" in said.read_text()) == (2, True), said.read_text()


def test_a_deleted_working_folder_is_told(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    code, said = in_one_line(["history"], capsys)
    assert (code, "was deleted" in said) == (2, True)


@pytest.mark.parametrize("name", [b"a?b=c", b"two\nlines", b"latin-\xff"])
def test_a_workspace_that_no_database_can_be_named_by_is_told(bare, capsys, name):
    folder = os.fsdecode(os.path.join(os.fsencode(bare), name))
    shutil.copytree(bare, folder, ignore=lambda _folder, names: set(names) - {"dvc.yaml", ".dvc", "config"})
    os.chdir(folder)
    code, said = in_one_line(["history"], capsys)
    assert (code, "move the clone" in said, len(said.splitlines())) == (2, True, 1)
    assert [path.name for path in Path(folder).iterdir() if path.name not in ("dvc.yaml", ".dvc")] == []


def test_a_folder_that_is_no_git_repository_is_told_what_to_do(bare, capsys):
    shutil.rmtree(bare / ".git")
    code, said = in_one_line(["stages"], capsys)
    assert (code, "git init" in said) == (2, True)


def test_without_git_there_is_no_commit_and_doctor_says_how_to_get_it(bare, monkeypatch):
    from flows.host.doctor import _git

    monkeypatch.setenv("PATH", str(bare))
    assert git.commit(bare, ()) == ""
    row = _git(Workspace(bare))
    assert (row["ok"], "apt install git" in row["do"]) == (False, True)
    with pytest.raises(UserError, match="apt install git"), failures.told():
        subprocess.run(["git", "status"], check=True)


def sluice(*arguments, cwd, shell="", **extra):
    """A process of its own, so that its streams and its environment are its own."""
    command = f"exec '{PROGRAMS / 'sluice'}' {' '.join(arguments)} {shell}"
    env = environment(ROOT, **extra)
    return subprocess.run(["sh", "-c", command], cwd=cwd, env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.long
@pytest.mark.parametrize(
    ("shell", "extra", "code"),
    [
        ("", {"PYTHONWARNINGS": "error"}, 0),
        ("", {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}, 0),
        ("", {"TMPDIR": "/nowhere/at/all"}, 0),
        ("<&- >&- 2>&-", {}, 0),
        ("2>&-", {}, 0),
        ("> /dev/full", {}, 1),
    ],
    ids=("warnings", "ascii", "no TMPDIR", "all closed", "no stderr", "full"),
)
def test_no_environment_and_no_stream_ends_a_command_in_a_traceback(bare, shell, extra, code):
    done = sluice("stages", cwd=bare, shell=shell, **extra)
    assert "Traceback" not in done.stdout + done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == (code != 0)


def test_other_people_s_packages_do_not_stand_in_for_ours(bare, tmp_path):
    for name in ("models", "tasks"):
        (tmp_path / "other" / name).mkdir(parents=True)
        (tmp_path / "other" / name / "__init__.py").write_text("raise RuntimeError('not yours')")
    program = "import sys; from flows.cli.main import run_command; sys.exit(run_command(['recipe', 'list']))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=bare,
        env=environment(ROOT, PYTHONPATH=os.pathsep.join([str(tmp_path / "other"), str(ROOT)])),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "nano" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("limit", [8, 16, 32])
def test_a_limit_of_too_few_open_files_is_told_before_a_database_is_blamed(bare, limit):
    command = f"ulimit -n {limit}; exec '{PROGRAMS / 'sluice'}' status"
    done = subprocess.run(["sh", "-c", command], cwd=bare, env=environment(ROOT), capture_output=True, text=True, timeout=60)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert f"may hold {limit} open files, must be 256 or more: 'ulimit -n 256'" in done.stderr


def prepared(folder, before, then):
    """What `then` prints in a shell's process of these settings, once the environment of a workspace is prepared."""
    program = f"""from pathlib import Path; from flows.host.workspace import *; import os, resource
prepare_environment(Workspace(Path({str(folder)!r})))
{then}"""
    command = ["sh", "-c", f'{before}; exec "$0" -c "$1"', sys.executable, program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_a_limit_that_the_user_may_raise_is_raised(tmp_path):
    assert prepared(tmp_path, "ulimit -Sn 16", "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])") == "256"
    assert prepared(tmp_path, "ulimit -Sn 300", "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])") == "300"


@pytest.mark.parametrize(("given", "kept"), [("0", "0o22"), ("020", "0o22"), ("002", "0o2"), ("022", "0o22"), ("077", "0o77")])
def test_nothing_is_made_that_everybody_may_write(tmp_path, given, kept):
    assert prepared(tmp_path, f"umask {given}", "print(oct(os.umask(0)))") == kept


def test_too_many_open_files_is_said_so():
    assert "ulimit -n" in str(failures.named(OSError(errno.EMFILE, "Too many open files")))


def test_warnings_as_errors_are_forgiven_and_other_wishes_stay():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = {"PYTHONWARNINGS": "error,ignore::UserWarning,error::DeprecationWarning"}
        forgive_warnings(given)
        assert given["PYTHONWARNINGS"] == "ignore::UserWarning"
        warnings.warn("about to go", DeprecationWarning, stacklevel=1)


def test_a_full_folder_for_temporary_files_is_named_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for number in (errno.ENOSPC, errno.EROFS, errno.EFBIG):
        said = str(failures.named(OSError(number, os.strerror(number), str(tmp_path / "tmpab12cd34" / "x"))))
        assert (f"{tmp_path / 'tmpab12cd34' / 'x'} cannot be written" in said, "TMPDIR" in said) == (True, True)
        assert "TMPDIR" not in str(failures.named(OSError(number, os.strerror(number), str(tmp_path / "mine.jsonl"))))


def test_no_folder_for_temporary_files_is_told(monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere", "/proc"])
    with pytest.raises(UserError, match=r"\(/nowhere, /proc\): name one in TMPDIR"), failures.told():
        tempfile.gettempdir()


def test_ctrl_c_that_a_library_turned_into_its_own_error_is_no_failure(monkeypatch, capsys):
    def turned():
        raise ValueError("Error building `model` serializer:\n  KeyboardInterrupt: ")

    def chained():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ValueError("cannot import") from error

    for here in (turned, chained):
        monkeypatch.setattr("flows.cli.registry.here", here)
        assert main.run_command(["history"]) == main.INTERRUPTED
        assert "the next run carries on" in capsys.readouterr().err


@pytest.mark.parametrize("table", ["", '{"read": {"/a": [{"pi', "[]", '{"read": 3}'])
def test_a_table_of_dvc_s_that_a_killed_reader_left_half_is_dropped(bare, capsys, table):
    in_one_line(["stages"], capsys)
    (bare / ".dvc" / "tmp" / "rwlock").write_text(table)
    code, said = in_one_line(["stages"], capsys)
    assert (code, said) == (0, "")


def test_ctrl_c_is_no_failure(monkeypatch, capsys):
    def interrupt():
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(registry, "here", interrupt)
    assert main.run_command(["history"]) == main.INTERRUPTED
    assert "the next run carries on" in capsys.readouterr().err
