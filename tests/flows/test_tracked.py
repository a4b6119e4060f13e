"""Nothing is imported over data that DVC tracks and that is not here; imports that wait for 'dvc add' may follow one another."""

import json
import shutil
import subprocess

import pytest
from dvc.repo import Repo

from flows.host.workspace import Workspace
from flows.stages.pipeline import Pipeline
from flows.stages.tracked import importing
from models.core.content import folder_md5
from models.core.errors import UserError
from models.core.files import write_lines
from models.core.given import read_lines
from models.data.importers import bringing, owners
from tests.odd import ODD
from tests.workspaces import PROGRAMS, ROOT, environment


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """The least that is a workspace, with an empty data/raw."""
    root = tmp_path / "sluice"
    (root / "data" / "raw").mkdir(parents=True)
    Repo.init(str(root), no_scm=True).close()
    (root / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(root)
    return Workspace(root)


def add(place):
    with Repo(".") as repo:
        repo.add(place)


def bring(workspace, month, *questions):
    """Import a folder with these prompts; the file that they are in then."""
    source = workspace.root.parent / month
    rows = [{"id": str(number), "prompt": [{"role": "user", "content": text}]} for number, text in enumerate(questions)]
    write_lines(source / "prompts.jsonl", rows)
    raw = workspace.root / "data" / "raw"
    with importing(workspace, *owners.places(owners.owner_of(str(source)), raw).values()):
        bringing.bring(source, raw)
    return f"data/raw/prompts/{owners.file_of(owners.owner_of(str(source)))}"


def questions(workspace):
    files = sorted((workspace.root / "data" / "raw" / "prompts").glob("*.jsonl"))
    return [row["prompt"][0]["content"] for path in files for row in read_lines(path)]


def test_what_is_not_pulled_is_not_imported_over(workspace):
    file = bring(workspace, "january", "One?", "Two?")
    add(file)
    (workspace.root / file).unlink()
    before = folder_md5(workspace.root / "data")
    with pytest.raises(UserError, match=r"january\.jsonl\.dvc is here and what it tracks is not: .*'dvc pull data/raw/prompts/.*\.dvc'"):
        bring(workspace, "january", "Three?")
    assert folder_md5(workspace.root / "data") == before


def test_a_file_older_than_its_pointer_is_not_imported_over(workspace):
    file = bring(workspace, "january", "One?")
    shutil.copyfile(file, workspace.root / "old")
    bring(workspace, "january", "One?", "Two?")
    add(file)
    (workspace.root / "old").rename(file)  # as after 'git pull' without 'dvc pull'
    with pytest.raises(UserError, match=r"january\.jsonl\.dvc tracks md5 [0-9a-f]{32}, here is [0-9a-f]{32}: rows could be lost"):
        bring(workspace, "january", "Three?")
    assert questions(workspace) == ["One?"]
    bring(workspace, "february", "Three?")  # which has a file of its own
    assert sorted(questions(workspace)) == ["One?", "Three?"]


def test_imports_before_a_dvc_add_follow_one_another(workspace):
    bring(workspace, "january", "One?")
    add("data/raw/prompts")
    for month, question in (("february", "Two?"), ("march", "Three?"), ("february", "Four?")):
        bring(workspace, month, question)
    assert sorted(questions(workspace)) == ["Four?", "One?", "Three?"]
    add("data/raw/prompts")
    bring(workspace, "april", "Five?")
    assert len(questions(workspace)) == 4


@pytest.mark.parametrize("lost", ["data/raw", "data/raw/prompts"])
def test_a_folder_that_is_tracked_as_a_whole_must_be_here_whole(workspace, lost):
    bring(workspace, "january", "One?")
    write_lines(workspace.root / "data" / "raw" / "documents.jsonl", [{"id": "a", "text": "b", "source": "c"}])
    add("data/raw")
    place = workspace.root / lost
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    with pytest.raises(UserError, match=r"data/raw\.dvc (is here and what it tracks is not|tracks md5 .*rows could be lost)"):
        bring(workspace, "february", "Two?")


@pytest.mark.parametrize("tracked", ["data/raw/suites", "data/raw/suites/math500", "data/raw/suites/math500/math500.jsonl"])
def test_a_suite_that_is_tracked_must_be_here_as_well(workspace, tracked):
    suites = workspace.root / "data" / "raw" / "suites"
    write_lines(suites / "math500" / "math500.jsonl", [{"id": 1}])
    write_lines(suites / "mmlu-mini" / "items.jsonl", [{"id": 1}])
    add(tracked)
    with importing(workspace, suites / "math500"):
        pass
    place = workspace.root / tracked
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    with pytest.raises(UserError, match="'dvc pull data/raw/suites"), importing(workspace, suites / "math500"):
        pass
    bring(workspace, "january", "One?")  # records are no suite


def test_the_commands_refuse_in_one_line_and_take_paths_from_the_folder_they_are_called_in(workspace):
    def sluice(*command, folder=workspace.root):
        made = subprocess.run([PROGRAMS / "sluice", *command], cwd=folder, env=environment(ROOT), capture_output=True, text=True)
        return made.returncode, made.stderr

    books = workspace.root / "books"
    books.mkdir()
    (books / "one.txt").write_text("The book.")
    assert sluice("import", "one.txt", folder=books)[0] == 0
    add("data/raw/documents/books+one.txt.jsonl")
    (workspace.root / "data" / "raw" / "documents" / "books+one.txt.jsonl").unlink()
    code, said = sluice("import", "one.txt", folder=books)
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("sluice: data/raw/documents/books+one.txt.jsonl.dvc is here")
    code, said = sluice("suite", "import", "math500", "--from", "one.txt", folder=books)
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(f"sluice: {books}/one.txt has SHA-256")


def test_the_command_says_what_it_did_and_where_it_wrote(workspace):
    def sluice(*command):
        made = subprocess.run([PROGRAMS / "sluice", "import", *command], env=environment(ROOT), capture_output=True, text=True)
        return made.returncode, made.stdout.splitlines(), made.stderr.splitlines()

    write_lines(workspace.root / "mine.jsonl", [{"q": "One?", "a": "Yes."}] * 99 + [{"q": None, "a": "No."}])
    code, said, heard = sluice("mine.jsonl", "--map", "prompt=q", "--map", "completion=a")
    assert (code, len(heard)) == (0, 3)
    assert said == [
        "100 rows read: 99 imported, 1 quarantined (a text is missing: 1); 99 instructions",
        "what is quarantined, and why: data/quarantine/sluice+mine.jsonl.jsonl",
        "now 'dvc add data/raw/instructions/sluice+mine.jsonl.jsonl'",
    ]
    code, said, heard = sluice("mine.jsonl", "--map", "prompt=q", "--map", "completion=a", "--max-quarantined", "0")
    assert (code, said, len(heard)) == (2, [], 4)
    assert "1 of 100 rows are broken (1.0%), at most 0.0% may be: line 100: " in heard[-1]
    for wrong, message in (
        (("--map", "prompt"), "--map prompt: must be NAME=COLUMN"),
        (("--as", "poems"), "--as poems: no kind of record"),
    ):
        code, said, heard = sluice("mine.jsonl", *wrong)
        assert (code, said, len(heard)) == (2, [], 1)
        assert message in heard[0]


def test_two_imports_at_once_keep_both(workspace):
    commands = []
    for name in ("one", "two"):
        (workspace.root / f"{name}.txt").write_text(f"The book {name}.")
        commands.append([PROGRAMS / "sluice", "import", f"{name}.txt"])
    running = [subprocess.Popen(command, env=environment(ROOT), stdout=subprocess.DEVNULL) for command in commands]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    files = sorted((workspace.root / "data" / "raw" / "documents").glob("*.jsonl"))
    assert [json.loads(path.read_text())["text"] for path in files] == ["The book one.", "The book two."]


@pytest.mark.parametrize("place", ["a pipe", "a socket", "a device", "a link to nothing"])
def test_what_dvc_would_wait_for_is_named_before_it_does(workspace, place):
    make, said = ODD[place]
    make(workspace.root / "data" / "raw" / "prompts.jsonl")
    (workspace.root / "dvc.yaml").write_text("stages: {sources: {cmd: 'true', deps: [data/raw], outs: [out]}}\n")
    for ask in (lambda pipeline: pipeline.changes(), lambda pipeline: pipeline.entries(["sources"])):
        with pytest.raises(UserError, match=said):
            ask(Pipeline(workspace))
