"""Listings of folders as DVC's cache holds them, for tests of what reads them."""

import hashlib
import json


def put(objects, content, suffix=""):
    """Content in a cache; return its name there."""
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    place = objects / md5[:2] / (md5[2:] + suffix)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return md5 + suffix


def listed(objects, *names, md5=""):
    """A listing in which each of these files has the same content."""
    md5 = md5 or put(objects, b"a row\n")
    return put(objects, json.dumps([{"md5": md5, "relpath": name} for name in names]).encode(), ".dir")
