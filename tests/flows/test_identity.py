"""A changed identity accepted without a run: a real DVC repository of two stages, and a real record."""

import shutil

import pytest

from flows.host.tracking import Tracker
from flows.host.workspace import Workspace, prepare_environment
from flows.registry import identity
from flows.registry.decisions import Registry
from flows.stages.pipeline import Pipeline
from models.core.errors import UserError
from tests.versions import add_version, files_of
from tests.workspaces import copy_of, git, made_once, run

pytestmark = pytest.mark.long

FILES = {
    "dvc.yaml": """stages:
  base:
    cmd: sh tasks/train.sh ${word}
    deps: [tasks/train.sh, requirements/base.lock, data/raw]
    params: [word]
    outs: [artifacts/base]
    metrics: [{metrics/base.json: {cache: false}}]
  tuned:
    cmd: sh tasks/tune.sh
    deps: [tasks/tune.sh, requirements/tuned.lock, artifacts/base]
    outs: [artifacts/tuned]
    metrics: [{metrics/tuned.json: {cache: false}}]
""",
    "params.yaml": "word: hello\n",
    "data/raw": "data\n",
    "requirements/base.lock": "torch==1\n",
    "requirements/tuned.lock": "torch==1\ntrl==1\n",
    "tasks/train.sh": "mkdir -p artifacts metrics; echo base >> runs.txt; echo $1 > artifacts/base; echo '{}' > metrics/base.json\n",
    "tasks/tune.sh": "mkdir -p metrics; echo tuned >> runs.txt; cp artifacts/base artifacts/tuned; echo '{}' > metrics/tuned.json\n",
    ".gitignore": "/artifacts/\n/.sluice/\n/runs.txt\n",
    ".dvc/.gitignore": "/tmp\n/cache\n",
    ".dvc/config": "[core]\nanalytics = false\nautostage = false\ncheck_update = false\n",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, empty_store):
    """A repository whose pipeline ran once."""
    root = made_once(tmp_path_factory.mktemp("identity") / "repository", FILES, empty_store)
    git(root, "add", "dvc.lock")
    git(root, "commit", "-qm", "a run")
    return root


@pytest.fixture
def root(made, tmp_path, monkeypatch):
    """A copy of it for each test."""
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    found = copy_of(made, tmp_path / "repository")
    prepare_environment(Workspace(found))
    monkeypatch.chdir(found)  # DVC names stages by the folder that it is in
    return found


@pytest.fixture
def registry(root):
    return Registry(Tracker(Workspace(root), "assistant"))


def append(path, text="# mended\n"):
    path.write_text(path.read_text() + text)


def accept(registry, reason="only a comment was mended", needed=("base", "tuned")):
    workspace = registry.tracker.workspace
    return identity.accept(workspace, registry, Pipeline(workspace), set(needed), reason)


def outs(root):
    return {name: entry["outs"] for name, entry in Pipeline(Workspace(root)).recorded().items()}


def refused(root, registry):
    """What is said where the door stays shut; neither dvc.lock nor the record moves."""
    lock = (root / "dvc.lock").read_bytes()
    with pytest.raises(UserError) as raised:
        accept(registry)
    assert (root / "dvc.lock").read_bytes() == lock
    assert registry.history() == []
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_mended_comment_is_accepted_and_nothing_runs(root, registry):
    before, runs = outs(root), (root / "runs.txt").read_text()
    append(root / "tasks" / "train.sh")
    assert accept(registry) == ["base"]
    assert Pipeline(Workspace(root)).changes() == {}
    assert "up to date" in run(root, "dvc", "status").stdout
    assert "up to date" in run(root, "dvc", "repro").stdout
    assert outs(root) == before
    assert (root / "runs.txt").read_text() == runs
    (row,) = registry.history()
    assert (row["verdict"], row["reason"], row["version"], row["alias"]) == ("identity", "only a comment was mended", None, None)
    assert registry.audit() == []


def test_dvc_itself_would_have_written_the_same_lock(root, registry):
    append(root / "tasks" / "train.sh")
    append(root / "requirements" / "tuned.lock", "prefect==2\n")
    other = copy_of(root, root.parent / "other")
    assert accept(registry) == ["base", "tuned"]
    assert run(other, "dvc", "commit", "--force", "base", "tuned").returncode == 0
    assert (root / "dvc.lock").read_text() == (other / "dvc.lock").read_text()


def test_the_record_says_which_stages_from_which_hashes_to_which_and_at_which_commit(root, registry):
    pipeline = Pipeline(Workspace(root))
    before, old = pipeline.recorded_signatures(), pipeline.recorded()["tuned"]["deps"]
    append(root / "requirements" / "tuned.lock", "prefect==2\n")
    accept(registry)
    [(tags, said)] = identity.recorded(registry)
    after = Pipeline(Workspace(root))
    assert said["commit"] == git(root, "rev-parse", "HEAD") + "-dirty"
    assert list(said["stages"]) == ["tuned"]
    moved = said["stages"]["tuned"]
    assert (moved["before"], moved["after"]) == (before["tuned"], after.recorded_signatures()["tuned"])
    (path, (then, now)) = next(iter(moved["deps"].items()))
    assert path == "requirements/tuned.lock"
    assert then == next(dep["md5"] for dep in old if dep["path"] == path)
    assert now == next(dep["md5"] for dep in after.recorded()["tuned"]["deps"] if dep["path"] == path)
    assert tags["sluice.by"]


def test_a_file_that_was_split_is_accepted_as_well(root, registry):
    shutil.move(root / "tasks" / "tune.sh", root / "tasks" / "half.sh")
    (root / "tasks" / "tune.sh").write_text(". tasks/half.sh\n")
    text = FILES["dvc.yaml"].replace("[tasks/tune.sh, requirements/tuned.lock, ", "[tasks/tune.sh, tasks/half.sh, ")
    (root / "dvc.yaml").write_text(text)
    assert accept(registry) == ["tuned"]
    assert Pipeline(Workspace(root)).changes() == {}
    assert "requirements/tuned.lock" not in {dep["path"] for dep in Pipeline(Workspace(root)).recorded()["tuned"]["deps"]}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("params.yaml", "word: other\n", "dep params.yaml (word modified)"),
        ("data/raw", "other\n", "dep modified: data/raw"),
        ("artifacts/base", "other\n", "out modified: artifacts/base"),
        ("metrics/base.json", "{} \n", "out modified: metrics/base.json"),
        ("dvc.yaml", FILES["dvc.yaml"].replace("sh tasks/train.sh", "sh -e tasks/train.sh"), "changed command"),
    ],
)
def test_it_is_refused_where_more_than_code_has_changed(root, registry, name, text, said):
    append(root / "tasks" / "train.sh")
    (root / name).write_text(text)
    told = refused(root, registry)
    assert "stage 'base' is not changed by code or packages alone" in told
    assert said in told


@pytest.mark.parametrize("name", ["artifacts/base", "metrics/base.json", "tasks/train.sh", "data/raw"])
def test_it_is_refused_where_something_is_missing(root, registry, name):
    append(root / "requirements" / "base.lock")
    (root / name).unlink()
    assert f"deleted: {name}" in refused(root, registry)


def test_it_is_refused_where_a_stage_never_ran(root, registry):
    append(
        root / "dvc.yaml",
        "  more:\n    cmd: sh tasks/tune.sh\n    deps: [tasks/tune.sh]\n    outs: [artifacts/more]\n    metrics: [m.json]\n",
    )
    with pytest.raises(UserError, match="it never ran"):
        accept(registry, needed=("base", "more"))


def test_it_is_refused_where_nothing_changed_or_nobody_says_why(root, registry):
    assert "nothing to accept" in refused(root, registry)
    append(root / "tasks" / "train.sh")
    with pytest.raises(UserError, match="--accept WHY"):
        accept(registry, " ")


def test_what_a_stage_that_no_run_needs_has_changed_is_left_alone(root, registry):
    append(root / "tasks" / "tune.sh")
    append(root / "tasks" / "train.sh")
    assert accept(registry, needed=("base",)) == ["base"]
    assert list(Pipeline(Workspace(root)).changes()) == ["tuned"]


def test_a_record_of_it_that_was_edited_or_removed_is_found_and_not_believed(root, registry):
    append(root / "tasks" / "train.sh")
    accept(registry)
    run_id, lock = registry.history()[0]["run_id"], Pipeline(Workspace(root)).recorded()
    assert len(identity.accepted(registry, lock)) == 1
    path = files_of(registry, run_id) / "identity.json"
    path.write_text(path.read_text().replace("tasks/train.sh", "tasks/other.sh"))
    assert [finding.what for finding in registry.audit()] == [
        "record 1 (identity) was edited: its evidence is not what was decided on",
    ]
    assert identity.accepted(registry, lock) == []
    registry.client.delete_run(run_id)
    assert [finding.what for finding in registry.audit()] == ["record 1 is missing from the record"]


def test_versions_of_before_and_after_say_what_was_accepted(root, registry):
    workspace = Workspace(root)
    locks, signatures = [], []
    for reason in ("first", "second", ""):
        locks.append(Pipeline(workspace).recorded())
        signatures.append(Pipeline(workspace).recorded_signatures()["base"])
        if reason:
            append(root / "tasks" / "train.sh")
            accept(registry, reason)
    said = [[(one["reason"], one["since"]) for one in identity.accepted(registry, lock)] for lock in locks]
    assert said == [
        [("first", True), ("second", True)],
        [("first", False), ("second", True)],
        [("first", False), ("second", False)],
    ]
    assert identity.earlier(registry, {"base": signatures[2], "tuned": "another"}) == {"base": signatures[1::-1], "tuned": []}


def test_the_first_version_of_a_model_comes_after_it(root, registry):
    append(root / "tasks" / "train.sh")
    accept(registry)
    add_version(registry, {"q1": 1.0})
    registry.promote("1", None, "promote", "first")
    assert registry.audit() == []
    assert [row["verdict"] for row in registry.history()] == ["promote", "identity"]
