"""The tests' own workspaces: what they take of a checkout, and that copies share nothing."""

import shutil
import sqlite3
import subprocess

from tests.workspaces import CODE, REST, ROOT, copy_of, make_workspace, snapshot


def test_a_workspace_holds_the_code_as_it_is_on_disk_and_nothing_else_of_a_developer(tmp_path):
    checkout = tmp_path / "checkout"
    for name in CODE:
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in REST:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name)
    own = {"models/recipes/nano/params.yaml": "extends: tiny\nseed: 77\n", "tasks/new.py": "EDITED = True\n"}
    junk = ("params.yaml", "dvc.lock", "notes.txt", ".dvc/config.local", ".dvc/cache/x", "metrics/base.json", "artifacts/base/x")
    others = dict.fromkeys((*junk, "data/raw/documents.jsonl", "data/raw/suites/mmlu/items.jsonl", ".sluice/mlflow.db"), "x: [")
    for name, text in {**own, **others}.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(text)

    made = make_workspace(tmp_path / "made", checkout=checkout)
    assert (made / "tasks" / "new.py").read_text() == "EDITED = True\n"
    assert "seed: 77" in (made / "params.yaml").read_text()
    assert not [name for name in others if name != "params.yaml" and (made / name).exists()]
    said = subprocess.run(["git", "status", "--porcelain"], cwd=made, capture_output=True, text=True, check=True)
    assert said.stdout == ""


def test_a_copys_database_names_its_own_files_and_the_original_stays_as_it_is(tmp_path):
    original = tmp_path / "original"
    (original / ".sluice" / "mlartifacts").mkdir(parents=True)
    (original / "dvc.lock").write_text("stages: {}\n")
    with sqlite3.connect(original / ".sluice" / "mlflow.db") as store:
        store.execute('CREATE TABLE runs ("key" TEXT, artifact_uri TEXT, start INTEGER)')
        store.execute("INSERT INTO runs VALUES (?, ?, 1)", (f"{original}-2/x", f"file://{original}/.sluice/mlartifacts/1"))
    store.close()
    before = snapshot(original)

    copy = copy_of(original, tmp_path / "copy")
    (copy / "dvc.lock").write_text("stages: {base: {}}\n")
    with sqlite3.connect(copy / ".sluice" / "mlflow.db") as store:
        assert store.execute("SELECT * FROM runs").fetchall() == [(f"{original}-2/x", f"file://{copy}/.sluice/mlartifacts/1", 1)]
    store.close()
    assert snapshot(original) == before
