"""The documents of a batch: listing them, reading them, and every way in which they are wrong."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pypdf
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from orchestrator.batches import conversion, documents, sources
from orchestrator.batches.conversion import ConversionError, html_text, pdf_text
from orchestrator.batches.documents import MAX_DOCUMENT_BYTES, Document, Source, find_documents, read_document
from orchestrator.workflows.extraction import ExtractionPipeline
from orchestrator.workflows.extraction.chunks import chunk_document
from orchestrator.workflows.extraction.errors import (
    BinaryDocumentError,
    BrokenDocumentError,
    DocumentError,
    DocumentLinkError,
    DocumentSupportError,
    DocumentTooLargeError,
    EmptyDocumentError,
    EncryptedDocumentError,
    ScannedDocumentError,
    UnknownKindError,
    UnreadableDocumentError,
)

PAGE = """\
<!doctype html><html><head><title>The  Handbook</title><style>p {}</style></head><body>
<nav><a href="/">Home</a></nav><script>let evil = 1</script>
<h1>Holdfast &amp; friends</h1><p>Ada <b>Lovelace</b>
wrote <code>pool.py</code>.<br>Then she left.</p>
<ul><li>one<li><p>two</p></ul><h3>Table</h3>
<table><tr><th>who</th><th>what</th></tr><tr><td>Keller</td><td>a|b</td></tr></table>
<pre>x = 1
```
y = 2</pre><p># no heading</p></body></html>"""

MARKDOWN = """\
# Holdfast & friends

Ada Lovelace wrote `pool.py`.
Then she left.

- one
- two

### Table

| who | what |
| Keller | a\\|b |

````
x = 1
```
y = 2
````

\\# no heading"""


def pdf(*pages: str, title: str = "") -> bytes:
    """A PDF by hand, with one line of text on each page."""
    kids = " ".join(f"{4 + 2 * index} 0 R" for index in range(len(pages)))
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for index, page in enumerate(pages):
        content = f"BT /F1 24 Tf 72 700 Td ({page}) Tj ET"
        resources = "/Resources<</Font<</F1 3 0 R>>>>/MediaBox[0 0 612 792]"
        objects.append(f"<</Type/Page/Parent 2 0 R{resources}/Contents {5 + 2 * index} 0 R>>")
        objects.append(f"<</Length {len(content)}>>stream\n{content}\nendstream")
    objects.append(f"<</Title({title})>>")
    return assemble_pdf(objects)


def assemble_pdf(objects: Sequence[str]) -> bytes:
    """Number the objects from 1; the first is the catalog and the last the information."""
    data, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{content}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    trailer = f"trailer<</Size {len(objects) + 1}/Root 1 0 R/Info {len(objects)} 0 R>>"
    start = len(data)
    return (
        data + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{trailer}\nstartxref\n{start}\n%%EOF".encode()
    )


def encrypted_pdf(user_password: str) -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf("secret")))
    writer.encrypt(user_password, "owner", algorithm="RC4-128")
    target = io.BytesIO()
    writer.write(target)
    return target.getvalue()


def names(path: Path, root: Path | None = None, **options: Any) -> list[str]:
    return [source.name for source in find_documents([path], root=root, **options)]


def only(path: Path) -> Source:
    [source] = find_documents([path])
    return source


def put(directory: Path, name: str, content: str | bytes = "Ada Lovelace wrote it.") -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, **options: Any) -> Document:
    return read_document(only(path), **options)


def given_up(path: Path, timeout_s: float) -> None:
    """Its reader is ended, by this process or, where that sleeps for seconds, by the kernel; long before it is done."""
    started = time.monotonic()
    message = str(failure(path, timeout_s=timeout_s))
    assert f"within {timeout_s} s" in message or f"end with -{int(signal.SIGXCPU)};" in message
    assert time.monotonic() - started < 60


def failure(path: Path, **options: Any) -> DocumentError:
    """The error of reading, which names the file on one line."""
    with pytest.raises(DocumentError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    return caught.value


class TestListing:
    def test_sorted_recursive_and_without_hidden_files(self, tmp_path: Path) -> None:
        for name in ("b.txt", "a/z.md", "a/b/c.htm", "a.b/x.PDF", "B.markdown", ".hidden.md", ".git/x.md", "photo.png"):
            put(tmp_path, name)
        expected = ["B.markdown", "a/b/c.htm", "a/z.md", "a.b/x.PDF", "b.txt"]
        assert names(tmp_path, root=tmp_path) == expected
        assert names(tmp_path) == [f"{tmp_path.as_posix()}/{name}" for name in expected]

    def test_relative_paths_are_taken_from_the_root_and_stay_as_given_without(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tmp_path, "docs/a.md")
        assert names(Path("docs"), root=tmp_path) == ["docs/a.md"]
        monkeypatch.chdir(tmp_path)
        assert names(Path("./docs/../docs")) == ["docs/a.md"]

    def test_each_file_once_in_the_order_of_the_paths(self, tmp_path: Path) -> None:
        put(tmp_path, "a.md")
        put(tmp_path, "b/c.md")
        (tmp_path / "d.md").symlink_to(tmp_path / "a.md")
        found = find_documents([tmp_path / "b", tmp_path], root=tmp_path)
        assert [source.name for source in found] == ["b/c.md", "a.md"]

    def test_a_link_of_no_known_kind_does_not_hide_its_file(self, tmp_path: Path) -> None:
        put(tmp_path, "report.md")
        (tmp_path / "LATEST").symlink_to("report.md")
        assert names(tmp_path, root=tmp_path) == ["report.md"]

    def test_a_hidden_or_unknown_file_that_is_given_itself_is_listed(self, tmp_path: Path) -> None:
        assert only(put(tmp_path, ".notes.md")).error is None
        photo = put(tmp_path, "photo.png")
        assert isinstance(failure(photo), UnknownKindError)
        assert isinstance(failure(put(tmp_path, "README")), UnknownKindError)
        assert names(tmp_path, root=tmp_path, include_unknown=True) == ["README", "photo.png"]

    def test_links_out_of_the_root_are_refused(self, tmp_path: Path) -> None:
        put(tmp_path, "outside/secret.md")
        root = tmp_path / "root"
        put(root, "real.md")
        (root / "directory").symlink_to(tmp_path / "outside")
        (root / "file.md").symlink_to(tmp_path / "outside/secret.md")
        listed = {source.name: source.error for source in find_documents([root, Path("../outside")], root=root)}
        assert listed.pop("real.md") is None
        assert len(listed) == 3
        assert all(isinstance(error, DocumentLinkError) for error in listed.values())
        followed = [os.path.relpath(name, root) for name in names(root)]
        assert followed == ["directory/secret.md", "real.md"], "without a root, links are followed, to each file once"

    def test_a_file_that_becomes_a_link_out_of_the_root_after_listing_is_refused(self, tmp_path: Path) -> None:
        secret = put(tmp_path, "outside.md")
        path = put(tmp_path, "root/a.md")
        [source] = find_documents([path], root=tmp_path / "root")
        path.unlink()
        path.symlink_to(secret)
        with pytest.raises(DocumentLinkError):
            read_document(source)

    def test_loops_of_links_end(self, tmp_path: Path) -> None:
        put(tmp_path, "a/b/x.md")
        (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
        (tmp_path / "itself.md").symlink_to("itself.md")
        for root in (None, tmp_path):
            found = list(find_documents([tmp_path], root=root))
            assert [type(source.error) for source in found] == [DocumentLinkError, type(None), type(None)]
        with pytest.raises(UnreadableDocumentError, match=r"itself\.md"):
            read_document(found[-1])

    def test_links_that_multiply_are_walked_once(self, tmp_path: Path) -> None:
        for level in range(40):
            (tmp_path / f"d{level}").mkdir()
            for side in ("l", "r"):
                (tmp_path / f"d{level}" / side).symlink_to(tmp_path / f"d{level + 1}")
        put(tmp_path, "d40/x.md")
        assert len(names(tmp_path / "d0")) == 1

    def test_a_tree_deeper_than_calls_may_be(self, tmp_path: Path) -> None:
        previous = os.open(".", os.O_RDONLY)
        try:
            os.chdir(tmp_path)
            for _ in range(1500):
                os.mkdir("d")
                os.chdir("d")
            Path("x.md").write_text("deep")
        finally:
            os.fchdir(previous)
            os.close(previous)
        try:
            assert names(tmp_path, root=tmp_path) == ["d/" * 1500 + "x.md"]
        finally:
            subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)

    def test_what_is_not_there_is_listed_with_its_error(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.md", tmp_path / "none", Path("nul\0.md"), Path("x" * 5000 + ".md")):
            with pytest.raises(UnreadableDocumentError):
                read(path)

    def test_names_that_are_no_unicode_can_be_stored(self, tmp_path: Path) -> None:
        try:
            path = put(tmp_path, os.fsdecode(b"caf\xe9.md"))
        except OSError:
            pytest.skip("this file system takes Unicode names only")
        source = only(path)
        assert source.name.encode().endswith(b"caf\\udce9.md")
        assert read_document(source).title.encode() == b"caf?"

    def test_ten_thousand_files_are_listed_without_being_opened(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(10_000):
            (tmp_path / f"{number:05}.md").touch()

        def never(*arguments: object) -> None:
            raise AssertionError("a file was opened")

        monkeypatch.setattr(sources, "open_source", never)
        assert sum(1 for _ in find_documents([tmp_path])) == 10_000


class TestJsonl:
    def test_lines_are_documents_with_their_names(self, tmp_path: Path) -> None:
        content = (
            '\ufeff{"text": "Ada met Bob.", "title": "T", "id": 7}\n\n{"text": "# Head\\n\\nEve."}\r\n{"text": "é"}'
        )
        path = put(tmp_path, "d.jsonl", content)
        found = list(find_documents([path], root=tmp_path))
        assert [(source.name, source.line, source.id) for source in found] == [
            ("d.jsonl:1", 1, "7"),
            ("d.jsonl:3", 3, None),
            ("d.jsonl:4", 4, None),
        ]
        read = [read_document(source) for source in reversed(found)]
        assert [(document.text, document.title) for document in read] == [
            ("é", "é"),
            ("# Head\n\nEve.", "Head"),
            ("Ada met Bob.", "T"),
        ]
        assert {document.media_type for document in read} == {"application/jsonl"}
        assert read[0].size == len('{"text": "é"}'.encode())

    def test_bad_lines_are_errors_that_name_file_and_line(self, tmp_path: Path) -> None:
        lines: list[tuple[bytes, type[DocumentError] | None]] = [
            (b'{"text": "good"}', None),
            (b"{broken", BrokenDocumentError),
            (b"[1]", BrokenDocumentError),
            (b'{"txt": "a"}', BrokenDocumentError),
            (b'{"text": 5}', BrokenDocumentError),
            (b'{"text": " "}', EmptyDocumentError),
            (b'{"text": "a\\u0000b"}', BinaryDocumentError),
            (b'{"text": "\\ud800"}', BrokenDocumentError),
            (b'{"text": "caf\xe9"}', BrokenDocumentError),
            (b'{"text": "a", "title": 3}', BrokenDocumentError),
            (b'{"text": "a", "id": true}', BrokenDocumentError),
            (b'{"text": "' + b"x" * 300 + b'"}', DocumentTooLargeError),
            (b"[" * 200, BrokenDocumentError),
            (b'{"text": "last"}', None),
        ]
        path = put(tmp_path, "d.jsonl", b"\n".join(line for line, _ in lines))
        found = list(find_documents([path], max_bytes=250))
        assert [type(source.error) for source in found] == [error or type(None) for _, error in lines]
        for number, source in enumerate(found, start=1):
            if source.error is not None:
                assert f"d.jsonl:{number}" in str(source.error)
                with pytest.raises(type(source.error)):
                    read_document(source)
        assert read_document(found[-1]).text == "last"

    @pytest.mark.parametrize(
        ("content", "error"),
        [
            (b"", EmptyDocumentError),
            (b" \n\n", EmptyDocumentError),
            (b"\0\1\n" * 50, BinaryDocumentError),
            ('{"text": "a"}'.encode("utf-16"), BinaryDocumentError),
        ],
    )
    def test_a_file_of_no_use_is_one_error(self, tmp_path: Path, content: bytes, error: type[DocumentError]) -> None:
        assert isinstance(only(put(tmp_path, "d.jsonl", content)).error, error)

    def test_a_file_that_changed_since_it_was_listed(self, tmp_path: Path) -> None:
        path = put(tmp_path, "d.jsonl", '{"text": "one"}\n{"text": "two"}\n')
        first, second = find_documents([path])
        path.write_text('{"text": "one"}\n{"text": "too"}\n')
        assert read_document(first).text == "one"
        with pytest.raises(UnreadableDocumentError, match="changed since"):
            read_document(second)
        path.unlink()
        with pytest.raises(UnreadableDocumentError, match="No such file"):
            read_document(first)

    def test_fifty_megabytes_are_streamed(self, tmp_path: Path) -> None:
        line = json.dumps({"text": "Ada Lovelace wrote it. " * 4000}) + "\n"
        path = tmp_path / "large.jsonl"
        with path.open("w") as file:
            file.writelines(line for _ in range(50 * 1024 * 1024 // len(line) + 1))
        tracemalloc.start()
        try:
            count = sum(source.error is None for source in find_documents([path]))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert count > 500
        assert peak < 4 * 1024 * 1024


class TestText:
    def test_markdown_and_text_are_as_they_are(self, tmp_path: Path) -> None:
        text = "Zeile 1\r\n\r\n# Über\tuns \n\n"
        document = read(put(tmp_path, "a.md", text))
        assert document.text == text
        assert document.content_hash == hashlib.sha256(text.encode()).hexdigest()
        assert (document.title, document.media_type, document.size) == (
            "Über uns",
            "text/markdown",
            25,
        )
        assert read(put(tmp_path, "letter-17.txt", "Dear Sir")).title == "letter-17"

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
    def test_the_same_text_has_the_same_hash_in_every_encoding(self, tmp_path: Path, encoding: str) -> None:
        mark = "\ufeff" if encoding == "utf-16-be" else ""
        document = read(put(tmp_path, "a.txt", (mark + "Žižek met 日本 😀.").encode(encoding)))
        assert document.text == "Žižek met 日本 😀."
        assert document.content_hash == hashlib.sha256("Žižek met 日本 😀.".encode()).hexdigest()

    @pytest.mark.parametrize(
        ("content", "error", "message"),
        [
            (b"", EmptyDocumentError, "is empty"),
            (b"\xef\xbb\xbf", EmptyDocumentError, "is empty"),
            (b" \n\t ", EmptyDocumentError, "is empty"),
            (
                "café".encode("latin-1"),
                BinaryDocumentError,
                "not UTF-8 text: bad byte at offset 3; convert it to UTF-8",
            ),
            (b"a\0b", BinaryDocumentError, "NUL"),
            ("a\0b".encode("utf-16"), BinaryDocumentError, "NUL"),
            ("abc".encode("utf-16-le"), BinaryDocumentError, "NUL"),
            (b"\xff\xfea", BinaryDocumentError, "not UTF-16-LE text"),
            (b"\xff\xfe\0\xd8", BinaryDocumentError, "not UTF-16-LE text"),
        ],
    )
    def test_what_is_no_text(self, tmp_path: Path, content: bytes, error: type[DocumentError], message: str) -> None:
        caught = failure(put(tmp_path, "a.txt", content))
        assert isinstance(caught, error)
        assert message in str(caught)


class TestFiles:
    def test_too_large_is_refused_without_being_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "large.txt"
        with path.open("wb") as file:
            file.truncate(MAX_DOCUMENT_BYTES + 1)
        original = sources.open_source

        class Unread:
            def __init__(self, file: IO[bytes]) -> None:
                self.file = file

            def __enter__(self) -> SimpleNamespace:
                def never(size: int) -> bytes:
                    raise AssertionError("the file was read")

                return SimpleNamespace(fileno=self.file.fileno, read=never)

            def __exit__(self, *exc: object) -> None:
                self.file.close()

        monkeypatch.setattr(documents, "open_source", lambda source: Unread(original(source)))
        assert isinstance(failure(path), DocumentTooLargeError)

    def test_the_limit_is_a_parameter(self, tmp_path: Path) -> None:
        path = put(tmp_path, "a.txt", "12345")
        assert read(path, max_bytes=5).text == "12345"
        assert isinstance(failure(path, max_bytes=4), DocumentTooLargeError)
        lines = only(put(tmp_path, "a.jsonl", '{"text": "abc"}'))
        with pytest.raises(DocumentTooLargeError):
            read_document(lines, max_bytes=4)

    @pytest.mark.timeout(90)
    @pytest.mark.parametrize("name", ["pipe.txt", "pipe.jsonl", "pipe.pdf"])
    def test_a_pipe_does_not_block(self, tmp_path: Path, name: str) -> None:
        os.mkfifo(tmp_path / name)
        assert "is a pipe" in str(failure(tmp_path / name))

    @pytest.mark.timeout(90)
    def test_a_pipe_that_takes_the_place_of_a_file_does_not_block(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        regular = os.stat(put(tmp_path, "a.txt"))
        os.mkfifo(tmp_path / "pipe.txt")
        source = only(tmp_path / "pipe.txt")
        monkeypatch.setattr(os, "stat", lambda *_, **__: regular)
        with pytest.raises(UnreadableDocumentError, match="is a pipe"):
            read_document(source)

    def test_sockets_devices_and_directories_are_no_documents(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)  # the address of a socket must be short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s.txt")
            assert "is a socket" in str(failure(Path("s.txt")))
        device = Path("null.txt")
        device.symlink_to("/dev/null")
        [source] = find_documents([device])
        with pytest.raises(UnreadableDocumentError, match="is a device"):
            read_document(source)
        path = put(tmp_path, "d.md")
        source = only(path)
        path.unlink()
        path.mkdir()
        with pytest.raises(UnreadableDocumentError, match="is a directory"):
            read_document(source)

    def test_a_file_that_has_vanished(self, tmp_path: Path) -> None:
        path = put(tmp_path, "a.txt")
        source = only(path)
        path.unlink()
        with pytest.raises(UnreadableDocumentError, match=r"cannot read '.*a\.txt': No such file or directory"):
            read_document(source)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
    def test_files_and_directories_without_permission(self, tmp_path: Path) -> None:
        path = put(tmp_path, "closed/a.txt")
        path.chmod(0)
        assert "Permission denied" in str(failure(path))
        path.parent.chmod(0)
        try:
            assert "Permission denied" in str(failure(path.parent))
        finally:
            path.parent.chmod(0o700)

    def test_sources_and_errors_can_be_sent_to_another_process(self, tmp_path: Path) -> None:
        for path in (put(tmp_path, "a.md"), put(tmp_path, "photo.png")):
            source = only(path)
            copy = pickle.loads(pickle.dumps(source))  # noqa: S301
            assert (copy.name, str(copy.error)) == (source.name, str(source.error))


class TestHtml:
    def test_a_page_becomes_markdown(self, tmp_path: Path) -> None:
        document = read(put(tmp_path, "a.html", PAGE))
        assert document.text == MARKDOWN
        assert (document.title, document.media_type) == ("The Handbook", "text/html")
        kinds = [chunk["kind"] for chunk in chunk_document(document.text)]
        assert kinds == [
            "heading", "paragraph", "list_item", "list_item", "heading", "table_row", "table_row", "code", "paragraph"
        ]  # fmt: skip
        assert ExtractionPipeline().run(document.text)["entities"]

    def test_a_large_page_is_read_in_a_child_to_the_same_text(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = put(tmp_path, "a.html", PAGE)
        here = read(path)
        monkeypatch.setattr(documents, "MAX_HTML_HERE_BYTES", 0)
        assert read(path) == here

    @pytest.mark.parametrize(
        ("page", "text"),
        [
            ("<td>not in a table<p>at all", "not in a table\n\nat all"),
            ("<table><tr><td>a<table><tr><td>b<td>c</table>d<td>e</table>", "a\n\n| b | c |\n| d | e |"),
            ("<table><tr><td><h2>Head</h2><p>Text</table>", "## Head\n\nText"),
            ("<p>a<code>open <b>tag</b><p>b", "aopen tag\n\n`b`"),
            ("<h1>a<br>b</h1><h2></h2><p>c", "# a b\n\nc"),
            ("<ul><li></li></ul><p>c", "c"),
            ("<ul><li>a<ul><li>b</ul>c</ul>", "- a\n- b\n\nc"),
            ("<pre>a<pre>b</pre>c</pre>", "```\nab\n```\n\nc"),
            ("<pre> \n</pre>soft&shy;hy&#8203;phen&nbsp;x", "softhyphen x"),
            ("<!-- c --><p>---<p>``` x<p>| y", "\\---\n\n\\``` x\n\n\\| y"),
            ("a &#xD800; &#0; b", "a � � b"),
        ],
    )
    def test_pages_of_many_shapes(self, page: str, text: str) -> None:
        assert html_text(page).text == text

    def test_a_declared_encoding_is_taken_and_no_other_is_guessed(self, tmp_path: Path) -> None:
        body = "<p>“café”".encode("cp1252")
        for head in (b'<meta charset="ISO-8859-1">', b'<meta content="text/html; charset=windows-1252">'):
            assert read(put(tmp_path, "a.html", head + body)).text == "“café”"
        assert read(put(tmp_path, "a.html", '<?xml version="1.0" encoding="koi8-r"?><p>Привет'.encode("koi8-r"))).text
        assert read(put(tmp_path, "a.html", b"<meta charset=latin-1><p>" + "“é”".encode())).text == "“é”"
        for head in (b"", b"<meta charset=zip>", b"<meta charset=unicode_escape>", b"<meta charset=\xe9>"):
            assert isinstance(failure(put(tmp_path, "a.html", head + body)), BinaryDocumentError)

    def test_pages_without_text_are_empty(self, tmp_path: Path) -> None:
        for page in ("<html></html>", "<title>only a title</title>", "<script>1</script><nav>x</nav>", "<!--x-->"):
            assert isinstance(failure(put(tmp_path, "a.html", page)), EmptyDocumentError)

    def test_a_page_that_takes_its_parser_forever_is_given_up(self, tmp_path: Path) -> None:
        path = put(tmp_path, "a.html", "<ul><li>" * 400_000 + "text")
        given_up(path, timeout_s=0.5)

    def test_a_page_may_nest_deeper_than_calls(self) -> None:
        assert html_text("<b><div>" * 3000 + "deep").text == "deep"


class TestPdf:
    def test_text_title_and_page_breaks(self, tmp_path: Path) -> None:
        document = read(put(tmp_path, "a.pdf", pdf("Ada Lovelace wrote it.", "", "Bob left.", title="The Book")))
        assert document.text == "Ada Lovelace wrote it.\n\f\n\n\f\nBob left."
        assert (document.title, document.media_type) == ("The Book", "application/pdf")
        assert [chunk["kind"] for chunk in chunk_document(document.text)] == ["paragraph", "paragraph"]
        assert read(put(tmp_path, "b.pdf", pdf("text"))).title == "b"

    def test_pages_without_text_are_taken_for_scanned(self, tmp_path: Path) -> None:
        writer = pypdf.PdfWriter()
        writer.add_blank_page(width=100, height=100)
        path = tmp_path / "scan.pdf"
        writer.write(path)
        assert isinstance(failure(path), ScannedDocumentError)

    def test_encrypted_files(self, tmp_path: Path) -> None:
        assert isinstance(failure(put(tmp_path, "a.pdf", encrypted_pdf("secret"))), EncryptedDocumentError)
        assert read(put(tmp_path, "b.pdf", encrypted_pdf(""))).text == "secret"

    @pytest.mark.parametrize(
        "content", [b"no pdf", b"%PDF-1.4\n", b"%PDF-1.4\n%%EOF", pdf("text")[:200], b"%PDF-1.7" + bytes(10_000)]
    )
    def test_broken_files(self, tmp_path: Path, content: bytes) -> None:
        assert isinstance(failure(put(tmp_path, "a.pdf", content)), BrokenDocumentError)

    def test_more_text_than_allowed(self, tmp_path: Path) -> None:
        path = put(tmp_path, "a.pdf", pdf(*["x" * 10] * 50))
        source = only(path)
        with pytest.raises(ConversionError) as caught:
            pdf_text(path.read_bytes(), 100)
        assert caught.value.problem == "too_large"
        assert "more than 100 bytes" in str(documents._translate(source.name, caught.value, 100))

    def test_a_file_that_takes_forever_is_given_up(self, tmp_path: Path) -> None:
        path = put(tmp_path, "slow.pdf", pdf(*["(x) Tj " * 2000] * 300))
        given_up(path, timeout_s=0.4)

    @pytest.mark.parametrize(
        "program",
        [
            "import os; os.abort()",
            "import os; os._exit(3)",
            "import sys; sys.stdout.write('not an answer')",
            "import sys; sys.stdout.write('[]')",
            "raise SystemExit('boom')",
        ],
    )
    def test_a_child_that_dies_is_an_error_of_its_document(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
    ) -> None:
        monkeypatch.setattr(conversion, "__file__", str(put(tmp_path, "program.py", program)))
        assert isinstance(failure(put(tmp_path, "a.pdf", pdf("text"))), BrokenDocumentError)

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces RLIMIT_AS")
    def test_a_child_has_only_so_much_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = Path(conversion.__file__).read_text()
        hungry = source.replace(
            "def _main(", "def _main(*arguments: str) -> None:\n    _confine(9)\n    bytearray(2**33)\n\n\ndef _other("
        )
        assert hungry != source
        monkeypatch.setattr(conversion, "__file__", str(put(tmp_path, "program.py", hungry)))
        assert isinstance(failure(put(tmp_path, "a.pdf", pdf("text"))), BrokenDocumentError)

    def test_no_child_can_be_started(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
        assert isinstance(failure(put(tmp_path, "a.pdf", pdf("text"))), UnreadableDocumentError)


class TestMissingPackages:
    def test_in_this_process(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "selectolax.lexbor", None)
        caught = failure(put(tmp_path, "a.html", PAGE))
        assert isinstance(caught, DocumentSupportError)
        assert "needs selectolax to be read: pip install 'holdfast[batches]'" in str(caught)

    def test_in_a_child(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put(tmp_path, "packages/pypdf/__init__.py", "raise ImportError('not installed')")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
        caught = failure(put(tmp_path, "a.pdf", pdf("text")))
        assert isinstance(caught, DocumentSupportError)
        assert "pip install 'holdfast[batches]'" in str(caught)


def read_or_fail(path: Path) -> None:
    """Read everything at `path`; whatever is wrong with it is a DocumentError."""
    for source in find_documents([path]):
        try:
            document = read_document(source, timeout_s=20)
        except DocumentError as exc:
            message = str(exc)
        else:
            document.text.encode()
            assert document.title
            assert "\0" not in document.text
            continue
        assert path.name in message
        assert "\n" not in message


MARKUP = st.lists(
    st.sampled_from(
        [
            "<p>", "</p>", "<table>", "<tr>", "<td>", "</table>", "<h1>", "</h1>", "<li>", "<pre>", "</pre>", "<code>",
            "</code>", "<br>", "x", "# ", "|", "```", "`", " ", "\n", "&#0;", "<svg>", "<template>", "</", "<!--", "é",
            "<title>", "<frameset>", "<![CDATA[",
        ]
    )
).map(lambda parts: "".join(parts).encode())  # fmt: skip
LINES = st.lists(
    st.sampled_from([b'{"text":', b'"a"', b"}", b"\n", b"\\u0000", b',"title":', b"1", b"\xff", b"\r", b"[", b"]"])
)


class TestAnyBytes:
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        suffix=st.sampled_from([".txt", ".md", ".html", ".jsonl", ".png"]),
        data=st.one_of(st.binary(max_size=300), MARKUP, LINES.map(b"".join), st.text(max_size=99).map(str.encode)),
    )
    @example(suffix=".jsonl", data=b'{"text":"a"}\r{"text":"a"}')
    def test_text(self, tmp_path: Path, suffix: str, data: bytes) -> None:
        read_or_fail(put(tmp_path, f"a{suffix}", data))

    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(tail=st.binary(max_size=200), cut=st.integers(0, 700), middle=st.binary(max_size=8))
    def test_pdf(self, tmp_path: Path, tail: bytes, cut: int, middle: bytes) -> None:
        whole = pdf("Ada Lovelace wrote it.", "Bob.")
        read_or_fail(put(tmp_path, "a.pdf", whole[:cut] + middle + whole[cut + len(middle) :] + tail))

    @settings(max_examples=150, deadline=None)
    @given(cut=st.integers(9, 900), middle=st.binary(max_size=8))
    @pytest.mark.filterwarnings("ignore")
    def test_pdf_conversion(self, cut: int, middle: bytes) -> None:
        whole = pdf("Ada Lovelace wrote it.", "Bob.")
        with suppress(ConversionError):
            pdf_text(whole[:cut] + middle + whole[cut + len(middle) :], 10_000).text.encode()
