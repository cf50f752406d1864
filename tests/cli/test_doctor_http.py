"""Test that `doctor` checks what a server over HTTP needs, where something is set for one."""

import hashlib
from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import trustme
from starlette.responses import JSONResponse

from tests.support.command_line import CommandLine
from tests.support.issuer import KEYS_PATH, SmallIssuer
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


def set_client(command_line: CommandLine, identity_provider: ServedIssuer, **settings: object) -> None:
    command_line.set(
        http_issuer=identity_provider.issuer.url,
        http_issuer_ca_file=identity_provider.ca_file,
        http_client_id="token-tools",
        http_state_keys="A" * 44,
        http_url=URL,
        **settings,
    )


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

    report = command_line.examine()
    assert report.list_faults() == []
    assert (report.checks["delivery"].outcome, report.checks["delivery"].text) == (
        "skipped", "new bearer tokens have no place, so nothing can create a token"
    )  # fmt: skip
    command_line.set(read_only="true")
    assert "delivery" not in command_line.examine().checks
    command_line.set(read_only="false", delivery="file")
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


def test_people_can_pick_up_where_that_is_set_up_and_what_the_issuer_needs_for_it_is_told(
    command_line: CommandLine, identity_provider: ServedIssuer
) -> None:
    secret = command_line.write("client-secret", "Zq8vN2mKx7LpT4wR\n")
    set_client(command_line, identity_provider, http_client_secret_file=secret, pickup_time="10min")

    report = command_line.examine()

    assert report.list_faults() == []
    assert report.checks["delivery"].text == (
        f"new bearer tokens wait in the journal, sealed, for 10 minutes: {URL}/pickup"
    )
    assert report.checks["client"].text == f"people sign in with a client whose secret is in {secret}"
    assert report.checks["client"].details == f"redirect  {URL}/pickup/callback"


def test_a_public_client_has_no_secret_to_look_at(command_line: CommandLine, identity_provider: ServedIssuer) -> None:
    set_client(command_line, identity_provider)

    assert command_line.examine().checks["client"].text == "people sign in with a public client, which has no secret"


@pytest.mark.parametrize(
    ("content", "mode", "found"),
    [
        (None, 0o600, ("failed", "which does not exist")),
        ("", 0o600, ("failed", "which is empty")),
        ("Zq8vN2mKx7LpT4wR", 0o644, ("warning", "other users of this machine can read")),
    ],
)
def test_a_secret_of_the_client_that_is_not_there_or_not_private_is_told(
    command_line: CommandLine, identity_provider: ServedIssuer, content: str | None, mode: int, found: tuple[str, str]
) -> None:
    path = command_line.folder / "client-secret"
    if content is not None:
        command_line.write(path.name, content, mode=mode)
    set_client(command_line, identity_provider, http_client_secret_file=path)

    report = command_line.examine()

    outcome, said = found
    assert report.list_faults() == ["client"]
    assert report.checks["client"].outcome == outcome
    assert said in report.checks["client"].told


def test_pick_up_without_pages_is_told_to_who_starts_the_server_for_one_client(command_line: CommandLine) -> None:
    command_line.set(delivery="pickup")

    report = command_line.examine()

    assert report.list_faults() == ["delivery"]
    assert report.checks["delivery"].text == "QUMULO_DELIVERY=pickup needs pages, which are served over HTTP alone"
    assert "file, keyring or command" in report.checks["delivery"].mend


def test_pick_up_over_http_without_a_client_is_told(command_line: CommandLine) -> None:
    set_keys(command_line, f'[keys.bot]\nsha256 = "{DIGEST}"\nrole = "write"\n')
    command_line.set(delivery="pickup")

    report = command_line.examine()

    assert report.list_faults() == ["settings"]
    assert "QUMULO_HTTP_CLIENT_ID and QUMULO_HTTP_STATE_KEYS have to be set" in report.checks["settings"].text


def test_where_people_sign_in_is_told_and_an_issuer_where_nobody_can_is_a_fault(
    command_line: CommandLine, identity_provider: ServedIssuer
) -> None:
    issuer = identity_provider.issuer
    set_client(command_line, identity_provider)
    right = command_line.examine()
    metadata = {"issuer": issuer.url, "jwks_uri": f"{issuer.url}{KEYS_PATH}", "token_endpoint": f"{issuer.url}/token"}
    issuer.answers[issuer.metadata_path] = JSONResponse(metadata)
    wrong = command_line.examine()
    command_line.set(http_client_id=None)
    unneeded = command_line.examine()
    issuer.answers.clear()

    assert right.list_faults() == unneeded.list_faults() == []
    assert [line.partition(issuer.url)[0] for line in right.checks["issuer"].details.splitlines()] == [
        "sign-in  ",
        "tokens   ",
    ]
    assert wrong.list_faults() == ["issuer"]
    assert wrong.checks["issuer"].text == (
        f"nobody can sign in at pages: the metadata of {issuer.url} has no authorization_endpoint that begins with https://"
    )
