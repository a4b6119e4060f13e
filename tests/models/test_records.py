"""A JSON Lines file is read whole or refused in one line; several are replaced together or not at all."""

import json
import os
import tempfile
from pathlib import Path

import pytest

from models.core.content import folder_md5
from models.core.errors import UserError
from models.core.files import write_lines
from models.core.given import read_lines
from models.core.importing import replacing
from tests.odd import ODD, without_rights


@pytest.fixture
def open_folder():
    """A folder that every user reaches."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def refused(path):
    with pytest.raises(UserError) as failure:
        list(read_lines(path))
    assert "\n" not in str(failure.value)
    assert str(path) in str(failure.value)
    return str(failure.value)


@pytest.mark.parametrize("place", ODD)
def test_what_is_no_plain_file_is_named_and_never_waited_for(tmp_path, place):
    make, said = ODD[place]
    make(tmp_path / "x.jsonl")
    assert said in refused(tmp_path / "x.jsonl")


def test_a_file_that_its_reader_has_no_right_to_is_named(open_folder):
    path = open_folder / "x.jsonl"
    path.write_text("{}\n")
    path.chmod(0)
    with without_rights():
        assert "cannot be read (Permission denied)" in refused(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"a": 7%s}' % (b"7" * 5000), "line 3: not valid JSON (Exceeds the limit (4300 digits)"),
        (b'{"a": %s%s}' % (b"[" * 5000, b"]" * 5000), "line 3: not valid JSON (nested more than 200 levels deep, column 206)"),
        (b'{"a": %s' % (b'{"a":' * 5000), "line 3: not valid JSON (nested more than 200 levels deep"),
        (b'{"a": NaN}', "line 3: not valid JSON (NaN is no number)"),
        (b'{"a": -Infinity}', "line 3: not valid JSON (-Infinity is no number)"),
        (b'{"a": 1e999}', "line 3: not valid JSON (the number 1e999 is larger than a float can be)"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "line 3: not valid JSON (the key 'c' comes twice)"),
        (b'{"a": "cut', "line 3: not valid JSON (Unterminated string"),
        (b'{"a": "caf\xe9"}', "line 3: not valid JSON ('utf-8' codec can't decode byte 0xe9"),
        (b'{"a": "\xed\xa0\xbd"}', "line 3: not valid JSON ('utf-8' codec can't decode byte 0xed"),
        (b"\x00\x00\x00\x00", "line 3: not valid JSON (Expecting value, column 1)"),
        (b"[1]", "line 3: a list, must be a JSON object"),
        (b"null", "line 3: a NoneType, must be a JSON object"),
        (b'"\\ud83d"', "line 3: a str, must be a JSON object"),
        (b'{"a": 1} {"a": 2}', "line 3: not valid JSON (Extra data"),
    ],
)
def test_a_line_that_is_no_object_that_can_be_written_again_is_named(tmp_path, line, said):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + line)
    assert said in refused(path)


def test_brackets_in_text_are_no_levels_and_two_hundred_levels_are_read(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [{"a": "[" * 5000 + '\\"' * 99 + "{"}, {"a": json.loads("[" * 199 + "]" * 199)}, {"a": [[]] * 999}]
    write_lines(path, rows)
    assert list(read_lines(path)) == rows


def test_a_bom_blank_lines_and_windows_line_ends_are_no_part_of_a_line(tmp_path):
    path = tmp_path / "x.jsonl"
    bom = b"\xef\xbb\xbf"
    path.write_bytes(bom + b'{"a": "\xef\xbb\xbf"}\r\n\r\n' + bom + b'{"a": 2}\r\n' + bom)  # of two files put together
    assert list(read_lines(path)) == [{"a": "\ufeff"}, {"a": 2}]


def test_half_a_surrogate_pair_is_read_as_the_replacement_character_and_a_whole_one_stays(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"\\ud83d": ["\\uDC4D", "\\ud83d\\udc4d", "\\\\ud83d", "\\udc4d\\ud83d"]}\n')
    assert list(read_lines(path)) == [{"\ufffd": ["\ufffd", "\U0001f44d", "\\ud83d", "\ufffd\ufffd"]}]


def replace(folder, files):
    """Write these lines in the places of these files of the folder."""
    with replacing([folder / name for name in files]) as drafts:
        for name, lines in files.items():
            for line in lines:
                drafts[folder / name].write(f"{json.dumps(line, ensure_ascii=False)}\n".encode())


@pytest.fixture
def two(tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"old": 1}])
    write_lines(tmp_path / "c.jsonl", [{"old": 3}])
    return tmp_path


def test_files_are_replaced_made_and_removed_together_and_nothing_else_is_left(two):
    replace(two, {"a.jsonl": [{"new": 1}], "b.jsonl": [{"new": 2}], "c.jsonl": []})
    assert {path.name: path.read_text() for path in two.iterdir()} == {"a.jsonl": '{"new": 1}\n', "b.jsonl": '{"new": 2}\n'}


def test_where_one_file_cannot_be_replaced_none_is(two):
    (two / "d.jsonl" / "in the way").mkdir(parents=True)
    before = folder_md5(two)
    with pytest.raises(UserError, match=r"d\.jsonl cannot be written \(Is a directory\): nothing was changed"):
        replace(two, {name: [{"new": 1}] for name in ("a.jsonl", "b.jsonl", "d.jsonl", "c.jsonl")})
    assert folder_md5(two) == before
    assert sorted(path.name for path in two.iterdir()) == ["a.jsonl", "c.jsonl", "d.jsonl"]


def test_where_one_record_cannot_be_written_no_file_is(two):
    before = folder_md5(two)
    with pytest.raises(UnicodeEncodeError):
        replace(two, {"a.jsonl": [{"new": 1}], "c.jsonl": [{"new": "\ud83d"}]})
    assert folder_md5(two) == before


def test_a_folder_that_may_not_be_written_is_named(open_folder):
    write_lines(open_folder / "a.jsonl", [{"old": 1}])
    open_folder.chmod(0o555)
    with without_rights(), pytest.raises(UserError, match=r"cannot be written \(Permission denied\): nothing was changed"):
        replace(open_folder, {"a.jsonl": [{"new": 1}]})
    assert [path.read_text() for path in open_folder.iterdir()] == ['{"old": 1}\n']


def test_a_link_to_dvc_s_cache_is_replaced_and_the_cache_is_not(two):
    cached = two / "cached"
    (two / "a.jsonl").rename(cached)
    (two / "a.jsonl").symlink_to(cached)
    replace(two, {"a.jsonl": [{"new": 1}]})
    assert (two / "a.jsonl").read_text() == '{"new": 1}\n'
    assert cached.read_text() == '{"old": 1}\n'


def test_a_file_that_stays_the_same_is_not_touched_and_the_files_may_be_in_several_folders(two):
    before = (two / "a.jsonl").stat()
    replace(two, {"a.jsonl": [{"old": 1}], "new/b.jsonl": [{"new": 2}], "empty/c.jsonl": []})
    assert (two / "a.jsonl").stat() == before
    assert sorted(path.name for path in two.iterdir()) == ["a.jsonl", "c.jsonl", "new"]


def test_what_fails_while_it_is_written_leaves_no_draft_and_no_folder(two):
    with pytest.raises(TypeError):
        replace(two, {"a.jsonl": [{"new": 1}], "new/b.jsonl": [{1, 2}]})
    assert sorted(path.name for path in two.iterdir()) == ["a.jsonl", "c.jsonl"]
    assert (two / "a.jsonl").read_text() == '{"old": 1}\n'
