"""Tables to rows, a batch at a time: Parquet files, folders that `datasets` saved, and data sets of the hub."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from models.core.errors import Unavailable, UserError
from models.data.importers.forms import Row, numbered
from models.data.importers.lines import Fault

BATCH = 256
"""Rows that are in memory together."""
SPOOLED = 64 << 20
HUB_S = 10.0


def parquet(path: Path, file: BinaryIO, _tell: Callable[[str], None]) -> Iterator[Row]:
    """The rows of a Parquet file; a packed one is unpacked to a file without a name first, as its end must be read before its rows."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with tempfile.SpooledTemporaryFile(SPOOLED) as spooled:
            shutil.copyfileobj(file, spooled, 1 << 20)
            spooled.seek(0)
            yield from _rows(ParquetFile(spooled, pre_buffer=False).iter_batches(BATCH))
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is no whole Parquet file ({_brief(error)}): bring it in again") from None


def saved(folder: Path) -> Iterator[Row]:
    """The rows of one split as `datasets.save_to_disk` writes it: Arrow streams, which state.json names in their order."""
    import pyarrow

    try:
        names = [str(one["filename"]) for one in json.loads((folder / "state.json").read_text(encoding="utf-8"))["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'state.json'} does not name its data files ({error!r}): save the data set again") from None
    try:
        yield from _rows(batch for name in names for batch in _batches(folder / name))
    except pyarrow.ArrowException as error:
        raise UserError(f"{folder} is no whole data set ({_brief(error)}): save it again") from None


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow

    if path.parent / path.name != path or not path.is_file():
        raise UserError(f"{path} is missing, and state.json beside it names it: save the data set again")
    with pyarrow.memory_map(str(path)) as mapped, pyarrow.ipc.open_stream(mapped) as stream:
        for batch in stream:
            for start in range(0, batch.num_rows, BATCH):
                yield batch.slice(start, BATCH)


def _rows(batches: Iterable[Any]) -> Iterator[Row]:
    number = 0
    for batch in batches:
        try:
            for value in batch.to_pylist():
                number += 1
                yield Row(number, value)
        except UnicodeDecodeError:  # of one row: each by itself
            for place in range(batch.num_rows):
                number += 1
                yield _row(number, batch.slice(place, 1))


def _row(number: int, batch: Any) -> Row:
    try:
        return Row(number, batch.to_pylist()[0])
    except UnicodeDecodeError:
        return Row(number, None, Fault("not UTF-8"))


def hub(name: str) -> Iterator[Row]:
    """The rows of OWNER/NAME, OWNER/NAME@REVISION, either with :SPLIT, as they come from the hub: of one commit, whatever is pushed then.

    Raises Unavailable where the hub does not answer, UserError where it has no such data set or several splits.
    """
    from datasets import load_dataset
    from datasets.utils import logging
    from huggingface_hub import HfApi

    logging.set_verbosity_error()
    rest, _, split = name.partition(":")
    repository, _, revision = rest.partition("@")
    try:
        commit = HfApi().dataset_info(repository, revision=revision or None, timeout=HUB_S).sha
        found = load_dataset(repository, revision=commit, streaming=True)
        yield from numbered(found[_split(name, split, list(found))])
    except UserError:
        raise
    except Exception as error:  # the library lets through what its parts raise: of the network, of the hub, of file formats
        raise Unavailable(
            f"{name} is no file or folder here, and the hub does not give it as a data set ({type(error).__name__}: {_brief(error)}): "
            "see the path, the name and the network"
        ) from None


def _split(name: str, wanted: str, splits: list[str]) -> str:
    if wanted in splits or (not wanted and len(splits) == 1):
        return wanted or splits[0]
    raise UserError(f"{name}: the splits are {', '.join(splits)}: name one, such as {name.partition(':')[0]}:{splits[0]}")


def _brief(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:160]
