"""Objects of a bucket to files on this disk: every object whole and as the bucket has it, or an error; what is here already is not fetched.

An object comes into a part file, which a killed or broken fetch leaves and the next one goes on with; the part's name holds the object's
ETag, so that no two versions are joined. A whole one is compared with its size and, where the bucket has one, its MD5.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from models.core.errors import SluiceError, Unavailable, UserError
from models.core.importing import writing

SCHEME = "s3://"
REQUESTS, TRIES = 8, 6
"""How often a request is made that fails for what may pass, and how often an object is taken up whose connection breaks while it comes."""
PIECE = 1 << 20
EVERY_S = 5.0
REFUSED = {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}


class Object(NamedTuple):
    key: str
    name: str  # below the prefix
    size: int
    etag: str


@contextmanager
def fetched(address: str, folder: Path, tell: Callable[[str], None]) -> Iterator[Path]:
    """The file or folder that s3://BUCKET/PREFIX has become below `folder`; it is removed where the work with it succeeds.

    Raises UserError where there is no such bucket or object, or no right to it, and Unavailable where the server does not answer.
    """
    bucket, _, prefix = address.removeprefix(SCHEME).partition("/")
    place = folder / hashlib.md5(address.encode(), usedforsecurity=False).hexdigest()
    with writing(folder), _told(address):
        client = _client()
        found = list(_objects(client, bucket, prefix))
        if not found:
            raise UserError(f"{address}: no object is there; see 'aws s3 ls' and the prefix")
        _fetch_all(client, bucket, found, place, tell)
    alone = len(found) == 1 and found[0].key == prefix
    yield place / "objects" / found[0].name if alone else place / "objects"
    shutil.rmtree(place, ignore_errors=True)


def _client() -> Any:
    from boto3.session import Session
    from botocore.config import Config

    retries = {"max_attempts": REQUESTS, "mode": "standard"}
    return Session().client("s3", config=Config(retries=retries, connect_timeout=10, read_timeout=60))


def _objects(client: Any, bucket: str, prefix: str) -> Iterator[Object]:
    """The object of that key, or those below it, by name. Raises UserError for a name that would lead out of a folder."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for one in page.get("Contents", ()):
            key = str(one["Key"])
            if key.endswith("/") or not (key == prefix or prefix.endswith("/") or not prefix or key.startswith(f"{prefix}/")):
                continue
            name = PurePosixPath(key).name if key == prefix else key.removeprefix(prefix).lstrip("/")
            if any(part in ("..", ".", "") for part in name.split("/")) or "\x00" in name:
                raise UserError(f"{SCHEME}{bucket}/{key[:200]!r}: a name that no file may have: rename the object, or name others")
            yield Object(key, name, int(one["Size"]), str(one["ETag"]).strip('"'))


def _fetch_all(client: Any, bucket: str, found: list[Object], place: Path, tell: Callable[[str], None]) -> None:
    whole, done, said = sum(one.size for one in found), 0, time.monotonic()
    for number, one in enumerate(found, 1):
        _fetch(client, bucket, one, place, tell)
        done += one.size
        if time.monotonic() - said > EVERY_S:
            tell(f"{number:,} of {len(found):,} objects, {done / 1e6:,.0f} of {whole / 1e6:,.0f} MB fetched")
            said = time.monotonic()


def _fetch(client: Any, bucket: str, one: Object, place: Path, tell: Callable[[str], None]) -> None:
    """Have one object here, whole and as it is there."""
    from botocore import exceptions
    from urllib3.exceptions import HTTPError

    target, known = place / "objects" / one.name, place / "etags" / one.name
    part = place / "parts" / hashlib.md5(f"{one.key} {one.etag}".encode(), usedforsecurity=False).hexdigest()
    if target.is_file() and known.is_file() and known.read_text() == one.etag and target.stat().st_size == one.size:
        return
    for file in (target, known, part):
        file.parent.mkdir(parents=True, exist_ok=True)
    broken = (exceptions.HTTPClientError, exceptions.IncompleteReadError, HTTPError, OSError)
    for wait in range(TRIES):
        try:
            _continue(client, bucket, one, part)
        except broken as error:
            if isinstance(error, OSError) and error.errno in (28, 122):  # the disk is full
                raise
            tell(f"{one.key}: the connection broke ({type(error).__name__}), {part.stat().st_size / 1e6:,.1f} MB are here; trying again")
            time.sleep(min(2**wait * 0.2, 10))
            continue
        if _is_whole(part, one):
            part.replace(target)
            known.write_text(one.etag)
            return
        part.unlink()
        tell(f"{one.key}: what came is not what the bucket has (size or MD5); trying again")
    raise Unavailable(f"{SCHEME}{bucket}/{one.key} did not come whole in {TRIES} tries: import again, it goes on where it is")


def _continue(client: Any, bucket: str, one: Object, part: Path) -> None:
    """Fetch what is missing of an object."""
    begun = part.stat().st_size if part.exists() else 0
    with part.open("ab") as file:
        if begun < one.size:
            ranged = {"Range": f"bytes={begun}-"} if begun else {"ChecksumMode": "ENABLED"}  # checked by the library as it comes
            body = client.get_object(Bucket=bucket, Key=one.key, IfMatch=f'"{one.etag}"', **ranged)["Body"]
            shutil.copyfileobj(body, file, PIECE)


def _is_whole(part: Path, one: Object) -> bool:
    """Whether size and MD5 are the bucket's; of an object that came there in pieces there is no MD5."""
    if part.stat().st_size != one.size:
        return False
    if len(one.etag) != 32 or "-" in one.etag:
        return True
    with part.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == one.etag


@contextmanager
def _told(address: str) -> Iterator[None]:
    """What the library and the server say, in one line."""
    from botocore import exceptions

    try:
        yield
    except SluiceError:
        raise
    except exceptions.NoCredentialsError:
        raise UserError(f"{address}: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile of AWS's") from None
    except exceptions.ParamValidationError as error:
        raise UserError(f"{address}: must be s3://BUCKET/PREFIX ({' '.join(str(error).split())[:120]})") from None
    except exceptions.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "?"))
        if code in ("NoSuchBucket", "NoSuchKey", "404"):
            raise UserError(f"{address}: no such bucket or object ({code}): see its name, and AWS_ENDPOINT_URL") from None
        if code in REFUSED:
            raise UserError(
                f"{address}: may not be read with these credentials ({code}): see who you are and what the bucket allows"
            ) from None
        if code in ("PreconditionFailed", "412"):
            raise Unavailable(f"{address}: changed while it was fetched: import again") from None
        raise Unavailable(f"{address}: the server says {code}: see its state, and try again") from None
    except exceptions.BotoCoreError as error:
        raise Unavailable(f"{address}: {' '.join(str(error).split())[:200]}: see the network and AWS_ENDPOINT_URL, and try again") from None
