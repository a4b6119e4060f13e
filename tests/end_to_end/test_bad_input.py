"""A person's mistake, or a machine's, is one clear line and the right exit code; nothing is half-written."""

import os
import subprocess

import pytest
from ruamel.yaml import YAML

from tests.lines import assert_one_line_each
from tests.shapes import based_on
from tests.tiny import tiny_model
from tests.workspaces import PROGRAMS, call, copy_of, environment, make_workspace, run


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("untouched") / "sluice")


@pytest.fixture
def workspace(untouched, tmp_path):
    return copy_of(untouched, tmp_path / "sluice")


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_every_typo_in_params_is_named_at_once_with_the_nearest_key(workspace):
    edit(workspace / "params.yaml", "layers:", "layerss:")
    edit(workspace / "params.yaml", "max_kl: ", "max_kl: -")
    done = run(workspace, "sluice", "run")
    assert_one_line_each(done, 2, "base.start.layerss", "did you mean base.start.layers?", "rlhf.max_kl")
    assert not (workspace / "artifacts").exists()


def test_broken_yaml_names_the_line(workspace):
    (workspace / "params.yaml").write_text("seed: 1\nmodel: [\n")
    assert_one_line_each(run(workspace, "sluice", "run"), 2, "params.yaml, line")


def test_outside_a_workspace_the_command_says_where_to_go(workspace, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run([PROGRAMS / "sluice", "status"], cwd=elsewhere, env=environment(workspace), capture_output=True, text=True)
    assert_one_line_each(done, 2, "not in a Sluice workspace")


def test_an_unknown_stage_lists_the_stages(workspace):
    assert_one_line_each(call(workspace, "stage", "polish"), 2, "no stage 'polish'", "rlhf")


def test_a_missing_input_says_how_to_get_it(workspace):
    assert_one_line_each(call(workspace, "stage", "prepare"), 2, "artifacts/records", "sluice run")


def test_a_hub_id_without_its_revision_is_asked_for_it(workspace):
    based_on(workspace, "owner/name")
    done = call(workspace, "stages", HF_HUB_OFFLINE="1")
    assert_one_line_each(done, 2, "owner/name@REVISION", "commits/main")


def test_a_base_that_git_left_out_is_named_before_anything_runs(workspace, tmp_path):
    tiny_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 9\n")
    based_on(workspace, str(tmp_path / "model"))
    assert_one_line_each(run(workspace, "sluice", "run"), 2, "pretrained: ", "is a Git LFS pointer", "git lfs pull")
    assert not (workspace / "artifacts").exists()


def test_weights_of_a_stages_input_that_are_cut_short_are_named(workspace):
    tiny_model(workspace / "artifacts" / "base")
    (workspace / "artifacts" / "prepared" / "instructions").mkdir(parents=True)
    path = workspace / "artifacts" / "base" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    assert_one_line_each(call(workspace, "stage", "sft"), 2, "stage 'sft': ", "is cut short")


@pytest.mark.parametrize(
    ("variable", "value"), [("PREFECT_API_URL", "http://127.0.0.1:9/api"), ("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")]
)
def test_an_unreachable_server_is_named(workspace, variable, value):
    done = run(workspace, "sluice", "run", **{variable: value})
    assert_one_line_each(done, 1, value, variable)


def use_files(workspace, records):
    """Switch the sources to files in data/raw, and put these records there."""
    path, yaml = workspace / "params.yaml", YAML()
    values = yaml.load(path.read_text())
    values["sources"]["records"] = {"take": "files"}
    with path.open("w") as file:
        yaml.dump(values, file)
    for kind, text in records.items():
        (workspace / "data" / "raw" / f"{kind}.jsonl").write_text(text)


def test_a_missing_data_file_is_named(workspace):
    use_files(workspace, {})
    assert_one_line_each(run(workspace, "sluice", "stage", "sources"), 2, "holds no records", "documents.jsonl")


def test_invalid_json_names_file_and_line(workspace):
    use_files(workspace, {"documents": '{"id": "a", "text": "x", "source": "s"}\n{"id": \n'})
    assert_one_line_each(run(workspace, "sluice", "stage", "sources"), 2, "documents.jsonl, line 2")
    assert not (workspace / "artifacts" / "records").exists()


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half_written(workspace):
    if os.getuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = workspace / "artifacts"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        assert_one_line_each(run(workspace, "sluice", "stage", "sources"), 1, "disk is full")
        assert list(disk.rglob("*.jsonl")) == []
    finally:
        subprocess.run(["umount", disk], check=True)
    done = run(workspace, "sluice", "stage", "sources")
    assert done.returncode == 0, done.stderr
