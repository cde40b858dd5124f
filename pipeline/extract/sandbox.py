"""Text extraction in a process of its own, so that a page that crashes it or never ends costs only itself.

A page with 100,000 nested elements keeps the extractor busy for minutes inside native code, where no Python
signal handler runs, and some pages end the process. So pages go one by one over a socket to a helper process: the
kernel ends it when a page uses up its processor time or memory, and the next page gets a new one.
"""

from __future__ import annotations

import atexit
import math
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from pipeline.extract.charset import decodable_lines, decode, is_undecodable
from pipeline.extract.main_text import main_text
from pipeline.warc.encodings import BODY_MAX

COMMAND = [sys.executable, "-m", "pipeline.extract.sandbox"]
REQUEST = struct.Struct("<II")  # bytes of the codec's name, bytes of the body
ANSWER = struct.Struct("<?I")  # whether it is a text or a failure; its bytes
MEMORY_MAX = 4 * 2**30  # address space of a helper
ANSWER_MAX = 4 * BODY_MAX  # bytes of a text; a helper that says more is no longer to be believed
PAGES_PER_HELPER = 20_000  # then a new helper, which bounds memory leaks
WAITS = 20  # an answer may take this many times a page's processor time, on a busy machine
FAILURES = ("extractor_crashed", "extractor_hung", "extractor_error", "extractor_memory", "undecodable")


class Extraction(NamedTuple):
    """What came of a page: its main text and "", or "" and one of FAILURES."""

    text: str
    failure: str = ""


class Extractor:
    """Extracts pages in a guarded helper process, which starts when it is needed and ends with this process."""

    def __init__(self, page_seconds: int) -> None:
        self.page_seconds = page_seconds
        self.helper: subprocess.Popen[bytes] | None = None
        self.socket: socket.socket
        self.pages = 0
        atexit.register(self.kill)  # and waits for it, so that its processor time counts as ours

    def extract(self, body: bytes, codec: str) -> Extraction:
        """The main text of a page in a charset, or why there is none."""
        for _ in range(2):  # a SIGKILL from outside (out of memory, say) is not the page's fault: try again
            helper = self.helper or self._start()
            try:
                return self._ask(body, codec)
            except TimeoutError:
                self.kill()
                return Extraction("", "extractor_hung")
            except (EOFError, OSError):
                self.stop()
                if helper.returncode != -signal.SIGKILL:
                    break
        timed_out = helper.returncode == -signal.SIGXCPU
        return Extraction("", "extractor_hung" if timed_out else "extractor_crashed")

    def _ask(self, body: bytes, codec: str) -> Extraction:
        name = codec.encode()
        # In one piece, so that the helper wakes once for it.
        self.socket.sendall(b"".join((REQUEST.pack(len(name), len(body)), name, body)))
        has_text, size = ANSWER.unpack(_receive(self.socket, ANSWER.size))
        if size > ANSWER_MAX:
            self.kill()
            return Extraction("", "extractor_crashed")
        answer = _receive(self.socket, size).decode("utf-8", "replace")
        self.pages += 1
        if self.pages == PAGES_PER_HELPER:
            self.stop()
        if has_text:
            return Extraction(answer)
        return Extraction("", answer if answer in FAILURES else "extractor_crashed")

    def _start(self) -> subprocess.Popen[bytes]:
        self.socket, other = socket.socketpair()
        self.socket.settimeout(WAITS * self.page_seconds)
        with other:
            self.helper = subprocess.Popen(
                [*COMMAND, str(other.fileno()), str(self.page_seconds)],
                pass_fds=[other.fileno()],
                cwd=Path(__file__).parents[2],
                stderr=subprocess.DEVNULL,  # the message of a panic; the ledger has the reason
            )
        self.pages = 0
        return self.helper

    def kill(self) -> None:
        """End the helper at once."""
        if self.helper is not None:
            self.helper.kill()
            self.stop()

    def stop(self) -> None:
        """Close the socket, at which the helper ends by itself, and wait for it."""
        if self.helper is not None:
            self.socket.close()
            self.helper.wait()
            self.helper = None


def _receive(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes. Raises EOFError where the other side is gone."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = sock.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return bytes(data)


# The helper ---------------------------------------------------------------------------------------


def serve(sock: socket.socket, page_seconds: int) -> None:
    """Answer requests until the socket closes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = -math.inf
    while True:
        if time.process_time() - used > 1:  # the limit counts in whole seconds, from the start of the process
            used = time.process_time()
            _, most = resource.getrlimit(resource.RLIMIT_CPU)
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used) + 1 + page_seconds, most))
        try:
            name_size, body_size = REQUEST.unpack(_receive(sock, REQUEST.size))
        except EOFError:
            return
        codec = _receive(sock, name_size).decode()
        extraction = extract_text(_receive(sock, body_size), codec)
        data = (extraction.text or extraction.failure).encode("utf-8", "replace")
        sock.sendall(ANSWER.pack(not extraction.failure, len(data)) + data)


def extract_text(body: bytes, codec: str) -> Extraction:
    """The main text of a page, in this process."""
    try:
        # Of the text alone: a comment or a script, or a line, that is not as the page is costs no page.
        whole = main_text(decode(body, codec))
        text = decodable_lines(whole)
        is_lost = is_undecodable(text) or bool(whole and not text)
        return Extraction("", "undecodable") if is_lost else Extraction(text)
    except MemoryError:
        return Extraction("", "extractor_memory")
    except BaseException as error:  # a panic of native code is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return Extraction("", "extractor_error")


def main(arguments: list[str]) -> None:
    """The helper's command line: the number of its socket, and the seconds of a page."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the parent decides
    with socket.socket(fileno=int(arguments[0])) as connection:
        serve(connection, int(arguments[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
