"""Test the credentials and certificate files: errors name the content and owner, and quote nothing of the file."""

import codecs
import json
import logging
import os
import socket
import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from tests.support.permissions import needs_root
from token_tools.configuration import load_settings
from token_tools.credentials import encode_store, read_bearer, read_bearer_once
from token_tools.errors import SettingsError
from token_tools.redaction import has_known_secret
from token_tools.settings import Settings

BODY = "c2VjcmV0IG9mIHRoZSB0ZXN0cyBhbG9uZQ"
SECRET = f"access-v1:{BODY}=="
CREDENTIALS_FILE_CONTENT = encode_store(SecretStr(SECRET))
CERTIFICATE_AUTHORITY = trustme.CA()
CA_CERTIFICATE = CERTIFICATE_AUTHORITY.cert_pem.bytes()
TIMEOUT_SECONDS = 10


def encode_credentials(content: object) -> bytes:
    return json.dumps(content).encode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.touch(mode=0o600)
    return path


def refusal_of_credentials(path: Path) -> str:
    """Return why a store is not read, without the leading setting and file; check that no secret is quoted."""
    with pytest.raises(SettingsError) as failure:
        load_settings({"host": "c", "credentials_file": str(path)})
    answer = str(failure.value)
    beginning = f"QUMULO_CREDENTIALS_FILE names {path}, which "
    assert answer.startswith(beginning)
    assert BODY[:8] not in answer
    return answer.removeprefix(beginning)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(CREDENTIALS_FILE_CONTENT, id="utf-8"),
        pytest.param(b"\r\n" + CREDENTIALS_FILE_CONTENT + b"\r\n", id="line-ends"),
        pytest.param(codecs.BOM_UTF8 + CREDENTIALS_FILE_CONTENT, id="utf-8-with-mark"),
        pytest.param(codecs.BOM_UTF16_LE + CREDENTIALS_FILE_CONTENT.decode().encode("utf-16-le"), id="utf-16-le"),
        pytest.param(codecs.BOM_UTF16_BE + CREDENTIALS_FILE_CONTENT.decode().encode("utf-16-be"), id="utf-16-be"),
    ],
)
def test_a_store_is_read_however_an_editor_has_saved_it(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    assert read_bearer(path).get_secret_value() == SECRET


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(codecs.BOM_UTF8 + b"\r\n", "is empty", id="nothing-to-see"),
        pytest.param(
            f"{SECRET}\n".encode(), "holds a bare token: QUMULO_BEARER_TOKEN_FILE takes such a file", id="bare"
        ),
        pytest.param(BODY.encode(), "holds a bare token", id="bare-without-its-prefix"),
        pytest.param(f'"{SECRET}"'.encode(), "holds a bare token", id="bare-in-quotes"),
        pytest.param(
            encode_credentials({"bearer_token": SECRET, "version": 2}), "is in another version", id="other-version"
        ),
        pytest.param(
            encode_credentials({"bearer_token": SECRET}), "is not JSON in the format of qq's", id="no-version"
        ),
        pytest.param(encode_credentials([SECRET]), "is not JSON in the format of qq's", id="list"),
        pytest.param(b"\xff", "is not JSON in the format of qq's", id="no-text"),
        pytest.param(
            CREDENTIALS_FILE_CONTENT.replace(b"=", b"\xff"),
            "holds a bearer_token that is not a token",
            id="damaged-token",
        ),
        pytest.param(
            encode_credentials({"bearer_token": f"{SECRET} x", "version": 1}),
            "holds a bearer_token that is not a token",
            id="words",
        ),
        pytest.param(
            encode_credentials({"bearer_token": "${TOKEN}", "version": 1}),
            "holds a bearer_token that is not the value itself but what stands for it",
            id="not-expanded",
        ),
        pytest.param(CREDENTIALS_FILE_CONTENT + b" " * (64 << 10), "is larger than 64 KiB", id="large"),
    ],
)
def test_a_file_that_is_no_store_is_told_as_what_it_is(path: Path, content: bytes, expected: str) -> None:
    path.write_bytes(content)

    assert refusal_of_credentials(path).startswith(expected)


def test_what_is_no_file_is_told_as_what_it_is(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        # The full path would be too long for a socket address.
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            listener.bind("socket")

        assert refusal_of_credentials(tmp_path / "socket") == "is a socket and not a file."
    assert refusal_of_credentials(tmp_path) == "is a folder and not a file."
    assert refusal_of_credentials(Path("/dev/zero")) == "is a device and not a file."
    assert refusal_of_credentials(tmp_path / "nothing") == "does not exist."
    assert refusal_of_credentials(Path(f"{__file__}/x")) == "cannot be read: Not a directory."


@contextmanager
def without_root_rights() -> Generator[None]:
    """Run as another user if the tests run as root, since root may read every file."""
    before = os.geteuid()
    os.seteuid(before or 54321)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_store_that_may_not_be_read_is_told_with_the_reason(path: Path) -> None:
    path.write_bytes(CREDENTIALS_FILE_CONTENT)
    path.chmod(0)

    with without_root_rights():
        assert refusal_of_credentials(path) == "cannot be read: Permission denied."


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_store_that_others_can_write_is_refused_with_what_mends_it(path: Path, mode: int) -> None:
    path.write_bytes(CREDENTIALS_FILE_CONTENT)
    path.chmod(mode)

    assert (
        refusal_of_credentials(path) == f"other users can put another credential into: `chmod 600 {path}` mends that."
    )


@needs_root
def test_a_store_of_somebody_else_is_refused_with_what_mends_it(path: Path) -> None:
    path.write_bytes(CREDENTIALS_FILE_CONTENT)
    os.chown(path, 54321, -1)

    assert refusal_of_credentials(path) == (
        f"belongs to another user, who can put another credential in there: `chown 0 {path}` mends that."
    )


def test_a_store_that_others_can_read_is_warned_of_once_and_used(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(CREDENTIALS_FILE_CONTENT)
    path.chmod(0o644)

    settings = load_settings({"host": "c", "credentials_file": str(path)})

    assert settings.read_bearer().get_secret_value() == SECRET
    [warning] = caplog.messages
    assert warning.startswith(f"QUMULO_CREDENTIALS_FILE: other users of this machine can read {path}; `chmod 600 ")

    path.chmod(0o600)
    load_settings({"host": "c", "credentials_file": str(path)})
    assert len(caplog.messages) == 1


def test_from_the_reading_on_no_text_that_repeats_a_credential_may_leave(path: Path) -> None:
    path.write_bytes(encode_store(SecretStr("access-v1:aGVsZCBmcm9tIGl0cyByZWFkaW5nIG9u")))
    assert not has_known_secret("aGVsZCBmcm9t")

    read_bearer(path)

    assert has_known_secret("aGVsZCBmcm9t")


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    return path


def write_to_pipe(pipe: Path, content: bytes) -> threading.Thread:
    """Start a thread that writes the content into a pipe once, when the pipe is read."""
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    return writer


def test_a_pipe_is_read_once_and_what_it_gave_is_kept(pipe: Path) -> None:
    writer = write_to_pipe(pipe, CREDENTIALS_FILE_CONTENT)

    settings = load_settings({"host": "c", "credentials_file": str(pipe)})

    writer.join(TIMEOUT_SECONDS)
    assert [settings.read_bearer().get_secret_value() for _ in range(2)] == [SECRET, SECRET]
    assert settings.credentials_file == pipe


def test_a_pipe_that_gives_no_store_is_told_as_what_it_gave(pipe: Path) -> None:
    writer = write_to_pipe(pipe, b"")

    assert refusal_of_credentials(pipe) == "is empty."
    writer.join(TIMEOUT_SECONDS)


@pytest.mark.parametrize("begins", [b"", CREDENTIALS_FILE_CONTENT], ids=["nothing", "half"])
def test_a_pipe_without_an_end_is_given_up(pipe: Path, begins: bytes) -> None:
    descriptor = os.open(pipe, os.O_RDWR)
    os.write(descriptor, begins)

    with pytest.raises(SettingsError, match=r"has no end: whoever writes into it took longer than 0\.2 seconds"):
        read_bearer_once(pipe, timeout_seconds=0.2)

    os.close(descriptor)


def test_a_file_that_has_become_a_pipe_is_not_waited_for(pipe: Path) -> None:
    with pytest.raises(SettingsError, match="is a pipe and not a file"):
        Settings(host="c", credentials_file=pipe).read_bearer()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(CA_CERTIFICATE, id="plain"),
        pytest.param(codecs.BOM_UTF8 + CA_CERTIFICATE, id="utf-8-with-mark"),
        pytest.param(codecs.BOM_UTF16_LE + CA_CERTIFICATE.decode().encode("utf-16-le"), id="utf-16"),
        pytest.param("Autorität\n".encode() + CA_CERTIFICATE, id="with-a-name"),
        pytest.param(CERTIFICATE_AUTHORITY.private_key_pem.bytes() + CA_CERTIFICATE, id="beside-its-key"),
    ],
)
def test_certificates_are_read_however_an_editor_has_saved_them(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    answer = Settings(host="c", ca_file=path).read_certificates()

    assert answer is not None
    assert CA_CERTIFICATE.decode().strip() in answer


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"\n", "is empty", id="empty"),
        pytest.param(
            ssl.PEM_cert_to_DER_cert(CA_CERTIFICATE.decode()), "holds a certificate in DER, and PEM is needed", id="der"
        ),
        pytest.param(
            CERTIFICATE_AUTHORITY.private_key_pem.bytes(),
            "holds a private key and no readable PEM certificate",
            id="key",
        ),
        pytest.param(CA_CERTIFICATE.replace(b"M", b"!"), "what begins as one is damaged", id="damaged"),
        pytest.param(CREDENTIALS_FILE_CONTENT, "holds a token or something like one", id="token"),
        pytest.param(b"x", "holds no readable PEM certificate", id="other"),
        pytest.param(b"x" * (5 << 20), "is larger than 4096 KiB", id="large"),
    ],
)
def test_a_file_without_certificates_is_told_as_what_it_is(path: Path, content: bytes, expected: str) -> None:
    path.write_bytes(content)

    assert expected in refusal_of_certificates(path)


def test_what_is_no_file_of_certificates_is_told_as_what_it_is(path: Path, pipe: Path) -> None:
    assert refusal_of_certificates(path.parent) == "is a folder and not a file"
    assert refusal_of_certificates(pipe) == "is a pipe and not a file"
    assert refusal_of_certificates(Path("/dev/zero")) == "is a device and not a file"
    assert refusal_of_certificates(path.parent / "nothing") == "does not exist"


def refusal_of_certificates(path: Path) -> str:
    with pytest.raises(SettingsError) as failure:
        load_settings({"host": "c", "bearer_token": SecretStr(SECRET), "ca_file": str(path)})
    answer = str(failure.value)
    beginning = f"QUMULO_CA_FILE names {path}, which "
    assert answer.startswith(beginning)
    assert BODY[:8] not in answer
    return answer.removeprefix(beginning).removesuffix(".")


def test_certificates_that_are_gone_since_the_start_are_told_so(path: Path) -> None:
    path.write_bytes(CA_CERTIFICATE)
    settings = Settings(host="c", ca_file=path)
    path.unlink()

    with pytest.raises(SettingsError, match=f"QUMULO_CA_FILE names {path}, which does not exist"):
        settings.read_certificates()


def test_without_a_file_there_are_no_certificates_but_the_system_s(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert Settings(host="c").read_certificates() is None
    assert caplog.messages == []
