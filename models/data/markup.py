"""What a text says beneath the form that it was stored in: escapes of JSON, programs, HTML and web addresses, and HTML's tags."""

import re
from collections.abc import Iterator
from html import unescape

from models.core.given import whole

LEVELS = 3
"""How often escapes are read: JSON in JSON in JSON."""
HEX = "[0-9A-Fa-f]"
ESCAPE = re.compile(
    rf"\\u\{{{HEX}{{1,6}}\}}|\\x\{{{HEX}{{1,6}}\}}|\\U{HEX}{{8}}|\\u{HEX}{{4}}|\\[nrtbf/\"'\\]|(?:\\x{HEX}{{2}})+"
    rf"|(?:%{HEX}{{2}})+|&(?:[A-Za-z][A-Za-z0-9]{{1,30}}|#\d{{1,7}}|#[xX]{HEX}{{1,6}});"
)
BLANKS = dict(zip("nrtbf", "\n\r\t  ", strict=True))
COMMENT = re.compile(r"<!--[^<-]*(?:(?:-(?!->)|<(?!!--))[^<-]*)*-->")
"""Nothing is read twice, without a possessive group: Python before 3.11.5 matches those wrongly (its issue 106052)."""
TAG = re.compile(r"""</?([a-z][a-z0-9]*)(?:\s+[\w:@.-]+\s*=\s*(?:"[^"<]*"|'[^'<]*'|[^\s<>"'=]+))*\s*/?>""", re.IGNORECASE)
INLINE = re.compile(r"a|abbr|b|bdi|bdo|big|del|em|font|i|ins|kbd|mark|q|s|small|span|strike|strong|tt|u|var|wbr", re.IGNORECASE)
"""Tags that stand inside words; any other ends one."""


def readings(text: str) -> Iterator[str]:
    """Yield the text as it stands, and with its escapes read once, twice, ..., as long as there are any; none is longer."""
    yield text
    for _ in range(LEVELS):
        read = unescaped(text)
        if read == text:
            return
        yield (text := read)


def unescaped(text: str) -> str:
    """Return the text with its escapes read: what they say is not read again. Bytes are UTF-8 or else Latin-1."""
    return whole(ESCAPE.sub(_letters, text)) if ESCAPE.search(text) else text


def _letters(escape: re.Match[str]) -> str:
    found = escape[0]
    if found[0] == "&":
        return unescape(found)
    if found[0] == "%" or re.match(rf"\\x{HEX}", found):
        return _decoded(bytes.fromhex(re.sub(r"%|\\x", "", found)))
    if len(found) > 2:
        code = int(found[2:].strip("{}"), 16)
        return chr(code) if code <= 0x10FFFF else found
    return BLANKS.get(found[1], found[1])


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def without_tags(text: str, between: str = " ") -> str:
    """Return the text without HTML's tags and comments; a tag that ends a word becomes `between`."""
    if "<" not in text:
        return text
    return TAG.sub(lambda tag: "" if INLINE.fullmatch(tag[1]) else between, COMMENT.sub("", text))
