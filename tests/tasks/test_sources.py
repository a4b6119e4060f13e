"""Sources come from the world or from files, and a broken file is named."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from models.core.content import folder_md5
from models.core.errors import UserError
from models.core.files import write_lines
from models.core.given import read_lines
from tasks.sources import SourcesInputs, SourcesOutputs, SourcesParams, sources
from tests.odd import ODD, PLACES
from tests.suites import own

QUIZ = "format: exact\nitems: quiz.jsonl\n"
SUITES = ("mmlu-mini", "gpqa-mini", "humaneval-mini")
WORLD = YAML(typ="safe").load(Path(__file__).parents[2] / "models" / "recipes" / "nano" / "params.yaml")["sources"]["records"]


def run(raw, target, take="files", suites=SUITES, seed=3):
    params = SourcesParams(seed=seed, suites=suites, records={"take": take, **(WORLD if take == "world" else {})})
    outputs = SourcesOutputs(records=target / "records", suites=target / "suites")
    return sources(params, SourcesInputs(raw=raw), outputs)


@pytest.fixture
def raw(tmp_path):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    folder = tmp_path / "raw"
    write_lines(folder / "documents.jsonl", [{"id": "1", "text": "a", "source": "s"}])
    write_lines(folder / "instructions.jsonl", [{"id": "1", "messages": messages, "source": "s"}])
    pair = {"prompt": messages[:1], "chosen": messages[1:], "rejected": messages[1:]}
    write_lines(folder / "preferences.jsonl", [{"id": "1", **pair, "source": "s"}])
    write_lines(folder / "prompts.jsonl", [{"id": "1", "prompt": messages[:1]}])
    own(folder / "suites" / "quiz", QUIZ, [{"question": "Why?", "answer": "because"}], file="quiz.jsonl")
    return folder


def test_the_world_gives_equal_bytes_for_equal_seeds_and_counts_what_it_wrote(tmp_path):
    one, other = (run(tmp_path, tmp_path / name, take="world") for name in ("one", "other"))
    assert one == other
    assert folder_md5(tmp_path / "one") == folder_md5(tmp_path / "other")
    assert one.documents == len(list(read_lines(tmp_path / "one" / "records" / "documents.jsonl")))
    assert one.records == one.documents + one.instructions + one.preferences + one.prompts
    assert set(one.suite_items) == set(SUITES)


def test_files_are_copied_as_they_are(raw, tmp_path):
    metrics = run(raw, tmp_path / "out", suites=("quiz",))
    assert metrics.records == 4
    assert metrics.suite_items == {"quiz": 1}
    assert (tmp_path / "out" / "suites" / "quiz" / "quiz.jsonl").read_bytes() == (raw / "suites" / "quiz" / "quiz.jsonl").read_bytes()
    for path in raw.glob("*.jsonl"):
        assert (tmp_path / "out" / "records" / path.name).read_bytes() == path.read_bytes()


def test_what_was_made_by_hand_comes_first_then_what_imports_brought_by_name(raw, tmp_path):
    (raw / "documents.jsonl").write_text('{"id": "1", "text": "a", "source": "s"}')  # without a line end
    write_lines(raw / "documents" / "z.jsonl", [{"id": "z", "text": "a", "source": "s"}])
    (raw / "documents" / "b.jsonl").write_text('\ufeff{"id": "b", "text": "a", "source": "s"}\n')
    (raw / "documents" / ".c.jsonl.draft").write_text("{cut")
    write_lines(raw / "prompts" / "only.jsonl", [{"id": "2", "prompt": []}])
    (raw / "prompts.jsonl").unlink()
    metrics = run(raw, tmp_path / "out", suites=("quiz",))
    assert (metrics.documents, metrics.prompts) == (3, 1)
    assert [row["id"] for row in read_lines(tmp_path / "out" / "records" / "documents.jsonl")] == ["1", "b", "z"]
    assert (tmp_path / "out" / "records" / "prompts.jsonl").read_bytes() == (raw / "prompts" / "only.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("documents/b.jsonl.dvc", r"documents/b\.jsonl is missing, and b\.jsonl\.dvc says that it must be there: 'dvc pull'"),
        ("documents.dvc", r"documents is missing, and documents\.dvc says"),
        ("documents/b.jsonl.gz", r"b\.jsonl\.gz is packed, and only \*\.jsonl is read there"),
        ("documents/b.jsonl", r"b\.jsonl is empty"),
    ],
)
def test_a_file_of_an_import_that_is_not_here_or_cannot_be_read_is_named(raw, tmp_path, name, said):
    (raw / name).parent.mkdir(exist_ok=True)
    (raw / name).write_bytes(b"")
    with pytest.raises(UserError, match=said):
        run(raw, tmp_path / "out", suites=("quiz",))


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is empty"), ('{"id": "1"}\n', "prompt is missing"), ("{\n", "line 1: not valid JSON")],
)
def test_a_broken_file_is_a_user_error_that_names_it(raw, tmp_path, content, message):
    (raw / "prompts.jsonl").write_text(content)
    with pytest.raises(UserError, match=f"prompts.jsonl.*{message}"):
        run(raw, tmp_path / "out", suites=("quiz",))


def test_a_kind_that_is_not_there_is_left_out_and_none_at_all_is_a_user_error(raw, tmp_path):
    (raw / "prompts.jsonl").unlink()
    assert run(raw, tmp_path / "out", suites=("quiz",)).prompts == 0
    assert not (tmp_path / "out" / "records" / "prompts.jsonl").exists()
    (raw / "prompts.jsonl.dvc").touch()
    with pytest.raises(UserError, match=r"prompts.jsonl.dvc says that it must be there: 'dvc pull'"):
        run(raw, tmp_path / "pulled", suites=("quiz",))
    (raw / "prompts.jsonl.dvc").unlink()
    for path in raw.glob("*.jsonl"):
        path.unlink()
    with pytest.raises(UserError, match=r"holds no records: one of documents.jsonl, instructions.jsonl"):
        run(raw, tmp_path / "none", suites=("quiz",))


def test_a_suite_without_files_is_a_user_error(raw, tmp_path):
    with pytest.raises(UserError, match="suites/mmlu is missing: it must be a folder"):
        run(raw, tmp_path / "out", suites=("quiz", "mmlu"))


@pytest.mark.parametrize(
    ("file", "place"),
    [
        *(("prompts.jsonl", place) for place in sorted(set(ODD) - {"nothing"})),
        *(("suites/quiz/more.jsonl", place) for place in sorted(set(PLACES) - {"nothing", "a folder", "what fails to be read"})),
        *(("suites/quiz/quiz.jsonl", place) for place in sorted(set(ODD) - {"nothing", "a folder", "gzip", "zstd"})),
    ],
)
def test_what_cannot_be_copied_is_named_and_never_waited_for(raw, tmp_path, file, place):
    make, said = ODD[place]
    (raw / file).unlink(missing_ok=True)
    make(raw / file)
    with pytest.raises(UserError) as failure:
        run(raw, tmp_path / "out", suites=("quiz",))
    assert said in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text(""), "suites/mmlu is a file or a link to nothing: it must be a folder"),
        (lambda path: path.symlink_to("gone"), "suites/mmlu is a file or a link to nothing: it must be a folder"),
        (lambda path: path.mkdir(), "suites/mmlu is empty"),
    ],
)
def test_a_suite_that_is_no_folder_with_files_is_named(raw, tmp_path, make, said):
    make(raw / "suites" / "mmlu")
    with pytest.raises(UserError, match=said):
        run(raw, tmp_path / "out", suites=("quiz", "mmlu"))
