"""Who takes alerts at the edge of a machine: a `sendmail` that keeps mails, and a chat with an incoming webhook."""

import json
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

_SENDMAIL: Final = """#!/bin/sh
test "$*" = -t || exit 64
test ! -e '{folder}/refusing' || exit 75
cat > "$(mktemp '{folder}/XXXXXXXX.mail')"
"""


@dataclass(frozen=True)
class Mailer:
    """The folder for the PATH in which `sendmail` is, and the mails that it took."""

    folder: Path

    def refuse(self) -> None:
        """Take no mail any more."""
        (self.folder / "refusing").touch()

    def accept(self) -> None:
        """Take mails again."""
        (self.folder / "refusing").unlink()

    def take_mails(self) -> Sequence[EmailMessage]:
        """Return the mails that came since the last call."""
        files = [*self.folder.glob("*.mail")]
        mails = [message_from_bytes(file.read_bytes(), EmailMessage, policy=policy.default) for file in files]
        for file in files:
            file.unlink()
        return mails


def install_mailer(folder: Path) -> Mailer:
    """Put a `sendmail` into a new folder."""
    folder.mkdir()
    program = folder / "sendmail"
    program.write_text(_SENDMAIL.format(folder=folder))
    program.chmod(0o755)
    return Mailer(folder)


@dataclass
class Chat:
    """A chat that answers posts to its webhook with `status`; `posts` are the paths and what came there as JSON."""

    url: str = ""
    status: int = 200
    posts: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])


@contextmanager
def running_chat() -> Generator[Chat]:
    """Serve a webhook on loopback as long as the block runs."""
    chat = Chat()

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/json"
            chat.posts.append((self.path, json.loads(body)))
            self.send_response(chat.status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Write nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        chat.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield chat
        finally:
            server.shutdown()
            thread.join()
