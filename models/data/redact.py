"""Personal data replaced by its kind: [EMAIL], [PHONE], [CARD], [IBAN], [IP].

A number alone is never enough: cards must pass Luhn's check and an issuer's range, IBANs their own check, phone numbers a country's
numbering plan and a grouping that people write; what surrounds four numbers with dots says whether they are an address or a version. Sums,
dates, versions, sections, git remotes, logins and slices of code stay.

All are found in wide letters (ａ＠ｅｘａｍｐｌｅ．ｏｒｇ) and in digits of any script (٠٢٠ ٧٩٤٦ ٠١٢٣) as well, and where a
script puts no blanks around them. Mail addresses with letters of such a script are not found.
"""

import ipaddress
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from models.data.words import UNSPACED_LETTER

DOMAINS = """
    com org net edu gov mil int info biz name pro aero asia cat coop jobs mobi museum post tel travel xxx example test onion eco ngo
    ong academy accountant accountants actor adult africa agency amsterdam apartments app archi art associates attorney auction audio
    auto autos baby band bank barcelona bargains bayern beauty beer berlin best bet bible bike bingo bio blog boutique brussels build
    builders business buzz cab cafe camera camp capital cards care career careers cars casa cash casino catering catholic center
    charity chat cheap christmas church city claims cleaning click clinic clothing cloud club coach codes coffee college cologne
    community company computer condos construction consulting contact contractors cooking cool corsica country coupons courses credit
    cruises cyou dance dating deals degree delivery democrat dental dentist desi design dev diamonds diet digital direct directory
    discount doctor dog domains earth education email energy engineer engineering enterprises equipment esq estate eus events exchange
    expert exposed express family fan fans farm fashion finance financial fish fishing fit fitness flights florist flowers football
    forsale forum foundation frl fun fund furniture fyi gal gallery games garden gent gift gifts gives glass global gmbh gold golf
    graphics gratis green gripe group guide guitars guru hamburg haus health healthcare help hiphop hockey holdings holiday homes
    horse hospital host hosting house icu immo immobilien inc industries ink institute insurance insure international investments
    irish istanbul jetzt jewelry kaufen kim kitchen kiwi koeln kyoto land law lawyer lease legal lgbt life lighting limited limo link
    live living llc loan loans lol london love ltd ltda luxe luxury madrid maison management market marketing mba media melbourne
    memorial menu miami moda moe mom money mortgage moscow movie music nagoya network news ninja nrw nyc observer okinawa one onl
    online ooo organic osaka paris partners parts party pet photo photography photos pics pictures pink pizza place plumbing plus
    poker porn press productions promo properties property pub quebec racing radio realty recipes red rehab reise reisen rent rentals
    repair report republican rest restaurant review reviews rip rocks rodeo ruhr run sale salon sarl school schule science scot
    services sexy shiksha shoes shop shopping show singles site ski soccer social software solar solutions space sport storage store
    stream studio study style supplies supply support surf surgery swiss sydney systems taipei tattoo tax taxi team tech technology
    tennis theater theatre tickets tienda tips tirol today tokyo tools top tours town toys trade training tube university uno
    vacations vegas ventures vet viajes video villas vin vip vision vlaanderen vodka vote voyage wales wang watch webcam website
    wedding wien wiki win wine work works world wtf xin xyz yachts yoga yokohama zone zuerich
"""
TOP_LEVEL = frozenset(DOMAINS.split())
"""Top-level domains that people have mail in, brands left out; two letters, other scripts and xn-- always are one."""
EMAIL = re.compile(
    r"(?<![\w.+@-])([\w.+-]{1,64})@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+"
    r"([a-z]{2,24}|[A-Z]{2,24}|Com|Org|Net|[^\W\d_a-zA-Z]{2,24}|xn--[a-z0-9-]{2,59})(?![\w-])(?!\.[a-z0-9]|\()"
)
REMOTE = re.compile(r":(?:[^\s:]*/|~|\.|\S+\.git\b)|\s[^\s\]]*\][#$]")  # user@host:path, [user@host folder]$
LOGIN = re.compile(r"://[^\s/@]*\Z|\b(?:ssh|scp|sftp|rsync|mosh|ssh-copy-id)(?:\s+-[^\s@]+(?:\s+[^\s@-][^\s@]*)?)*\s+\Z")
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
CARD = re.compile(
    r"(?<![\w.+*/=-])(?<![+*/=<>-] )(?:\d{4}([ -])\d{4}\1\d{4}\1\d{4}|3\d{3}([ -])\d{6}\2\d{5}|\d{15,16})(?![\w*/=]|[ .-]?\d)"
)
ISSUER = re.compile(r"4\d{15}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|6(?:011|5\d\d|4[4-9]\d)\d{12}")
"""Visa, Mastercard (two ranges), American Express, Discover."""
IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{0,4}(?![\w:])")
HIGH = 50
"""A number that versions and sections seldom reach; 998 of 1,000 addresses have one as high."""
NUMBERED = (
    r"(?:versi(?:on|ón|one|o)s?|vers[ãa]o|wersj\w+|верси\w+|sürüm\w*|ver|release|revision|rev|build|firmware|driver|patch|update|upgrade|"
    r"sdk|jdk|kernel|chrome|chromium|firefox|safari|edge|opera|section|sect?|clause|chapter|paragraph|para|article|appendix|annex|figure|fig|"
    r"table|rule|step|item|abschnitt|kapitel|ziffer|secci[óo]n|se[çc][ãa]o|sezione|cap[íi]tulo|capitolo|chapitre|раздел\w*|пункт\w*)s?"
)
"""What has numbers with dots: versions and parts of texts, as several languages call them."""
VERSION = re.compile(
    rf"(?:\b{NUMBERED}|\bv|§|版本|バージョン|버전|เวอร์ชัน|[章节節条條])[^\w\n]{{0,3}}(?:v?[\d.]+(?:, | ?[-–] ?| \w{{1,3}} )){{0,3}}\Z"
    r"|[^\W\d]/\Z|[^\W\d]-\Z|(?:[=~<>!]=|\^|~) ?\Z",
    re.IGNORECASE,
)
SOME_VERSION = re.compile(rf"\b(?:{NUMBERED}|downgrade\w*|upgrad\w+|updat\w+|migrat\w+)\b", re.IGNORECASE)
VERSION_AFTER = re.compile(rf"-[^\W\d]|\+\w| {NUMBERED}\b", re.IGNORECASE)
MACHINE = re.compile(
    r"(?://|@|\b(?:ips?|ipv4|inet|addr(?:ess(?:es)?)?|adresse|direcci[óo]n|indirizzo|endere[çc]o|адрес\w*|hosts?|hostname|servers?|dns|"
    r"gateway|nameserver|router|peer|proxy|client|node|subnet|ping|ssh|curl|telnet|from|at|via)"
    r"[^\w\n]{0,3}(?:is )?|(?:地址|アドレス|주소)\S{0,2}\s?)\Z",
    re.IGNORECASE,
)
PORT = re.compile(r":\d{2,5}(?!\d)|/\d{1,2}(?![\d.])")  # or the size of a network
MANY_DIGITS = re.compile(r"\d(?:[^\w\n]{0,3}\d){6}")
"""Seven digits in a row but for separators: the least that a phone or card number has."""
PHONE_MARKS = re.compile(r"\+|\(|\d[-.]\d|\b0\d")
PIECE = re.compile(r".{1,2000}(?<=\D{3})(?=\D{3})|.{1,2000}(?![^\n])|.{1,2000}")
"""A line, or of a long one what ends between letters where there are any: phone numbers are looked for in one at a time."""
OTHER_FORM = re.compile(r"[\uff01-\uff5e]|(?![0-9])\d")
AROUND = 80
"""Letters on each side of a find that are looked at."""


@cache
def _stdnum() -> tuple[Callable[[str], bool], Callable[[str], bool]]:
    """The checks of Luhn and of IBAN."""
    from stdnum import iban, luhn

    return luhn.is_valid, iban.is_valid


def redact(text: str, phone_regions: Sequence[str], counts: Counter[str]) -> str:
    """Return the text with personal data replaced, and add to `counts` how often, by kind.

    `phone_regions`: the countries (US, GB, ...) whose national numbers are looked for; numbers with + are found for all.
    Loopback and unspecified addresses stay, masks and those of groups too: they name no one.
    """
    page = _Page(text)
    if "@" in page.plain:
        page.look("email", EMAIL, _is_mail)
    if page.plain.count(":") > 2:
        page.look("ip", IPV6, lambda found: _is_ipv6(found[0]))
    has_numbers = MANY_DIGITS.search(page.plain) is not None
    if has_numbers:
        luhn, iban = _stdnum()
        page.look("iban", IBAN, lambda found: iban(found[0]))
        page.look("card", CARD, lambda found: _is_card(found[0], luhn))
    if page.plain.count(".") > 2:
        page.look("ip", IPV4, lambda found: _is_ipv4(found[0], *_around(text, *found.span())))
    if has_numbers and PHONE_MARKS.search(page.plain):
        page.found += [(start, end, "phone") for start, end in _phones(page.plain, phone_regions)]
    return page.redacted(counts) if page.found else text


class _Page:
    """A text beside a plain copy, place for place: wide letters as ASCII, digits as 0-9, letters of scripts without blanks as blanks."""

    def __init__(self, text: str) -> None:
        self.text, self.plain, self.found = text, text, list[tuple[int, int, str]]()
        if not text.isascii():
            self.plain = OTHER_FORM.sub(_plain_letter, UNSPACED_LETTER.sub(" ", text))

    def look(self, kind: str, pattern: re.Pattern[str], holds: Callable[[re.Match[str]], bool]) -> None:
        """Note what the pattern finds and `holds` agrees to, and take it out of the plain copy."""

        def one(match: re.Match[str]) -> str:
            if not holds(match):
                return match[0]
            self.found.append((*match.span(), kind))
            return "\0" * len(match[0])

        self.plain = pattern.sub(one, self.plain)

    def redacted(self, counts: Counter[str]) -> str:
        parts, last = list[str](), 0
        for start, end, kind in sorted(self.found):
            parts += (self.text[last:start], f"[{kind.upper()}]")
            last = end
            counts[kind] += 1
        return "".join((*parts, self.text[last:]))


def _plain_letter(found: re.Match[str]) -> str:
    wide = "\uff01" <= found[0] <= "\uff5e"
    return chr(ord(found[0]) - 0xFEE0) if wide else str(unicodedata.decimal(found[0]))


def _around(text: str, start: int, end: int) -> tuple[str, str]:
    """What stands before and after, in the same line or before it."""
    return text[max(0, start - AROUND) : start], text[end : end + AROUND].partition("\n")[0]


def _is_mail(found: re.Match[str]) -> bool:
    """Whether the domain's end is known, and it is no login, no git remote and no part of an address of the web."""
    user, top = found[1], found[2].lower()
    if len(top) > 2 and top.isascii() and top not in TOP_LEVEL and not top.startswith("xn--"):
        return False
    before, after = _around(found.string, *found.span())
    return user not in ("git", "hg") and not LOGIN.search(before) and not REMOTE.match(after)


def _is_card(found: str, luhn: Callable[[str], bool]) -> bool:
    digits = re.sub(r"\D", "", found)
    return ISSUER.fullmatch(digits) is not None and luhn(digits)


def _is_ipv6(found: str) -> bool:
    """Whether it is an address of a machine, and of four groups at least: `a[::2]` and 12:30:45 are none."""
    return _names_one(found) and sum(1 for group in found.split(":") if group) > 3


def _is_ipv4(found: str, before: str, after: str) -> bool:
    """Whether it is an address of a machine and no version or section, as what stands around says; low numbers alone are none."""
    if not _names_one(found) or VERSION.search(before) or VERSION_AFTER.match(after):
        return False
    if max(map(int, found.split("."))) >= HIGH:
        return True
    return (MACHINE.search(before) or PORT.match(after)) is not None and not SOME_VERSION.search(before)


def _names_one(found: str) -> bool:
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast or address.is_reserved)


def _phones(text: str, regions: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield where phone numbers begin and end, none twice."""
    for piece in PIECE.finditer(text):
        if MANY_DIGITS.search(piece[0]) and PHONE_MARKS.search(piece[0]):
            for start, end in _phones_of(piece[0], regions):
                yield piece.start() + start, piece.start() + end


def _phones_of(text: str, regions: Sequence[str]) -> Iterator[tuple[int, int]]:
    """A national number must carry a bracket, a hyphen, a dot or a leading 0; none may be part of a sum."""
    import phonenumbers

    taken: set[int] = set()
    for region in regions or (None,):
        for match in phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.STRICT_GROUPING):
            span = set(range(match.start, match.end))
            if not taken & span and PHONE_MARKS.search(match.raw_string) and not _is_sum(text, match.start, match.end):
                taken |= span
                yield match.start, match.end


def _is_sum(text: str, start: int, end: int) -> bool:
    """Whether an arithmetic sign stands beside the number, or blanks stand around a sign within."""
    before, after = text[:start].rstrip(" ")[-1:], text[end:].lstrip(" ")[:1]
    return before in tuple("*/=+-^%<>") or after in tuple("*/=^%<>+") or re.search(r"\d +[-+] +\d", text[start:end]) is not None
