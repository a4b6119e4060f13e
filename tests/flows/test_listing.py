"""DVC's listings, from a cache that others may write to: nothing outside of the folder and the cache is read, or written, by one."""

import json
import shutil
import subprocess

import pytest
from ruamel.yaml import YAML

from flows.stages import listing
from models.core.errors import StageError
from tests.listings import listed, put
from tests.workspaces import environment, make_repository, run


def test_the_files_of_a_folder_are_those_of_the_cache(tmp_path):
    found = listing.files(tmp_path, listed(tmp_path, "a.jsonl", "deep/b.jsonl", "..c", "d..e/f"))
    assert list(found) == ["a.jsonl", "deep/b.jsonl", "..c", "d..e/f"]
    assert {path.read_text() for path in found.values()} == {"a row\n"}
    assert listing.fault(tmp_path, [listed(tmp_path, "a.jsonl"), "0" * 32, "1" * 32 + ".dir"]) == ""


@pytest.mark.parametrize("names", [["../a"], ["/etc/passwd"], ["a/../../b"], ["a\0b"], [""], ["."], ["a", "a/b"], ["a", "a"]], ids=str)
def test_a_name_that_is_no_file_of_the_folder_is_refused(tmp_path, names):
    md5 = listed(tmp_path, *names)
    with pytest.raises(StageError) as refused:
        listing.files(tmp_path, md5)
    assert len(str(refused.value).splitlines()) == 1
    assert "it is not to be used" in str(refused.value)
    assert listing.fault(tmp_path, [md5]) == str(refused.value)


@pytest.mark.parametrize("md5", ["../../../../etc/passwd", "/etc/passwd", "", "0" * 31, "0" * 33])
def test_a_content_that_is_named_by_no_md5_is_not_looked_for(tmp_path, md5):
    for name in (listed(tmp_path, "a", md5=md5 or " "), f"{md5}.dir"):
        with pytest.raises(StageError, match=r"is no md5|not in DVC's cache"):
            listing.files(tmp_path, name)


def test_a_link_out_of_the_cache_is_not_followed(tmp_path):
    objects, secret = tmp_path / "cache", tmp_path / "secret"
    secret.write_text("not yours")
    md5 = listed(objects, "a")
    [place] = listing.files(objects, md5).values()
    place.unlink()
    place.symlink_to(secret)
    with pytest.raises(StageError, match="a link to"):
        listing.files(objects, md5)


@pytest.mark.parametrize("text", [b"", b"[", b"{}x", b"[3]", b'[{"md5": 3}]', b"\xff", b"[" * 100_000], ids=len)
def test_what_is_no_listing_is_one_line(tmp_path, text):
    with pytest.raises(StageError, match="is no listing"):
        listing.files(tmp_path, put(tmp_path, text, ".dir"))


def test_a_listing_that_was_changed_is_told_by_its_name(tmp_path):
    md5 = listed(tmp_path, "a")
    (tmp_path / md5[:2] / md5[2:]).write_text("[]")
    with pytest.raises(StageError, match="another content than its name says"):
        listing.files(tmp_path, md5)


def test_one_that_is_not_here_is_to_be_fetched(tmp_path):
    with pytest.raises(StageError, match="'dvc fetch'"):
        listing.files(tmp_path, "0" * 32 + ".dir")


STAGE = "stages:\n  made:\n    cmd: mkdir -p deep/made && echo hello > deep/made/a\n    deps: [dep]\n    outs: [deep/made]\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository whose one stage ran, and its output is gone again."""
    root = tmp_path_factory.mktemp("around") / "repository"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text("[core]\nanalytics = false\ncheck_update = false\n")
    (root / "dvc.yaml").write_text(STAGE)
    (root / "dep").write_text("")
    make_repository(root)
    assert run(root, "dvc", "repro", "--quiet").returncode == 0
    shutil.rmtree(root / "deep")
    return root


def lists(repository, entries):
    """Have dvc.lock, and no cache of runs, name a listing of these entries, in the cache as DVC protects it."""
    md5 = put(repository / ".dvc" / "cache" / "files" / "md5", json.dumps(entries).encode(), ".dir")
    (repository / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]).chmod(0o444)
    lock = YAML(typ="safe").load((repository / "dvc.lock").read_text())
    lock["stages"]["made"]["outs"][0] |= {"md5": md5, "nfiles": len(entries)}
    (repository / "dvc.lock").write_text(json.dumps(lock))
    shutil.rmtree(repository / ".dvc" / "cache" / "runs", ignore_errors=True)


HELLO = "b1946ac92492d2347c6235b4d2611184"  # what the stage wrote
BESIDE = [{"md5": HELLO, "relpath": "../../../beside"}]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (BESIDE, "names '../../../beside', must be a path inside of the folder"),
        (
            [{"md5": HELLO, "relpath": "a"}, {"md5": "../../../../../beside", "relpath": "b"}],
            "whose content is '../../../../../beside', must be an md5",
        ),
    ],
    ids=("a file", "a content"),
)
def test_dvc_under_guard_checks_nothing_out_by_a_listing_that_leads_out(repository, entries, said):
    lists(repository, entries)
    done = subprocess.run(listing.dvc("checkout"), cwd=repository, env=environment(repository), capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (255, 1), done.stderr
    assert said in done.stderr
    assert sorted(path.name for path in repository.parent.iterdir()) == ["repository"]


def test_a_run_restores_nothing_by_a_listing_that_leads_out(repository):
    lists(repository, BESIDE)
    done = run(repository, "sluice", "repro", "made")
    assert sorted(path.name for path in repository.parent.iterdir()) == ["repository"]
    assert done.returncode
    assert "must be a path inside of the folder" in done.stderr


def test_a_listing_of_dvc_s_own_is_used_under_guard(repository):
    lists(repository, [{"md5": HELLO, "relpath": "a"}])
    done = subprocess.run(listing.dvc("checkout"), cwd=repository, env=environment(repository), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (repository / "deep" / "made" / "a").read_text() == "hello\n"
