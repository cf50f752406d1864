"""Test that no text repeats part of a secret, however a hostile cluster, gateway or user spells it."""

import base64
import hashlib
import os
import time

import pytest
from pydantic import SecretStr

from tests.support.harness import TIMEOUT_SECONDS
from tests.support.secret_spellings import secret_body
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


@pytest.mark.parametrize("length", [40, 60, 88])
def test_what_looks_like_a_secret_is_told_from_words_written_together(length: int) -> None:
    digests = [hashlib.sha512(f"{number}".encode()).digest() + b"xy" for number in range(200)]
    texts = [base64.b64encode(digest).decode()[:length] for digest in digests]

    assert sum(map(redaction.has_likely_secret, texts)) > 190


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


def test_a_text_that_is_too_long_to_be_searched_counts_as_a_secret() -> None:
    assert redaction.has_known_secret("y" * 4097)


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
