"""Texts become documents of whole paragraphs, whichever form they come in."""

import pytest

from models.core.errors import UserError
from models.core.given import read_lines
from models.data.importers import texts
from models.data.importers.bringing import Wanted, bring

PAGE = """<!DOCTYPE html><html><head><title>Lighthouses</title></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/shop">Buy our mugs</a></li></ul></nav>
<main><article><h1>Lighthouses</h1>
<p>A lighthouse is a tower with a lamp, built to warn ships of rocks and to show them the way into a harbour at night.</p>
<p>The keeper climbed the stairs every evening, lit the lamp, and wrote the weather down in a book until the morning came.</p>
<pre><code>def lamp():\n    return "on"</code></pre></article></main>
<footer>All rights reserved, cookies and terms</footer></body></html>"""


def pdf(*pages):
    """The bytes of a PDF with a line of text on each page."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>"]
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for number, text in enumerate(pages):
        font = "<< /Font << /F1 3 0 R >> >>"
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {5 + 2 * number} 0 R /Resources {font} >>")
        stream = f"BT /F1 12 Tf 50 700 Td ({text}) Tj ET" if text else ""
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    return (
        out + f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF".encode()
    )


def found(tmp_path, name, content, wanted=None):
    """The texts of the documents that a file becomes."""
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return [row["text"] for row in read_lines(bring(tmp_path / name, tmp_path / "raw", wanted).files[0])]


def test_a_text_becomes_documents_of_whole_paragraphs_without_the_frame(tmp_path):
    paragraphs = [f"Paragraph {n}. " + "word " * 100 for n in range(7)] + ["long " * 600]
    frame = "The frame.\n\n*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n{}\n*** END OF THIS PROJECT GUTENBERG EBOOK X ***\nLicence."
    content = b"\xef\xbb\xbf" + frame.format("\n\n".join(paragraphs)).replace("\n", "\r\n").encode()
    documents = found(tmp_path, "book.txt", content)
    assert "\n\n".join(documents).split("\n\n") == paragraphs
    assert all(len(text) <= texts.CHUNK_CHARACTERS + 10 for text in documents[:-1])


def test_what_is_left_out_of_a_book_is_said(tmp_path):
    (tmp_path / "book.txt").write_text(
        "Terms.\n*** START OF THE PROJECT GUTENBERG EBOOK ***\nOnce.\n*** END OF THE PROJECT GUTENBERG EBOOK ***\n"
    )
    said = []
    bring(tmp_path / "book.txt", tmp_path / "raw", None, said.append)
    assert any("of 101 characters, outside Project Gutenberg's markers, were left out" in line for line in said), said


def test_a_marker_far_from_the_beginning_counts(tmp_path):
    content = "Once upon a time.\n\n" * 90_000 + "*** END OF THE PROJECT GUTENBERG EBOOK ***\nLicence.\n"
    assert "Licence" not in found(tmp_path, "book.txt", content)[-1]


def test_a_line_a_time_gives_what_the_whole_gives(tmp_path):
    content = "\ufeffOne.\r\nStill one.\r\n \t\r\n\r\nTwo.\rStill two.\n\n    def f():\n\n\tpass\n\n"
    assert found(tmp_path, "a.txt", content) == ["One.\nStill one.\n\nTwo.\nStill two.\n\n    def f():\n\n\tpass"]


def test_markdown_keeps_its_form(tmp_path):
    content = "# Head\n\n- one\n  - two\n\n```\nx = 1\n```\n"
    assert found(tmp_path, "a.md", content) == [content.strip()]


@pytest.mark.parametrize("name", ["a.html", "page"])
def test_of_a_page_the_content_comes_and_menus_do_not(tmp_path, name):
    (document,) = found(tmp_path, name + ".html" * (name == "page"), PAGE)
    assert "Lighthouses" in document
    assert "lit the lamp" in document
    assert '    return "on"' in document
    assert "mugs" not in document
    assert "cookies" not in document


def test_the_pages_of_a_pdf_come_in_their_order(tmp_path):
    (document,) = found(tmp_path, "a.pdf", pdf("The first page.", "The second page."))
    assert document.split() == ["The", "first", "page.", "The", "second", "page."]
    (document,) = found(tmp_path, "no-name", pdf("By its first bytes."))
    assert document.strip() == "By its first bytes."


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"a\x00b", "holds a NUL byte: must be text in UTF-8"),
        ("a.txt", b"caf\xe9\n", "is not UTF-8"),
        ("a.txt", b"\n\n \n", "holds no record that can be used"),
        ("a.txt", b"", "is empty"),
        ("a.pdf", b"no pdf", "is no whole PDF file"),
        ("a.pdf", pdf("A page.")[:200], "is no PDF that can be read"),
        ("a.pdf", pdf(""), "holds no text (pictures of pages?)"),
        ("a.html", b"<html><body><script>draw()</script></body></html>", "has no main content"),
        ("a.txt", "Text.".encode("utf-16"), "is UTF-16, must be a plain file in UTF-8"),
        ("a.docx", b"PK\x03\x04", "is packed (zip), must be a plain file"),
        ("a.doc", b"Some text.", "neither its name nor its beginning says what it is"),
    ],
)
def test_a_text_that_cannot_be_read_is_one_line(tmp_path, name, content, said):
    with pytest.raises(UserError) as failure:
        found(tmp_path, name, content)
    assert said in str(failure.value)
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "raw").exists()


def test_a_file_without_a_telling_name_is_a_text_where_that_is_said(tmp_path):
    assert found(tmp_path, "LICENSE", "Do as you like.", Wanted(layout="text")) == ["Do as you like."]


def test_of_a_folder_of_texts_those_that_cannot_be_read_are_quarantined_by_name(tmp_path):
    folder = tmp_path / "library"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("One.")
    (folder / "b.md").write_text("Two.")
    (folder / "c.html").write_text(PAGE)
    (folder / "deep" / "d.pdf").write_bytes(pdf("Four."))
    (folder / "deep" / "e.pdf").write_bytes(b"cut")
    (folder / ".hidden.txt").write_text("No.")
    with pytest.raises(UserError, match=r"1 of 5 rows are broken \(20.0%\), at most 1.0% may be: deep/e.pdf: is no whole PDF file"):
        bring(folder, tmp_path / "raw")
    done = bring(folder, tmp_path / "raw", Wanted(max_quarantined=0.2))
    documents = list(read_lines(done.files[0]))
    name = f"{tmp_path.name}/library"
    assert [record["id"] for record in documents] == [f"{name}/{part}/1" for part in ("a.txt", "b.md", "c.html", "deep/d.pdf")]
    assert done.faults
    (fault,) = read_lines(done.faults)
    assert (fault["file"], fault["line"]) == (f"{name}/deep/e.pdf", 0)
