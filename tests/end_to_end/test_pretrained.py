"""A published base in whole workspaces: what `dvc repro` makes of new weights under an old name; a recipe without one is spared."""

import json
import shutil

import pytest

from models.core.content import folder_md5
from tests.shapes import based_on
from tests.tiny import tiny_model
from tests.workspaces import call, copy_of, run


def test_a_recipe_that_trains_from_scratch_links_nothing(finished):
    assert [path.name for path in (finished / "data" / "pretrained").iterdir()] == [".gitkeep"]
    assert json.loads((finished / "metrics" / "base.json").read_text())["pretrained_md5"] is None
    assert json.loads(call(finished, "lineage", "1", "--json").stdout)["parents"]["pretrained_md5"] is None


def changed(workspace):
    return {row["name"] for row in json.loads(call(workspace, "stages", "--json").stdout) if row["state"] == "changed"}


def repro(workspace):
    """What `dvc repro base` ran."""
    done = run(workspace, "dvc", "repro", "base")
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]


@pytest.mark.slow
def test_dvc_repro_alone_trains_again_where_the_weights_under_the_path_are_others(finished, tmp_path):
    workspace, folder = copy_of(finished, tmp_path / "sluice"), tiny_model(tmp_path / "model", 1)
    based_on(workspace, str(folder))
    assert repro(workspace) == ["tokenizer", "base"]
    assert repro(workspace) == []
    assert not {"tokenizer", "base"} & changed(workspace)
    shutil.copyfile(tiny_model(tmp_path / "other", 2) / "model.safetensors", folder / "model.safetensors")
    assert {"tokenizer", "base"} <= changed(workspace)
    assert repro(workspace) == ["tokenizer", "base"]
    assert json.loads((workspace / "metrics" / "base.json").read_text())["pretrained_md5"] == folder_md5(folder)


@pytest.mark.slow
def test_the_champion_is_trained_on_from(finished, tmp_path):
    workspace = copy_of(finished, tmp_path / "sluice")
    based_on(workspace, "models:/assistant@champion")
    assert repro(workspace) == ["tokenizer", "base"]
    weights = [workspace / "artifacts" / stage / "model.safetensors" for stage in ("base", "rlhf")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not {"tokenizer", "base"} & changed(workspace)
