"""A helper whose memory a page has overwritten may answer anything; the extractor stays as it is."""

from __future__ import annotations

import sys

import pytest

from pipeline.extract import sandbox

# It answers each page with these bytes.
HELPER = """
import socket, sys
from pipeline.extract import sandbox
answer = {answer}
with socket.socket(fileno=int(sys.argv[1])) as connection:
    while True:
        name, body = sandbox.REQUEST.unpack(sandbox._receive(connection, sandbox.REQUEST.size))
        sandbox._receive(connection, name + body)
        connection.sendall(answer)
"""


@pytest.mark.parametrize(
    ("answer", "extraction"),
    [
        ("sandbox.ANSWER.pack(True, 4) + b'a\\xff\\xfeb'", ("a��b", "")),
        ("sandbox.ANSWER.pack(True, 2**32 - 1) + bytes(2**20)", ("", "extractor_crashed")),
        ("sandbox.ANSWER.pack(False, 9) + b'my reason'", ("", "extractor_crashed")),
        ("sandbox.ANSWER.pack(False, 11) + b'undecodable'", ("", "undecodable")),
        ("b'?'; sys.exit(0)", ("", "extractor_crashed")),
    ],
)
def test_an_answer_is_text_or_one_of_the_known_failures(monkeypatch, answer, extraction):
    monkeypatch.setattr(sandbox, "COMMAND", [sys.executable, "-c", HELPER.format(answer=answer)])
    extractor = sandbox.Extractor(page_seconds=1)
    assert extractor.extract(b"<p>a page", "utf-8") == extraction
    monkeypatch.undo()
    extractor.kill()
    assert extractor.extract(b"<p>a page", "utf-8") == ("a page", "")
    extractor.stop()
