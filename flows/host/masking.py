"""What may be shown: any text with its secrets left out. All that is printed, logged, tagged or traced goes through `masked`.

A secret is known by where it stands (in an address, after `password=`, in a header) or by what it is: the value of a variable that is named
for one, or the password in a variable that holds an address, in whatever form a library may repeat it.
"""

import base64
import contextlib
import html
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

MASK = "***"
SECRET = r"(?:token|passw(?:or)?d|passphrase|pwd|secret|sig|signature|credentials?|auth[-_]?string|(?:api|access|secret|private)[-_]?key)"
NAMED_FOR_ONE = re.compile(rf"(?:^|_|PG)(?:{SECRET}|ACCESS_KEY_ID)$", re.IGNORECASE)
PLACES_OF_WORK = ("PWD", "OLDPWD")  # no passwords, for all their names
NO_SECRETS = {"true", "false", "none", "null", "default"}
SHORT, SHORTEST = 8, 4  # characters: shorter than the first, only as a word of its own; than the second, only where its place tells it
END = r"""(?=["'>),;\]}]*(?:[&\s#]|$))"""  # a value ends before the quote or bracket that its sentence put it in
PLACES = (  # (pattern, what stays)
    (re.compile(r"(?<=://)([^\s:/@]*):\S*@"), rf"\1:{MASK}@"),  # user:password@, whatever the password holds
    (re.compile(r"(?<=://)[^\s:/@]+@"), f"{MASK}@"),  # token@
    (re.compile(rf"""((?:^|[?&;\s"'({{,])[\w.-]*{SECRET}\s?=\s?)(?!{re.escape(MASK)})[^&\s]+?{END}""", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"\b(Basic|Bearer)\s+[A-Za-z0-9+/=._~-]{8,}"), rf"\1 {MASK}"),
    (re.compile(r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|hf_\w{20,}|gh[pousr]_\w{20,}|pn[ub]_\w{16,})\b"), MASK),
)


def masked(text: str) -> str:
    """The text without the secrets of this environment, and without any that its place gives away. Masking twice changes nothing more."""
    known = _pattern(tuple(_candidates(os.environ)))
    shown = known.sub(MASK, text) if known else text
    for pattern, kept in PLACES:
        shown = pattern.sub(kept, shown)
    return shown


def masked_values(value: Any) -> Any:
    """The same of every text in nested mappings and lists."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {key: masked_values(inner) for key, inner in value.items()}
    return [masked_values(inner) for inner in value] if isinstance(value, list | tuple) else value


def mask_logs() -> None:
    """From now on every log record of this process, its traceback too, is made without secrets: what handlers and servers get is masked."""
    logging.setLogRecordFactory(_MaskedRecord)


class _MaskedRecord(logging.LogRecord):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with contextlib.suppress(Exception):  # arguments that do not fit the message: its handler says so
            said = self.getMessage()
            if (shown := masked(said)) != said:
                self.msg, self.args = shown, ()
        if self.exc_info and self.exc_info[0]:
            trace = logging.Formatter().formatException(self.exc_info)
            if (shown := masked(trace)) != trace:
                self.exc_info, self.exc_text = None, shown


def _candidates(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(name, value) of each variable that holds a secret, as its value or inside an address."""
    for name, value in environ.items():
        if name in PLACES_OF_WORK:
            continue
        if value and ("@" in value or "://" in value or NAMED_FOR_ONE.search(name) or name.endswith("HEADERS")):
            yield name, value


@lru_cache(maxsize=8)
def _pattern(variables: tuple[tuple[str, str], ...]) -> re.Pattern[str] | None:
    """What finds the secrets of these variables; the longest first, so that no part of one is left."""
    whole = dict(variables)
    found = {secret for name, value in variables for secret in _secrets(name, value)}
    pairs = {f"{whole.get('MLFLOW_TRACKING_USERNAME', '')}:{whole.get('MLFLOW_TRACKING_PASSWORD', '')}"} - {":"}
    forms = {form for secret in found for form in _forms(secret)} | {base64.b64encode(pair.encode()).decode() for pair in pairs}
    forms = {form for form in forms if len(form) >= SHORTEST and form.lower() not in NO_SECRETS}
    words = [re.escape(form) if len(form) >= SHORT else rf"(?<!\w){re.escape(form)}(?!\w)" for form in sorted(forms, key=len, reverse=True)]
    return re.compile("|".join(words)) if words else None


def _secrets(name: str, value: str) -> Iterator[str]:
    """The secrets in one variable's value: itself, the part after a colon (user:password), a header's value, an address's password."""
    if NAMED_FOR_ONE.search(name):
        yield value
        if name.upper().endswith("AUTH_STRING"):
            yield value.partition(":")[2]
    elif name.endswith("HEADERS"):
        with contextlib.suppress(ValueError):
            yield from filter(None, map(str, json.loads(value).values()))
    for address in value.split() if "://" in value else ():
        about = address.partition("://")[2]
        yield about.rpartition("@")[0].partition(":")[2]  # whatever the password holds
        user, _, password = re.split("[/?#]", about)[0].rpartition("@")[0].partition(":")
        yield password or user
        for key, given in re.findall(r"[?&;]([^=&;]+)=([^&#]*)", about):
            if re.search(rf"{SECRET}$", key, re.IGNORECASE):
                yield given


def _forms(secret: str) -> Iterator[str]:
    """A secret as libraries write it: as it is, percent-encoded or decoded, escaped for JSON, Python or HTML, in base64."""
    for text in {secret, unquote(secret), unquote_plus(secret)}:
        coded = text.encode("utf-8", "surrogateescape")
        yield from (text, quote(coded), quote(coded, safe=""), quote_plus(coded), json.dumps(text)[1:-1])
        yield from (json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1], text.replace("\\", r"\\").replace("'", r"\'"))
        yield from (html.escape(text), html.escape(text, quote=False), base64.b64encode(coded).decode())
