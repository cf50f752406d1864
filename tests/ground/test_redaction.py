"""Test that no text repeats part of a secret, however a hostile cluster, gateway or user spells it."""

import base64
import binascii
import codecs
import gzip
import hashlib
import json
import os
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from tests.support.harness import TIMEOUT_SECONDS
from tests.support.secret_spellings import SPELLINGS, secret_body
from token_tools import redaction
from token_tools.quoting import quote_untrusted as quoted


def test_what_leaves_is_redacted_line_by_line() -> None:
    secret = "access-v1:" + base64.b64encode(bytes(range(7, 71))).decode()
    redaction.remember_secret(SecretStr(secret))

    assert redaction.redact(f"one\n{secret_body(secret)[8:20]}\r\ntwo access-v1:QUJD= three") == (
        "one\n[withheld: it repeats something of a secret]\r\ntwo access-v1 [redacted] three"
    )
    assert secret_body(secret) not in redaction.redact("x" * 10_000 + secret)
    assert redaction.redact("y" * 10_000) == "y" * 10_000


def test_what_else_a_line_says_is_not_lost_with_the_sentence_that_is_withheld() -> None:
    secret = base64.b64encode(bytes(range(90, 154))).decode()
    redaction.remember_secret(SecretStr(secret))

    assert redaction.redact(f"Token 7 may live. It said {secret[5:30]} then. Look at it.") == (
        "Token 7 may live. [withheld: it repeats something of a secret] Look at it."
    )
    assert secret[:4] not in redaction.redact(f"One. {secret[:4]}. {secret[4:8]}. {secret[8:12]}. Two.")


def encode_base58(text: str) -> str:
    number, letters = int.from_bytes(text.encode()), ""
    while number:
        number, digit = divmod(number, 58)
        letters = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"[digit] + letters
    return letters


def encode_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


UNLISTED_SPELLINGS: dict[str, Callable[[str], str]] = {
    "ascii85": lambda body: base64.a85encode(body.encode()).decode(),
    "base58": encode_base58,
    "base85": lambda body: base64.b85encode(body.encode()).decode(),
    "uuencode": lambda body: "".join(binascii.b2a_uu(body.encode()[at : at + 45]).decode() for at in range(0, 88, 45)),
    "base64-of-gzip": lambda body: base64.b64encode(gzip.compress(body.encode(), mtime=0)).decode(),
    "base64-of-hex": lambda body: encode_base64(body.encode().hex()),
    "base64-of-itself-backwards": lambda body: encode_base64(body[::-1]),
    "hex-of-hex": lambda body: body.encode().hex().encode().hex(),
    "hex-of-small-letters": lambda body: body.lower().encode().hex(),
    "hex-of-utf-32": lambda body: body.encode("utf-32").hex(),
    "base64-three-times": lambda body: encode_base64(encode_base64(encode_base64(body))),
}
PARTIAL_SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "backwards": lambda part: part[::-1],
    "rot13": lambda part: codecs.encode(part, "rot13"),
    "lines": "\n".join,
    "dashes": " - ".join,
    "emoji": "\U0001f512".join,
    "fillers": "\u3164".join,
    "bold": lambda part: "".join(chr(ord(char) + 0x1D3BF) if char.isupper() else char for char in part),
    "hex": lambda part: part.encode().hex(),
    "hex-of-utf-16": lambda part: part.encode("utf-16-le").hex(),
    "hex-of-base64": lambda part: encode_base64(part).encode().hex(),
    "hex-literals": lambda part: ", ".join(map(hex, part.encode())),
    "decimals": lambda part: str(list(part.encode())),
    "decimals-escaped-for-urls": lambda part: quote(str(list(part.encode()))),
    "decimals-in-lines-escaped-for-json": lambda part: json.dumps("\n".join(map(str, part.encode()))),
    "bits-escaped-for-urls": lambda part: "%20".join(f"{code:08b}" for code in part.encode()),
    "bits": lambda part: "".join(f"{code:08b}" for code in part.encode()),
    "every-second-escaped": lambda part: "".join(f"%{ord(c):02x}" if at % 2 else c for at, c in enumerate(part)),
    "escaped-for-urls-three-times": lambda part: "".join(f"%2525{code:02x}" for code in part.encode()),
    "escaped-in-braces": lambda part: "".join(f"\\u{{{code:x}}}" for code in part.encode()),
    "escaped-for-python": lambda part: "".join(f"\\U{code:08x}" for code in part.encode()),
    "escaped-for-html-twice": lambda part: "".join(f"&amp;#{code};" for code in part.encode()),
    "base32": lambda part: base64.b32encode(b"x" + part.encode()).decode(),
    "base64": encode_base64,
    "base64-behind-one-byte": lambda part: encode_base64(f"x{part}"),
    "base64-behind-two-bytes": lambda part: encode_base64(f"xy{part}"),
    "base64-twice": lambda part: encode_base64(encode_base64(f"x{part}")),
    "base64-escaped-for-urls": lambda part: quote(encode_base64(part), safe=""),
    "base64-in-percents": lambda part: "".join(f"%{code:02X}" for code in encode_base64(part).encode()),
    "base64-of-utf-16": lambda part: base64.b64encode(part.encode("utf-16-le")).decode(),
    "base64-of-json": lambda part: encode_base64(json.dumps({"bearer_token": part})),
}
BYTES_SPELLINGS: dict[str, Callable[[bytes], str]] = {
    "characters": lambda part: part.decode("latin-1"),
    "decimals": lambda part: str(list(part)),
    "hex": bytes.hex,
    "escaped": lambda part: "".join(f"\\x{byte:02x}" for byte in part),
    "percents": lambda part: "".join(f"%{byte:02x}" for byte in part),
    "base64-behind-one-byte": lambda part: base64.b64encode(b"x" + part).decode(),
}


@pytest.fixture(scope="module", name="random_contents")
def remember_random_secrets() -> list[bytes]:
    """Remember some secrets, and return the bytes that they encode."""
    contents = [hashlib.sha512(f"content {number}".encode()).digest() for number in range(20)]
    for content in contents:
        redaction.remember_secret(SecretStr("access-v1:" + base64.b64encode(content).decode()))
    return contents


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_a_secret_is_known_in_every_listed_spelling(random_contents: list[bytes], spell: Callable[[str], str]) -> None:
    for content in random_contents:
        secret = "access-v1:" + base64.b64encode(content).decode()
        assert redaction.has_known_secret(f"It was {spell(secret)}.")


@pytest.mark.parametrize("spell", UNLISTED_SPELLINGS.values(), ids=UNLISTED_SPELLINGS.keys())
def test_a_secret_in_a_spelling_that_nobody_thought_of_is_known_by_its_look(
    random_contents: list[bytes], spell: Callable[[str], str]
) -> None:
    for content in random_contents:
        spelled = spell(base64.b64encode(content).decode())
        assert "[withheld: it " in quoted(f"you sent {spelled} to us", max_chars=240)


@pytest.mark.parametrize("spell", PARTIAL_SPELLINGS.values(), ids=PARTIAL_SPELLINGS.keys())
def test_a_few_characters_of_a_secret_are_known_in_every_usual_spelling(
    random_contents: list[bytes], spell: Callable[[str], str]
) -> None:
    for content in random_contents:
        body = base64.b64encode(content).decode()
        for start in range(0, 76, 5):
            assert redaction.has_known_secret(f"It was {spell(body[start : start + 12])}.")


@pytest.mark.parametrize("spell", BYTES_SPELLINGS.values(), ids=BYTES_SPELLINGS.keys())
def test_a_few_bytes_that_a_secret_encodes_are_known_in_every_usual_spelling(
    random_contents: list[bytes], spell: Callable[[bytes], str]
) -> None:
    for content in random_contents:
        for start in range(0, 48, 5):
            assert redaction.has_known_secret(f"It was {spell(content[start : start + 16])}.")


@pytest.mark.parametrize(
    "text",
    [
        "User 'jane' not found",
        "Token 1234567890123456789012 does not exist",
        "Access token limit reached for user with auth_id 500 (2 of 2)",
        "Invalid expiration_time 2026-01-01T00:00:00.000000+00:00, must be after 2026-11-26T09:30:01Z",
        "Nodes 10.120.110.99 and fe80::1ff:fe23:4567:890a (02:42:ac:11:00:02) of cluster "
        "550e8400-e29b-41d4-a716-446655440000 disagree",
        "Snapshot_5f9a8b7c6d5e4f30 of /mnt/Data",
        "{550E8400-E29B-41D4-A716-446655440000}",
        "S-1-5-21-3623811015-3361044348-30300820-1013",
        "C:\\Program-Files\\Qumulo\\Core-7.10.1\\Bin\\QQ.exe",
        "https://Qumulo-01.Corp.Example.COM:8000/v1/Auth/Access-Tokens",
        "OU=Svc,OU=IT,OU=EU01,DC=CORP,DC=Example and O=Acme-Corp,C=CH,E=It01@Acme.ch",
        "/v1/auth/access-tokens/?limit=500&after=12%2F34 (C:\\Users\\Jane.Doe\\x64\\u2019) is 100% right: U+1F512",
        "\u043c\u0430\u0440\u0438\u044f \u043f\u0435\u0442\u0440\u043e\u0432\u0430",
        "\u65e5\u672c\u8a9e\u306e\u540d\u524d",
    ],
)
@pytest.mark.usefixtures("random_contents")
def test_what_a_cluster_usually_says_is_quoted_as_it_is(text: str) -> None:
    assert json.loads(quoted(text, max_chars=240)) == text


@pytest.mark.parametrize("length", [40, 60, 88])
def test_what_looks_like_a_secret_is_told_from_words_written_together(length: int) -> None:
    digests = [hashlib.sha512(f"{number}".encode()).digest() + b"xy" for number in range(200)]
    texts = [base64.b64encode(digest).decode()[:length] for digest in digests]

    assert sum(map(redaction.has_likely_secret, texts)) > 190


@pytest.mark.parametrize("folder", ["/", "/etc/qumulo/", "~/"])
def test_what_looks_like_a_secret_is_withheld_as_the_name_of_a_file_too(folder: str) -> None:
    name = base64.urlsafe_b64encode(hashlib.sha512(b"a name").digest()).decode()

    assert redaction.has_likely_secret(f"{folder}{name}")


@pytest.mark.parametrize("text", ["Bearer authentication is required.", "Bearer Service", "no bearer token"])
def test_a_plain_word_after_bearer_is_no_secret(text: str) -> None:
    assert redaction.redact_bearers(text) == text


@pytest.mark.parametrize("unit", ["\\", "a", "\ufdfa", "AbCdEf12/", "&#65;", "\\u0041", "41 "])
def test_hundreds_of_long_names_are_quoted_at_once(unit: str) -> None:
    names = [f"{number} {unit * 4096}"[:4096] for number in range(200)]

    before = time.perf_counter()
    for name in names:
        quoted(name, max_chars=96)

    assert time.perf_counter() - before < TIMEOUT_SECONDS  # the limit of a call; the redaction once took minutes


@pytest.mark.parametrize("unit", ["\\", "%25", "&amp;", "0x"])
def test_a_long_line_of_signs_of_escapes_is_redacted_at_once(unit: str) -> None:
    before = time.perf_counter()
    redaction.redact(unit * (1 << 18))

    assert time.perf_counter() - before < TIMEOUT_SECONDS


def test_a_secret_that_is_withheld_is_looked_for_in_all_that_is_shown() -> None:
    secret = base64.b64encode(bytes(range(33, 97))).decode()
    redaction.remember_secret(SecretStr(secret))

    assert (
        quoted("Bearer " + "1" * 70 + " " + "x" * 40 + secret[20:28], max_chars=96) == f'"{redaction.WITHHELD_KNOWN}"'
    )
    assert secret[20:28] not in quoted("Bearer " + "1" * 185 + " " + secret[20:28], max_chars=96)


def test_a_secret_that_is_words_in_disguise_withholds_no_sentence() -> None:
    redaction.remember_secret(SecretStr(base64.b64encode(b"the secret of the cluster is no secret").decode()))

    assert redaction.redact("the secret of the cluster") == "the secret of the cluster"


def test_a_secret_that_resembles_an_escape_is_known_behind_other_escapes() -> None:
    redaction.remember_secret(SecretStr("yOGpKc0x8fGp"))

    assert redaction.has_known_secret(PARTIAL_SPELLINGS["every-second-escaped"]("yOGpKc0x8fGp"))


def test_the_bytes_of_a_secret_in_base64_for_urls_are_known() -> None:
    content = b"\xfb\xff\xbf" + os.urandom(30)
    redaction.remember_secret(SecretStr(base64.urlsafe_b64encode(content).decode().rstrip("=")))

    assert redaction.has_known_secret(content.hex(":"))


def test_a_secret_of_equal_characters_withholds_nothing() -> None:
    redaction.remember_secret(SecretStr(base64.b64encode(bytes(40) + b"\xff" * 24).decode()))

    for text in ("0" * 30, "A" * 30, "f" * 30, "/" * 30):
        assert not redaction.has_known_secret(text)


def test_the_secret_that_was_used_least_recently_is_forgotten_first() -> None:
    first, second, *others = (
        base64.b64encode(os.urandom(64)).decode() for _ in range(redaction.MAX_REMEMBERED_SECRETS + 1)
    )
    for secret in (first, second, first, *others):
        redaction.remember_secret(SecretStr(secret))

    assert [*map(redaction.has_known_secret, (first, second, others[-1]))] == [True, False, True]


def test_the_secrets_that_are_remembered_do_not_grow_without_end() -> None:
    first = base64.b64encode(os.urandom(64)).decode()
    redaction.remember_secret(SecretStr(first))
    assert redaction.has_known_secret(first)
    for number in range(300):
        redaction.remember_secret(
            SecretStr(base64.b64encode(f"some secret with the number {number}".encode()).decode())
        )

    assert not redaction.has_known_secret(first)


@pytest.mark.parametrize(
    "name",
    [
        *("svc-backup", r"CORP\jane.doe", "snapshot-mover-2024", "Jürgen", "日本語", "BackupServiceAccount", "0" * 9),
        *("ProductionBackupServiceAccount01", "SvcQumuloSnapshotMover01", "SQLServerAgentProdCluster01"),
        *("/run/x/tmp.5v3YzABt9J/tests/x", '"/run/a8Kd/Q0zXm1Yc/Tr4Bv9W"', "~/9fXk2Bq7Lw/tmp.5v3YzABt9J"),
        *(r"CORP\SvcSQLBackupProdEU01", "ESXiHostVMwareBackup70u3", "CN=SvcQumuloBackupProd01,OU=Services,DC=corp"),
    ],
)
def test_an_ordinary_name_is_no_secret(name: str) -> None:
    assert not redaction.has_likely_secret(name)
    assert not redaction.has_known_secret(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("admin\u3164", r'"admin\u3164"'),
        ("admin\u115f", r'"admin\u115f"'),
        ("ad\u034fmin", r'"ad\u034fmin"'),
        ("admin\ufe0f", r'"admin\ufe0f"'),
        ("admin\U000e0100", r'"admin\udb40\udd00"'),
        ("\u2800admin", r'"\u2800admin"'),
        ("\u0301admin", r'"\u0301admin"'),
        ("admin \u0301", r'"admin \u0301"'),
        ("a\u0301dmin", '"a\u0301dmin"'),
        ("admin\u200b", r'"admin\u200b"'),
        ("\u202eadmin", r'"\u202eadmin"'),
    ],
)
def test_what_has_no_ink_is_made_visible(text: str, shown: str) -> None:
    assert quoted(text, max_chars=50) == shown
