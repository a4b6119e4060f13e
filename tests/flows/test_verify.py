"""A version made again in a worktree of its commit: real git and DVC, and what is stored edited by somebody who can make its tags fit."""

import json
import shutil
import tempfile

import pytest
from ruamel.yaml import YAML

from flows.host import checkout
from flows.host.tracking import Tracker
from flows.host.workspace import Workspace, prepare_environment
from flows.registry import record
from flows.registry.decisions import Registry
from flows.registry.verify import verify
from tests.listings import listed
from tests.mlflow_server import begin, wait_for
from tests.versions import PARAMS, add_version, doctor, files_of
from tests.workspaces import git, made_once

pytestmark = pytest.mark.long

SCORES = {"q1": 1.0, "q2": 0.0}
ITEMS = [{"id": item, "subject": "", "score": score, "flags": [], "response": f"{item} {score}"} for item, score in SCORES.items()]
FILES = {
    "dvc.yaml": """stages:
  rlhf:
    cmd: sh tasks/train.sh ${word} ${more}
    deps: [tasks/train.sh]
    params: [word]
    outs: [artifacts/rlhf]
    metrics: [{metrics/rlhf.json: {cache: false}}]
  benchmark:
    matrix:
      model: [rlhf]
      suite: ${suites}
    cmd: >-
      sh tasks/ask.sh artifacts/benchmark/${item.model}-${item.suite}
      model=artifacts/${item.model} suite=artifacts/suites/${item.suite} items=artifacts/benchmark/${item.model}-${item.suite}
    deps: [tasks/ask.sh, tasks/items.jsonl, artifacts/rlhf]
    outs: ["artifacts/benchmark/${item.model}-${item.suite}"]
    metrics: [{"metrics/${item.suite}.json": {cache: false}}]
""",
    "params.yaml": f"{PARAMS}model: assistant\ncandidate: rlhf\nword: hello\nmore: {{rate: 1e-3}}\n",
    "tasks/train.sh": """mkdir -p artifacts/rlhf metrics
[ -z "$HOLD" ] || { touch "$HOLD"; sleep 300; }
echo "$1" > artifacts/rlhf/config.json
echo '{}' > metrics/rlhf.json
""",
    "tasks/ask.sh": 'mkdir -p "$1" metrics; cp tasks/items.jsonl "$1"; for name in quiz other; do echo "{}" > metrics/$name.json; done\n',
    "tasks/items.jsonl": "".join(json.dumps(item) + "\n" for item in ITEMS),
    ".gitignore": "/artifacts/\n/.sluice/\n/metrics/\n",
    ".dvc/.gitignore": "/tmp\n/cache\n/config.local\n",
    ".dvc/config": "[core]\nanalytics = false\nautostage = false\ncheck_update = false\n",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, empty_store):
    """A repository whose pipeline ran once; its lock is not committed."""
    return made_once(tmp_path_factory.mktemp("verify") / "repository", FILES, empty_store)


@pytest.fixture
def registry(made, request, monkeypatch, tmp_path):
    """A model of its own for each test; version 1, which was never decided on, is what that pipeline made."""
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    prepare_environment(Workspace(made))
    found = Registry(Tracker(Workspace(made), getattr(request, "param", f"model {hash(request.node.name)}")))
    model = shutil.copytree(made / "artifacts" / "rlhf", tmp_path / "model")
    commit = git(made, "rev-parse", "HEAD")
    add_version(found, SCORES, params=FILES["params.yaml"], lock=(made / "dvc.lock").read_text(), model=model, commit=commit)
    return found


@pytest.fixture
def planted(tmp_path):
    """A file that a planted command would make."""
    return tmp_path / "planted"


def checks(registry, retrain=False, score=False):
    """What was seen of version 1, by the name of the check."""
    return {check.name: check for check in verify(registry, registry.version("1"), retrain, score, lambda _line: None)}


def failed(found):
    return [name for name, check in found.items() if not check.ok and name != "environment"]  # the lock is not this machine's


def trees(root):
    return git(root, "worktree", "list", "--porcelain").count("worktree ")


def test_a_version_that_nobody_touched_is_made_again_from_its_commit(registry, made):
    found = checks(registry, retrain=True, score=True)
    assert failed(found) == [], found
    assert found.keys() >= {"record", "stored model", "provenance", "code", "lock and cache", "score quiz", "retrained"}
    assert found["score quiz"].seen == "2 items equal"
    assert trees(made) == 1


@pytest.mark.slow
def test_commands_of_the_stored_lock_and_of_a_stored_dvc_yaml_never_run(registry, made, planted):
    version, lock = registry.version("1"), (made / "dvc.lock").read_text()
    doctor(registry, version, "provenance/dvc.lock", lock.replace("cmd: sh ", f"cmd: touch {planted}; sh "))
    (files_of(registry, version.run_id) / "provenance" / "dvc.yaml").write_text(
        FILES["dvc.yaml"].replace("cmd: sh ", f"cmd: touch {planted}; sh ")
    )
    found = checks(registry, retrain=True, score=True)
    assert failed(found) == [], found
    assert not planted.exists()


@pytest.mark.parametrize(
    "param",
    [
        pytest.param("word: x; touch PLANTED", marks=pytest.mark.slow),
        "word: $(touch PLANTED)",
        pytest.param("word: '`touch PLANTED`'", marks=pytest.mark.slow),
        pytest.param("word: |-\n  x\n  touch PLANTED", marks=pytest.mark.slow),
        pytest.param("word: -x", marks=pytest.mark.slow),
        pytest.param("word: ../../PLANTED", marks=pytest.mark.slow),
        pytest.param("word: PLANTED", marks=pytest.mark.slow),
        pytest.param("more: {rate: '1; touch PLANTED'}", marks=pytest.mark.slow),
        pytest.param("more: {'x; touch PLANTED;': 1}", marks=pytest.mark.slow),
        pytest.param("suites: [quiz, 'other; touch PLANTED']", marks=pytest.mark.slow),
        "candidate: ../../PLANTED",
        pytest.param("candidate: -x", marks=pytest.mark.slow),
        "suites: [[quiz, {deep: '`touch PLANTED`'}]]",
    ],
)
def test_what_stored_params_would_put_into_a_command_never_runs(registry, planted, param):
    key = param.partition(":")[0]
    kept = [line for line in FILES["params.yaml"].splitlines() if not line.startswith(f"{key}:")]
    doctor(registry, registry.version("1"), "provenance/params.yaml", "\n".join([*kept, param.replace("PLANTED", str(planted)), ""]))
    found = checks(registry, retrain=True, score=True)
    assert list(found)[-1] == "commands"
    assert f" under {key}: it goes into commands, must be a plain word" in found["commands"].seen
    assert not planted.exists()


@pytest.mark.parametrize("absolute", [False, True])
def test_a_stored_lock_that_lists_files_outside_of_the_worktree_writes_none(registry, made, planted, absolute):
    lock = YAML(typ="safe").load((made / "dvc.lock").read_text())
    [out] = [out for out in lock["stages"]["rlhf"]["outs"] if out["path"] == "artifacts/rlhf"]
    cached = "b1946ac92492d2347c6235b4d2611184"  # of "hello", which artifacts/rlhf holds
    beside = str(planted) if absolute else "../" * 5 + planted.name
    out["files"] = [{"relpath": beside, "md5": cached, "size": 6}]
    del out["md5"]
    doctor(registry, registry.version("1"), "provenance/dvc.lock", json.dumps(lock))
    found = checks(registry)
    assert list(found)[-1] == "paths"
    assert f"has {beside!r} among a stage's outs" in found["paths"].seen
    assert not planted.exists()


@pytest.mark.slow
def test_commands_are_those_of_the_commit_and_not_of_the_workspace(registry, made, planted):
    commit = git(made, "rev-parse", "HEAD")
    (made / "dvc.yaml").write_text(FILES["dvc.yaml"].replace("cmd: sh ", f"cmd: touch {planted}; sh "))
    try:
        assert failed(checks(registry, retrain=True, score=True)) == []
        git(made, "commit", "-qam", "another pipeline")
        assert failed(checks(registry, score=True)) == []
    finally:
        git(made, "reset", "-q", "--hard", commit)
    assert not planted.exists()


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "params.yaml" else pytest.mark.slow) for name in record.FILES])
def test_provenance_that_was_changed_is_named_and_nothing_is_made_from_it(registry, made, name):
    registry.promote("1", None, "promote", "first")
    doctor(registry, registry.version("1"), f"provenance/{name}", "word: other\n")
    found = checks(registry, retrain=True, score=True)
    assert list(found) == ["record", "stored model", "provenance"]
    assert failed(found) == ["provenance"]
    assert found["provenance"].seen.startswith(f"{name} of version 1 is not what was registered: its stored file has md5 ")
    assert trees(made) == 1


def test_a_model_that_was_changed_is_named(registry):
    registry.promote("1", None, "promote", "first")
    doctor(registry, registry.version("1"), "logged/model/config.json", "{}")
    assert failed(checks(registry)) == ["stored model"]


@pytest.mark.slow
def test_scores_and_weights_that_come_out_otherwise_are_named(registry, made):
    version, lock = registry.version("1"), (made / "dvc.lock").read_text()
    doctor(registry, version, "evidence/quiz/items.jsonl", FILES["tasks/items.jsonl"].replace("q2 0.0", "another"))
    doctor(registry, version, "provenance/params.yaml", FILES["params.yaml"].replace("hello", "goodbye"))
    doctor(registry, version, "provenance/dvc.lock", lock)
    found = checks(registry, retrain=True, score=True)
    assert failed(found) == ["score quiz", "retrained"]
    assert found["score quiz"].seen == "items that differ: q2"


@pytest.mark.slow
@pytest.mark.parametrize("registry", ["assistant"], indirect=True)
def test_a_killed_verification_s_worktree_is_removed_by_the_next_one(registry, made, tmp_path, monkeypatch):
    hold, scratch = tmp_path / "hold", tmp_path / "scratch"
    scratch.mkdir()
    killed = begin(made, "sluice", "verify", "1", "--retrain", HOLD=str(hold), TMPDIR=str(scratch))
    try:
        wait_for(hold, 120)
        assert trees(made) == 2
    finally:
        killed.kill()
        killed.communicate()
    left = list(scratch.glob(f"{checkout.PREFIX}*"))  # what was fetched, and the tree
    assert (trees(made), len(left)) == (2, 2)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert failed(checks(registry)) == []
    assert (trees(made), [folder for folder in left if folder.exists()]) == (1, [])


@pytest.mark.parametrize(
    "hashed",
    [pytest.param({"hash": "md5"}, id="where DVC 3 keeps it"), pytest.param({}, id="where DVC 2 kept it", marks=pytest.mark.slow)],
)
def test_a_listing_that_only_the_remote_holds_writes_nothing_outside_of_its_folder(registry, made, tmp_path, monkeypatch, hashed):
    remote, scratch = tmp_path / "remote", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    name = f"../../../escaped {len(hashed)}"  # beside the worktree
    evil = listed(remote / "files" / "md5" if hashed else remote, "config.json", name)
    lock = {"schema": "2.0", "stages": {"rlhf": {"cmd": "true", "outs": [{"path": "artifacts/rlhf", "md5": evil, "nfiles": 2, **hashed}]}}}
    model = shutil.copytree(made / "artifacts" / "rlhf", tmp_path / "another")
    commit = git(made, "rev-parse", "HEAD")
    version = add_version(registry, SCORES, params=FILES["params.yaml"], lock=json.dumps(lock), model=model, commit=commit)
    seen = set()
    try:
        checkout.dvc(made, "remote", "add", "--local", "--default", "shared", str(remote))
        for check in verify(registry, registry.version(str(version.version)), False, False, lambda _line: None):
            seen |= {path.name for path in scratch.rglob("escaped*")}
            found = {check.name: check}
    finally:
        checkout.dvc(made, "remote", "remove", "--local", "shared")
    assert (seen, list(made.rglob("escaped*"))) == (set(), [])
    assert not found["lock and cache"].ok
    assert f"names '{name}', must be a path inside of the folder" in found["lock and cache"].seen
    assert len(found["lock and cache"].seen.splitlines()) == 1


def test_nothing_is_checked_out_by_a_listing_that_leads_out_of_its_folder(registry, made):
    objects = made / ".dvc" / "cache" / "files" / "md5"
    evil = listed(objects, "../../escaped")
    lock = {"stages": {"rlhf": {"cmd": "true", "outs": [{"path": "artifacts/rlhf", "md5": evil}]}}}
    add_version(
        registry,
        SCORES,
        params=FILES["params.yaml"],
        lock=json.dumps(lock),
        model=made / "artifacts" / "rlhf",
        commit=git(made, "rev-parse", "HEAD"),
    )
    found = {check.name: check for check in verify(registry, registry.version("2"), False, False, lambda _line: None)}
    assert not found["paths"].ok
    assert "must be a path inside of the folder" in found["paths"].seen
    assert "lock and cache" not in found
