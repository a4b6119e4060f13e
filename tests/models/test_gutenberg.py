"""Every book of a file stays, and only Project Gutenberg's own markers count."""

import pytest

from models.data.gutenberg import books

START, END = "*** START OF THE PROJECT GUTENBERG EBOOK ONE ***", "*** END OF THE PROJECT GUTENBERG EBOOK ONE ***"


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (START, END),
        (f"{START}  ", f"  {END}\t"),
        (START.lower(), END.title()),
        ("***START OF THIS PROJECT GUTENBERG EBOOK ONE***", "***END OF THIS PROJECT GUTENBERG EBOOK ONE***"),
        ("***** START OF PROJECT GUTENBERG ETEXT ONE *****", "***** END OF PROJECT GUTENBERG ETEXT ONE *****"),
        ("*** START OF THE PROJECT GUTENBERG EBOOK A TITLE\nTHAT IS TOO LONG FOR A LINE ***", "*** END OF THE PROJECT GUTENBERG EBOOK"),
        ("*** START OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK ONE ***", "End of the Project Gutenberg EBook of One, by Nobody"),
        (START, f"End of Project Gutenberg’s One, by Nobody\n\n{END}"),
    ],
)
def test_a_book_is_what_stands_between_the_markers_however_they_are_written(start, end):
    for content in (
        f"Terms.\n\n{start}\n\nThe book.\n\n***\n\nIts end.\n\n{end}\n\nLicence.\n",
        f"{start}\nThe book.\n\n***\n\nIts end.\n{end}",
    ):
        assert books(content).split() == ["The", "book.", "***", "Its", "end."]


def test_every_book_of_a_file_stays():
    content = f"Terms.\n{START}\nOne.\n{END}\nLicence.\nTerms.\n{START}\nTwo.\n{END}\nLicence.\n"
    assert books(content).split() == ["One.", "Two."]


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (f"Terms.\n{START}\nOne.\n", ["One."]),
        (f"One.\n{END}\nLicence.\n", ["One."]),
        (f"{START}\nOne.\n{START}\nTwo.\n{END}\n", ["One.", "Two."]),
        (f"{START}\nOne.\n{END}\nTwo.\n{END}\n", ["One.", "Two."]),
        (f"{START}\n{END}\n", []),
    ],
)
def test_where_a_marker_is_lost_too_much_is_kept_and_not_too_little(content, kept):
    assert books(content).split() == kept


@pytest.mark.parametrize(
    "content",
    [
        "Notes.\n\n*** START OF LIST ***\nmilk\n*** END OF LIST ***\n\nDecisions.\n",
        "I read a PROJECT GUTENBERG EBOOK.\n\nIt was the end of the Project Gutenberg catalogue that I saw.\n",
        "*** START OF THIS BOOK ***\nOne.\n*** END OF THIS BOOK ***\nTwo.\n",
        "",
    ],
)
def test_a_text_without_project_gutenberg_s_own_markers_stays_whole(content):
    assert books(content) == content
