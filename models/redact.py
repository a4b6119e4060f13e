"""Personal data replaced by its kind: [EMAIL], [PHONE], [CARD], [IBAN], [IP].

A number alone is never enough: cards must pass Luhn's check and an issuer's range, IBANs their own check, phone numbers a country's
numbering plan and a grouping that people write. Sums, dates, versions and slices of code stay.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+[^\W\d_]{2,24}(?![\w-])")
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
CARD = re.compile(
    r"(?<![\w.+*/=-])(?<![+*/=<>-] )(?:\d{4}([ -])\d{4}\1\d{4}\1\d{4}|3\d{3}([ -])\d{6}\2\d{5}|\d{15,16})(?![\w*/=]|[ .-]?\d)"
)
ISSUER = re.compile(r"4\d{15}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|6(?:011|5\d\d|4[4-9]\d)\d{12}")
"""Visa, Mastercard (two ranges), American Express, Discover."""
IPV4 = re.compile(r"(?<![\w.])(?<!version )(?<!Version )(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{0,4}(?![\w:])")
MANY_DIGITS = re.compile(r"\d(?:[^\w\n]{0,3}\d){6}")
"""Seven digits in a row but for separators: the least that a phone or card number has."""
PHONE_MARKS = re.compile(r"\+|\(|\d[-.]\d|\b0\d")


@cache
def _stdnum() -> tuple[Callable[[str], bool], Callable[[str], bool]]:
    """The checks of Luhn and of IBAN."""
    from stdnum import iban, luhn

    return luhn.is_valid, iban.is_valid


def redact(text: str, phone_regions: Sequence[str], counts: Counter[str]) -> str:
    """Return the text with personal data replaced, and add to `counts` how often, by kind.

    `phone_regions`: the countries (US, GB, ...) whose national numbers are looked for; numbers with + are found for all.
    Loopback and unspecified addresses stay: they name no one.
    """
    if "@" in text:
        text = _replace(text, EMAIL, "email", bool, counts)
    if text.count(":") > 2:
        text = _replace(text, IPV6, "ip", _is_address, counts)
    if MANY_DIGITS.search(text) is None:
        return _replace(text, IPV4, "ip", _is_address, counts) if text.count(".") > 2 else text
    luhn, iban = _stdnum()
    text = _replace(text, IBAN, "iban", iban, counts)
    text = _replace(text, CARD, "card", lambda found: _is_card(found, luhn), counts)
    text = _replace(text, IPV4, "ip", _is_address, counts)
    return _without_phones(text, phone_regions, counts) if PHONE_MARKS.search(text) else text


def _replace(text: str, pattern: re.Pattern[str], kind: str, holds: Callable[[str], bool], counts: Counter[str]) -> str:
    def one(match: re.Match[str]) -> str:
        if not holds(match[0]):
            return match[0]
        counts[kind] += 1
        return f"[{kind.upper()}]"

    return pattern.sub(one, text)


def _is_card(found: str, luhn: Callable[[str], bool]) -> bool:
    digits = re.sub(r"\D", "", found)
    return ISSUER.fullmatch(digits) is not None and luhn(digits)


def _is_address(found: str) -> bool:
    """Whether it is an address of a machine, and of four groups at least: `a[::2]` and 12:30:45 are none."""
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return False
    groups = sum(1 for group in found.split(":") if group)
    return not (address.is_loopback or address.is_unspecified) and (address.version == 4 or groups > 3)


def _without_phones(text: str, regions: Sequence[str], counts: Counter[str]) -> str:
    for match in sorted(_phones(text, regions), key=lambda match: -int(match.start)):
        text = f"{text[: match.start]}[PHONE]{text[match.end :]}"
        counts["phone"] += 1
    return text


def _phones(text: str, regions: Sequence[str]) -> Iterator[Any]:
    """Yield matches that do not overlap.

    A national number must carry a bracket, a hyphen, a dot or a leading 0; none may be part of a sum.
    """
    import phonenumbers

    taken: set[int] = set()
    for region in regions or (None,):
        for match in phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.STRICT_GROUPING):
            span = set(range(match.start, match.end))
            if not taken & span and PHONE_MARKS.search(match.raw_string) and not _is_sum(text, match.start, match.end):
                taken |= span
                yield match


def _is_sum(text: str, start: int, end: int) -> bool:
    """Whether an arithmetic sign stands beside the number, or blanks stand around a sign within."""
    before, after = text[:start].rstrip(" ")[-1:], text[end:].lstrip(" ")[:1]
    return before in tuple("*/=+-^%<>") or after in tuple("*/=^%<>+") or re.search(r"\d +[-+] +\d", text[start:end]) is not None
