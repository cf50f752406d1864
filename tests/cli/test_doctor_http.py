"""Test that `doctor` checks what a server over HTTP needs, where something is set for one."""

import hashlib
from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import trustme

from tests.support.command_line import CommandLine
from tests.support.issuer import SmallIssuer
from token_tools.sandbox.https import LOOPBACK
from token_tools.times import utc_now

DIGEST = hashlib.sha256(b"a key").hexdigest()
DAY = timedelta(days=1)
URL = "https://tokens.example.com"


@dataclass
class ServedIssuer:
    """An issuer on a port of this machine, and the file of its authority."""

    issuer: SmallIssuer
    ca_file: Path


@pytest.fixture(scope="module")
def identity_provider(tmp_path_factory: pytest.TempPathFactory) -> Generator[ServedIssuer]:
    issuer = SmallIssuer(utc_now)
    with issuer.served(tmp_path_factory.mktemp("issuer")) as ca_file:
        yield ServedIssuer(issuer, ca_file)


def set_keys(command_line: CommandLine, content: str) -> None:
    command_line.set(http_keys_file=command_line.write("keys.toml", content))


def set_certificate(command_line: CommandLine, days: float, *, key_of_another: bool = False) -> None:
    authority = trustme.CA()
    issued, other = (authority.issue_cert(LOOPBACK, not_after=utc_now() + days * DAY) for _ in range(2))
    chain = "".join(blob.bytes().decode() for blob in issued.cert_chain_pems)
    key = (other if key_of_another else issued).private_key_pem.bytes().decode()
    command_line.set(
        http_tls_certificate=command_line.write("tls.crt", chain), http_tls_key=command_line.write("k", key)
    )


def test_without_a_setting_about_http_nothing_is_said_of_it(command_line: CommandLine) -> None:
    assert not {"HTTP", "issuer", "keys", "certificate"} & command_line.examine().checks.keys()


def test_where_all_is_well_each_part_of_the_service_over_http_says_so(
    command_line: CommandLine, identity_provider: ServedIssuer
) -> None:
    set_keys(command_line, f'[keys.nightly-audit]\nsha256 = "{DIGEST}"\nrole = "read"\n')
    set_certificate(command_line, days=90.5)
    command_line.set(
        http_url=URL, http_issuer=identity_provider.issuer.url, http_issuer_ca_file=identity_provider.ca_file
    )

    report = command_line.examine()

    assert report.list_faults() == []
    http = report.checks["HTTP"]
    assert http.text == f"clients call {URL}/mcp; the server listens on 127.0.0.1:8080"
    assert http.details == f"audience  {URL}/mcp\nreaders   scope=tokens:read\nwriters   scope=tokens:write"
    assert report.checks["issuer"].text == f"{identity_provider.issuer.url} tells usable keys: 1, for ES256"
    assert report.checks["keys"].details == "nightly-audit  read"
    assert (
        "(in 3 months)" in report.checks["certificate"].details
        or "(in 90 days)" in report.checks["certificate"].details
    )


def test_over_http_no_place_for_new_tokens_is_tried_unless_one_is_named(command_line: CommandLine) -> None:
    set_keys(command_line, f'[keys.bot]\nsha256 = "{DIGEST}"\nrole = "write"\n')

    assert "delivery" not in command_line.examine().checks
    command_line.set(delivery="file")
    assert command_line.examine().checks["delivery"].outcome == "ok"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"http_url": URL}, "it is not decided who may call"),
        ({"http_anonymous": "true", "http_listen": "0.0.0.0:8080"}, "can be reached by others"),
    ],
)
def test_settings_with_which_no_server_would_start_are_told(
    command_line: CommandLine, settings: dict[str, object], said: str
) -> None:
    command_line.set(**settings)

    report = command_line.examine()

    assert report.list_faults() == ["HTTP"]
    assert said in report.checks["HTTP"].text


def test_a_server_that_lets_in_everybody_is_told(command_line: CommandLine) -> None:
    command_line.set(http_anonymous="true")

    report = command_line.examine()

    assert report.list_faults() == ["HTTP"]
    assert "lets in whoever reaches that" in report.checks["HTTP"].text


def test_a_keys_file_that_lets_nobody_in_is_told(command_line: CommandLine) -> None:
    set_keys(command_line, "")

    report = command_line.examine()

    assert report.list_faults() == ["keys"]
    assert "one at least" in report.checks["keys"].text


@pytest.mark.parametrize(
    ("days", "key_of_another", "outcome", "said"),
    [
        (-1, False, "failed", "has expired"),
        (10, False, "warning", "expires soon"),
        (90, True, "failed", "no certificate and its key"),
    ],
)
def test_a_certificate_that_is_of_no_use_or_not_for_long_is_told(
    command_line: CommandLine, days: float, key_of_another: bool, outcome: str, said: str
) -> None:
    set_keys(command_line, f'[keys.bot]\nsha256 = "{DIGEST}"\nrole = "read"\n')
    set_certificate(command_line, days, key_of_another=key_of_another)

    report = command_line.examine()

    assert report.list_faults() == ["certificate"]
    assert report.checks["certificate"].outcome == outcome
    assert said in report.checks["certificate"].text


def test_an_issuer_that_is_unknown_here_or_spells_itself_otherwise_is_told(
    command_line: CommandLine, identity_provider: ServedIssuer
) -> None:
    command_line.set(http_issuer=identity_provider.issuer.url)
    unknown = command_line.examine()
    command_line.set(http_issuer=f"{identity_provider.issuer.url}/", http_issuer_ca_file=identity_provider.ca_file)
    other = command_line.examine()
    command_line.set(http_issuer_ca_file=command_line.folder / "none.pem")
    without = command_line.examine()

    for report in (unknown, other, without):
        assert report.list_faults() == ["issuer"]
    assert "cannot be reached" in unknown.checks["issuer"].text
    assert "QUMULO_HTTP_ISSUER_CA_FILE" in unknown.checks["issuer"].mend
    assert "to the letter" in other.checks["issuer"].text
    assert "does not exist" in without.checks["issuer"].text
