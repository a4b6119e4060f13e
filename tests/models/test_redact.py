from collections import Counter

import pytest

from models.data.redact import redact

REGIONS = ("US", "GB")


def redacted(text):
    counts = Counter()
    return redact(text, REGIONS, counts), dict(counts)


@pytest.mark.parametrize(
    ("text", "expected", "kind"),
    [
        ("Write to john.doe+x@mail.example.co.uk.", "Write to [EMAIL].", "email"),
        ("Call +44 20 7946 0958 now", "Call [PHONE] now", "phone"),
        ("Call (212) 555-0123 now", "Call [PHONE] now", "phone"),
        ("Call 212-555-0123, or write", "Call [PHONE], or write", "phone"),
        ("Call 020 7946 0123.", "Call [PHONE].", "phone"),
        ("Pay with 4111 1111 1111 1111 today", "Pay with [CARD] today", "card"),
        ("Pay with 378282246310005", "Pay with [CARD]", "card"),
        ("To GB82 WEST 1234 5698 7654 32, soon", "To [IBAN], soon", "iban"),
        ("From 192.0.2.17.", "From [IP].", "ip"),
        ("From 2001:db8:85a3::8a2e:370:7334 at noon", "From [IP] at noon", "ip"),
    ],
)
def test_personal_data_is_replaced_by_its_kind_and_counted(text, expected, kind):
    assert redacted(text) == (expected, {kind: 1})


@pytest.mark.parametrize(
    "text",
    [
        "12345678 * 2125550123 = 26241",
        "2125550123 - 2125550100 = 23",
        "So 7 + 42429371 = 4826456718935123",
        "The number is 4111111111111112.",  # fails Luhn's check
        "def f(a):\n    return a[::2] + a[1:2:3]",
        "at 12:30:45 on 2024-05-17, 10:20:30:40",
        "version 1.2.3.4 and v1.2.3.4 on 127.0.0.1 or 0.0.0.0",
        "@dataclass\nclass A: x@y",
        "GB83 WEST 1234 5698 7654 32",  # fails IBAN's check
        "3.141592653589793 and 1,000,000,000",
        "ISBN 978-3-16-148410-0",
    ],
)
def test_numbers_code_and_dates_stay(text):
    assert redacted(text) == (text, {})


def test_two_of_one_kind_count_two():
    assert redacted("a@example.org, b@example.org") == ("[EMAIL], [EMAIL]", {"email": 2})


def test_redacting_twice_changes_nothing_more():
    once, _ = redacted("a@example.org +44 20 7946 0958 192.0.2.17")
    assert redacted(once) == (once, {})


@pytest.mark.parametrize(
    "text",
    [
        "git clone git@github.com:acme/widgets.git",
        "rsync -a deploy@web.example.net:/srv/site .",
        "Log in with ssh root@build.example.net first.",
        "scores = q@k.transpose(-2, -1)",
        "See section 4.2.1.3 of the standard.",
        "Upgrade to version 10.4.2.1 today.",
        "Chrome/114.0.5.90",
        "pip install thing==1.2.3.4",
        "Follow me at @ana@example.social",
    ],
)
def test_what_is_no_address_stays(text):
    counts = Counter()
    assert redact(text, ("US", "GB"), counts) == text
    assert not counts


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Write to ann@example.org.", "email"),
        ("ａｎｎ＠ｅｘａｍｐｌｅ．ｏｒｇ まで", "email"),
        ("The attack came from 81.2.69.142 at night.", "ip"),
        ("Call +44 20 7946 0123 before noon.", "phone"),
        ("اتصل على +٤٤ ٢٠ ٧٩٤٦ ٠١٢٣ قبل الظهر", "phone"),
    ],
)
def test_true_ones_are_found_in_letters_and_digits_of_any_form(text, kind):
    counts = Counter()
    assert f"[{kind.upper()}]" in redact(text, ("US", "GB"), counts)
    assert counts == {kind: 1}
