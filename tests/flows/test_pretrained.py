"""A published base counts by its content: DVC sees new weights under an old name, an alias that moved, and nothing where none is named."""

import http.server
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from flows.host.tracking import PROMOTIONS, Tracker
from flows.host.workspace import Workspace, prepare_environment
from flows.registry.decisions import Registry, registry_of
from flows.stages import pretrained
from flows.stages.pipeline import Pipeline
from models.core.content import folder_md5
from models.core.errors import UserError
from models.core.files import write_json
from tests.tiny import tiny_model
from tests.workspaces import run

pytestmark = pytest.mark.long

PIPELINE = """
stages:
  base:
    cmd: ls data/pretrained > base.txt
    deps: [data/pretrained]
    outs: [base.txt]
    metrics: [{base.json: {cache: false}}]
"""


def bring(workspace, params, **more):
    """As a run does it, with the real registry."""
    pretrained.bring(workspace, params, registry_of, **more)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models of the same shape."""
    return [tiny_model(tmp_path_factory.mktemp("models") / str(seed), seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A DVC repository with one stage, which reads data/pretrained, to be copied: DVC takes a second to make one."""
    root = tmp_path_factory.mktemp("repository")
    (root / "data" / "pretrained").mkdir(parents=True)
    (root / "data" / "pretrained" / ".gitkeep").touch()
    (root / "dvc.yaml").write_text(PIPELINE.replace("> base.txt", "> base.txt && echo {} > base.json"))
    subprocess.run(["git", "init", "-q", "."], cwd=root, check=True)
    assert run(root, "dvc", "init", "-q").returncode == 0
    return root


@pytest.fixture
def workspace(repository, tmp_path, monkeypatch):
    root = shutil.copytree(repository, tmp_path / "workspace")
    monkeypatch.chdir(root)
    return Workspace(root)


def links(workspace):
    return sorted(path.name for path in (workspace.root / "data" / "pretrained" / "model").glob("*"))


def note(workspace):
    return json.loads((workspace.root / "data" / "pretrained" / "source.json").read_text())


def test_new_weights_under_the_same_path_are_a_change_to_dvc_and_to_sluice(workspace, models, tmp_path):
    folder = shutil.copytree(models[0], tmp_path / "model")
    bring(workspace, {"pretrained": str(folder)})
    assert run(workspace.root, "dvc", "repro", "-q").returncode == 0
    assert Pipeline(workspace).changes() == {}
    shutil.copyfile(models[1] / "model.safetensors", folder / "model.safetensors")
    assert "modified:           data/pretrained" in run(workspace.root, "dvc", "status").stdout
    assert Pipeline(workspace).changes() == {"base": ["dep modified: data/pretrained"]}
    assert "Running stage 'base'" in run(workspace.root, "dvc", "repro").stdout
    bring(workspace, {"pretrained": str(folder)})
    assert Pipeline(workspace).changes() == {}


@pytest.mark.slow
def test_what_is_not_read_of_a_folder_is_no_change(workspace, models, tmp_path):
    folder = shutil.copytree(models[0], tmp_path / "model")
    bring(workspace, {"pretrained": str(folder)})
    assert run(workspace.root, "dvc", "repro", "-q").returncode == 0
    (folder / "README.md").write_text("another word")
    bring(workspace, {"pretrained": str(folder)})
    assert Pipeline(workspace).changes() == {}


@pytest.mark.slow
def test_files_that_come_and_go_come_and_go(workspace, models, tmp_path):
    folder = shutil.copytree(models[0], tmp_path / "model")
    bring(workspace, {"pretrained": str(folder)})
    (folder / "generation_config.json").rename(folder / "special_tokens_map.json")
    bring(workspace, {"pretrained": str(folder)})
    assert "special_tokens_map.json" in links(workspace)
    assert "generation_config.json" not in links(workspace)
    bring(workspace, {"pretrained": None})
    assert [path.name for path in (workspace.root / "data" / "pretrained").iterdir()] == [".gitkeep"]


@pytest.mark.slow
def test_a_folder_that_somebody_deleted_is_as_git_keeps_it_again(workspace):
    place = workspace.root / "data" / "pretrained"
    assert run(workspace.root, "dvc", "repro", "-q").returncode == 0
    shutil.rmtree(place)
    bring(workspace, {"pretrained": None})
    assert Pipeline(workspace).changes() == {}


def test_a_path_is_seen_from_the_workspace(workspace, models):
    shutil.copytree(models[0], workspace.root / "data" / "mine")
    bring(workspace, {"pretrained": "data/mine"})
    assert "model.safetensors" in links(workspace)


@pytest.mark.slow
def test_a_gguf_file_is_a_model(workspace, tmp_path):
    (tmp_path / "small.gguf").write_bytes(b"GGUF and so on")
    bring(workspace, {"pretrained": str(tmp_path / "small.gguf")})
    assert links(workspace) == ["small.gguf"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("artifacts/rlhf", "is made by the pipeline itself"),
        ("/no/such/folder", "pretrained: /no/such/folder is missing"),
        ("gpt2", "is neither a folder nor a name: must be owner/name@REVISION"),
        ("models:/assistant", "is neither a folder nor a name"),
        ("s3://bucket/model", "is neither a folder nor a name"),
    ],
)
def test_what_can_be_no_base_is_one_line(workspace, models, source, said):
    shutil.copytree(models[0], workspace.root / "artifacts" / "rlhf")
    with pytest.raises(UserError, match=said) as caught:
        bring(workspace, {"pretrained": source})
    assert "\n" not in str(caught.value)


def test_a_persons_files_in_the_place_of_the_links_are_never_deleted(workspace, models):
    mine = shutil.copytree(models[0], workspace.root / "data" / "pretrained" / "mine")
    for source in (None, "data/pretrained/mine"):
        with pytest.raises(UserError, match="data/pretrained holds mine"):
            bring(workspace, {"pretrained": source})
    assert (mine / "model.safetensors").is_file()


@pytest.fixture(scope="module")
def registry(tmp_path_factory, models):
    """A registry of its own with both models, champion the first."""
    store = Workspace(tmp_path_factory.mktemp("registry"))
    prepare_environment(store)
    found = Registry(Tracker(store, "assistant"))
    run_id = found.tracker.start(PROMOTIONS, "versions", {})
    found.client.create_registered_model("assistant")
    for number, model in enumerate(models):
        source = store.root / "store" / str(number)
        shutil.copytree(model, source / "model")
        write_json(source / "MLmodel", {})
        found.client.create_model_version("assistant", source.as_uri(), run_id, tags={"sluice.model_md5": folder_md5(model)})
    found.client.create_model_version("assistant", (store.root / "store" / "0").as_uri(), run_id)
    found.tracker.end(run_id, "KILLED")
    return found


@pytest.fixture
def store(registry, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.tracker.uri)
    registry.client.set_registered_model_alias("assistant", "champion", "1")
    return registry


def content(workspace):
    return folder_md5(workspace.root / "data" / "pretrained" / "model")


def test_an_alias_that_moved_is_another_base(store, workspace, models):
    params = {"model": "assistant", "pretrained": "models:/assistant@champion"}
    bring(workspace, params)
    assert note(workspace) == {"source": "models:/assistant@champion", "resolved": "models:/assistant/1"}
    assert content(workspace) == folder_md5(models[0])
    store.client.set_registered_model_alias("assistant", "champion", "2")
    bring(workspace, params, ask=False)  # between two stages of a run it stays what it was
    assert content(workspace) == folder_md5(models[0])
    bring(workspace, params, fetch=False)  # 'sluice stages' says that it changed, and fetches nothing
    assert (note(workspace)["resolved"], links(workspace)) == ("models:/assistant/2", [])
    bring(workspace, params)
    assert content(workspace) == folder_md5(models[1])


@pytest.mark.usefixtures("store")
def test_a_version_stays_what_it_is(workspace, models):
    params = {"model": "assistant", "pretrained": "models:/assistant/2"}
    bring(workspace, params)
    assert content(workspace) == folder_md5(models[1])
    shutil.rmtree(workspace.state / "pretrained")
    bring(workspace, params)
    assert content(workspace) == folder_md5(models[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("models:/assistant@nobody", "no version or alias 'nobody' of assistant"),
        ("models:/assistant/99", "no version or alias '99' of assistant"),
        ("models:/no-such-model/1", "no version or alias '1' of no-such-model"),
        ("models:/assistant/3", "was not registered by Sluice"),
    ],
)
@pytest.mark.usefixtures("store")
def test_what_the_registry_has_not_is_one_line(workspace, source, said):
    with pytest.raises(UserError, match=said):
        bring(workspace, {"model": "assistant", "pretrained": source})


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a model hub as a download needs: one model at one commit, on the branch main."""

    folder: Path
    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def do_GET(self):
        said = re.fullmatch(r"/api/models/owner/name(?:/revision/(.+?))?(?:\?.*)?", self.path)
        if said and said[1] in (None, "main", self.COMMIT):
            names = [{"rfilename": path.name} for path in self.folder.iterdir()]
            return self._send(json.dumps({"id": "owner/name", "sha": self.COMMIT, "siblings": names}).encode())
        tree = re.match(rf"/api/models/owner/name/tree/{self.COMMIT}", self.path)
        if tree:
            files = [{"type": "file", "path": path.name, "size": path.stat().st_size, "oid": path.name} for path in self.folder.iterdir()]
            return self._send(json.dumps(files).encode())
        file = re.fullmatch(rf"/owner/name/resolve/{self.COMMIT}/([\w.]+)", self.path)
        if file and (self.folder / file[1]).is_file():
            return self._send((self.folder / file[1]).read_bytes(), file[1])
        code = "RevisionNotFound" if self.path.startswith("/api/models/owner/name/") else "RepoNotFound"
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        return self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def _send(self, content, name=""):
        self.send_response(200)
        for key, value in {"Content-Length": str(len(content)), "ETag": f'"{name}"', "X-Repo-Commit": self.COMMIT}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(models, tmp_path, monkeypatch):
    from huggingface_hub import constants

    handler = type("OneModel", (Hub,), {"folder": models[0]})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("hub")
def test_a_hub_id_without_its_revision_is_told_todays_commit(workspace):
    with pytest.raises(UserError, match=f"owner/name@REVISION: today that is owner/name@{Hub.COMMIT}"):
        bring(workspace, {"pretrained": "owner/name"})


@pytest.mark.slow
def test_without_a_hub_it_says_where_to_find_the_revision(workspace, hub):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(UserError, match=r"the hub did not say .*commits/main"):
        bring(workspace, {"pretrained": "owner/name"})


@pytest.mark.slow
@pytest.mark.parametrize("revision", ["main", Hub.COMMIT])
def test_the_commit_that_a_revision_stood_for_is_noted_and_stays(workspace, hub, models, revision):
    params = {"pretrained": f"owner/name@{revision}"}
    bring(workspace, params, fetch=False)
    assert links(workspace) == []
    bring(workspace, params)
    assert note(workspace)["resolved"] == f"owner/name@{Hub.COMMIT}"
    assert content(workspace) == folder_md5(models[0])
    hub.shutdown()
    hub.server_close()
    bring(workspace, params)  # nobody is asked again
    assert content(workspace) == folder_md5(models[0])


@pytest.mark.slow
@pytest.mark.parametrize(("source", "said"), [("owner/name@gone", "no such revision"), ("owner/other@main", "no such model")])
@pytest.mark.usefixtures("hub")
def test_what_the_hub_has_not_is_one_line(workspace, source, said):
    with pytest.raises(UserError, match=said):
        bring(workspace, {"pretrained": source})
