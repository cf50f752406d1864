"""Test that `trust` shows what a cluster shows, asks, and saves what is trusted then, or says what else to do."""

import os
import pty
import socket
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from tests.support.cluster_client import connected
from tests.support.command_line import CommandLine, fingerprint_of_port
from tests.support.json_rpc import COMMAND
from tests.support.listening import answer_in_plain_http, listen, say_nothing, show, show_in_turn
from tests.support.permissions import needs_root, permission_bits
from token_tools.cli.trust import render_reason
from token_tools.errors import Untrusted
from token_tools.sandbox.https import LOOPBACK
from token_tools.settings import Settings
from token_tools.times import utc_now

AUTHORITY = trustme.CA()
NOW, DAY = utc_now(), timedelta(days=1)
NO_CHANGE = "It is not trusted. Nothing was changed.\n"


def issue_self_signed(subject: str, *extensions: x509.ExtensionType) -> trustme.LeafCert:
    """Issue a certificate that names no machine unless an extension does, as that of a new cluster."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), NOW - DAY, NOW + 900 * DAY
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    private_key = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return trustme.LeafCert(private_key, certificate.public_bytes(serialization.Encoding.PEM), [])


NAMELESS = issue_self_signed("qumulo")
_EDI_PARTY_NAME = bytes.fromhex("3007a505a1030c0161")
ODDLY_NAMED = issue_self_signed("odd", x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, _EDI_PARTY_NAME))
"""A certificate with a name of a kind that nobody uses. Source: RFC 5280, 4.2.1.6."""


def find_saved_files() -> list[Path]:
    return [*Path(os.environ["HOME"]).rglob("*.pem")]


def test_a_certificate_that_names_nobody_is_trusted_after_that_and_kept_private(command_line: CommandLine) -> None:
    with show(NAMELESS) as shown:
        command_line.set(port=shown.port, fingerprint=None)

        first, again = command_line.run("trust", "--yes"), command_line.run("trust")

    [saved] = find_saved_files()
    assert (first.status, again.status) == (0, 0)
    assert f"{LOOPBACK}:{shown.port} shows 1 certificate, its own first:\n" in first.text
    assert "  names    (none: no machine is named in it)\n  issuer   itself (self-signed)\n" in first.text
    assert f"It is trusted now: by {saved}, this certificate and no other." in first.text
    assert "It is trusted already" in again.text
    assert permission_bits(saved) == 0o600
    assert [permission_bits(folder) for folder in list(saved.parents)[:2]] == [0o700, 0o700]
    assert saved.read_bytes().strip() == NAMELESS.cert_chain_pems[0].bytes().strip()


def test_a_server_that_runs_already_goes_on_with_what_was_trusted_meanwhile(command_line: CommandLine) -> None:
    command_line.set(fingerprint=None)
    settings = Settings(host=LOOPBACK, port=command_line.port, bearer_token=SecretStr(command_line.own.bearer_token))

    async def ask_before_and_after() -> None:
        async with connected(None, settings) as cluster:
            with pytest.raises(Untrusted) as refusal:
                await cluster.fetch_page()
            trust = f"`qumulo-token-tools trust --host {LOOPBACK} --port {command_line.port}`"
            assert str(refusal.value).endswith(f"{trust}.")
            trusted = await anyio.to_thread.run_sync(command_line.run, "trust", "--yes")
            assert trusted.status == 0
            assert [token.id for token in (await cluster.fetch_page()).entries] == [command_line.own.id]

    anyio.run(ask_before_and_after)


def test_what_was_trusted_is_trusted_alone(command_line: CommandLine) -> None:
    with show(NAMELESS) as shown:
        command_line.set(port=shown.port, fingerprint=None)
        command_line.run("trust", "--yes")
        [saved] = find_saved_files()
        before = saved.read_bytes()
        shown.replace(issue_self_signed("somebody else"))

        refused = command_line.run("trust", "--expect", "0" * 64)
        found = command_line.examine().checks["TLS"]
        assert saved.read_bytes() == before
        renewed = command_line.run("trust", "--yes")

    assert refused.status == 1
    assert refused.text.endswith(f", that of another certificate.\n{NO_CHANGE}")
    assert found.outcome == "failed"
    assert renewed.status == 0
    assert saved.read_bytes() != before


def add_colons(digits: str) -> str:
    return bytes.fromhex(digits).hex(":")


@pytest.mark.parametrize("spell", [str.upper, str.lower, add_colons])
def test_a_script_names_the_certificate_that_it_expects(command_line: CommandLine, spell: Callable[[str], str]) -> None:
    expected = spell(fingerprint_of_port(command_line.port))
    command_line.set(fingerprint=None)

    assert command_line.run("trust", "--expect", expected).status == 0
    assert len(find_saved_files()) == 1


def test_nobody_to_ask_is_told_with_the_options_that_answer(command_line: CommandLine) -> None:
    command_line.set(fingerprint=None)

    refusal = command_line.run_refused("trust")

    assert refusal == "nobody can be asked here, so that --expect SHA256 or --yes has to be given."
    assert find_saved_files() == []


@pytest.mark.parametrize(("answer", "status"), [(b"yes\n", 0), (b"\x04", 2)], ids=["yes", "end"])
def test_a_person_in_a_terminal_is_asked(command_line: CommandLine, answer: bytes, status: int) -> None:
    command_line.set(fingerprint=None)

    ended, shown = run_in_terminal(["trust"], answer)

    assert ended == status
    fingerprint = add_colons(fingerprint_of_port(command_line.port)).upper()
    assert f"Compare {fingerprint} with what the cluster's administrator tells you.\r\n" in shown
    assert "Trust it from now on, and save it in " in shown
    assert len(find_saved_files()) == (1 if status == 0 else 0)
    assert ("there was no answer: --expect SHA256 or --yes can be given instead" in shown) is (status == 2)


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("  YES \n", 0), ("no\n", 1), ("\n", 1), ("yes, but\n", 1)])
def test_only_a_yes_is_one(command_line: CommandLine, answer: str, status: int) -> None:
    command_line.set(fingerprint=None)

    ended, shown = run_in_terminal(["trust"], answer.encode())

    assert ended == status
    assert shown.replace("\r", "").endswith(NO_CHANGE) is (status == 1)
    assert len(find_saved_files()) == (1 - status)


def run_in_terminal(words: list[str], answer: bytes) -> tuple[int, str]:
    """Run the installed command in a terminal of its own, and type an answer; return its status and what it shows."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([COMMAND, *words], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, answer)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:
            pass  # the terminal has ended
        os.close(ours)
        return process.wait(10), shown.decode()


ISSUED = AUTHORITY.issue_cert(LOOPBACK)
WITH_ROOT = trustme.LeafCert(
    ISSUED.private_key_pem.bytes(), ISSUED.cert_chain_pems[0].bytes(), [AUTHORITY.cert_pem.bytes()]
)


def test_an_authority_that_is_shown_is_saved_where_a_file_is_named_that_is_not_there_yet(
    command_line: CommandLine,
) -> None:
    ca_file = command_line.folder / "certificates" / "ca.pem"
    with show(WITH_ROOT) as shown:
        command_line.set(port=shown.port, fingerprint=None, ca_file=ca_file)
        done = command_line.run("trust", "--yes")

    assert done.status == 0
    assert "shows 2 certificates, its own first:\n" in done.text
    assert f"It is trusted now: by {ca_file} or by this system." in done.text
    assert ca_file.read_bytes() == AUTHORITY.cert_pem.bytes()
    assert (permission_bits(ca_file), permission_bits(ca_file.parent)) == (0o600, 0o700)
    assert find_saved_files() == []


def test_certificates_that_are_in_the_file_stay_there_with_its_mode(command_line: CommandLine) -> None:
    others = trustme.CA().cert_pem.bytes().decode()
    ca_file = command_line.write("ca.pem", f"# of last year\n{others}", mode=0o644)
    with show(WITH_ROOT) as shown:
        command_line.set(port=shown.port, fingerprint=None, ca_file=ca_file)
        assert command_line.run("trust", "--yes").status == 0

    assert ca_file.read_text().startswith(f"# of last year\n{others}")
    assert ca_file.read_text().endswith(AUTHORITY.cert_pem.bytes().decode())
    assert permission_bits(ca_file) == 0o644


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        pytest.param(ISSUED, "unable to get local issuer certificate", id="no-root"),
        pytest.param(NAMELESS, "IP address mismatch, certificate is not valid for '127.0.0.1'", id="names-nobody"),
    ],
)
def test_what_would_not_help_is_not_saved_and_the_way_that_does_is_told(
    command_line: CommandLine, certificate: trustme.LeafCert, reason: str
) -> None:
    ca_file = command_line.folder / "ca.pem"
    with show(certificate) as shown:
        command_line.set(port=shown.port, fingerprint=None, ca_file=ca_file)
        refused = command_line.run("trust", "--yes")

    assert refused.status == 1
    assert f"To save it in {ca_file} would not help: {reason}. Remove QUMULO_CA_FILE, and run this" in refused.text
    assert not ca_file.exists()


def test_a_file_of_certificates_that_has_none_is_a_wrong_setting(command_line: CommandLine) -> None:
    command_line.set(fingerprint=None, ca_file=command_line.write("ca.pem", "nothing"))

    assert "QUMULO_CA_FILE" in command_line.run_refused("trust", "--yes")


def test_a_fingerprint_that_is_set_is_changed_by_the_operator(command_line: CommandLine) -> None:
    command_line.set(fingerprint="0" * 64)

    refused = command_line.run("trust", "--yes")

    assert refused.status == 1
    assert "QUMULO_FINGERPRINT is 00:00:" in refused.text
    shown = refused.text.rstrip(".\n").rpartition(" ")[2]
    assert shown.replace(":", "").lower() == fingerprint_of_port(command_line.port)
    assert find_saved_files() == []


def test_what_is_trusted_already_needs_no_answer(command_line: CommandLine) -> None:
    told = command_line.run("trust")

    assert told.status == 0
    assert "It is trusted already: by QUMULO_FINGERPRINT." in told.text


def test_verification_that_is_off_is_no_trust(command_line: CommandLine) -> None:
    command_line.set(fingerprint=None, verify_tls="false")

    told = command_line.run("trust", "--yes")

    assert told.status == 1
    assert "Nothing is verified, since QUMULO_VERIFY_TLS is false: remove that, and run this again." in told.text
    assert find_saved_files() == []


def test_a_saved_certificate_that_others_could_write_is_asked_about_anew(command_line: CommandLine) -> None:
    command_line.set(fingerprint=None)
    command_line.run("trust", "--yes")
    [saved] = find_saved_files()
    saved.chmod(0o666)

    told = command_line.run("trust", "--yes")

    assert told.status == 0
    assert "It is trusted now" in told.text
    assert permission_bits(saved) == 0o600


def test_the_authority_is_named_where_that_is_what_would_be_trusted(command_line: CommandLine) -> None:
    ca_file = command_line.folder / "ca.pem"
    with show(WITH_ROOT) as shown:
        command_line.set(port=shown.port, fingerprint=None, ca_file=ca_file)
        _, asked = run_in_terminal(["trust"], b"no\n")

    assert "The last one is the authority: whatever it issues will be trusted." in asked
    assert not ca_file.exists()


def test_a_folder_that_cannot_be_written_is_told_and_nothing_is_left(command_line: CommandLine) -> None:
    folder = Path(os.environ["XDG_CONFIG_HOME"], "qumulo-token-tools")
    folder.write_text("a file where a folder should be")
    command_line.set(fingerprint=None)

    refusal = command_line.run_refused("trust", "--yes")

    assert refusal.startswith(f"{folder}/trusted/{LOOPBACK}_{command_line.port}.pem cannot be written: ")
    assert folder.read_text() == "a file where a folder should be"


def test_without_a_home_folder_the_fingerprint_is_told_to_be_set(command_line: CommandLine) -> None:
    command_line.set(fingerprint=None, state_dir=command_line.folder, delivery_dir=command_line.folder)
    command_line.monkeypatch.setenv("HOME", "")
    command_line.monkeypatch.delenv("XDG_CONFIG_HOME")

    assert "set QUMULO_FINGERPRINT to " in command_line.run_refused("trust", "--yes")


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (answer_in_plain_http, "what answers there does not speak TLS"),
        (say_nothing, "there was no answer in time"),
        (socket.socket.close, "Connection reset by peer"),
    ],
    ids=["plain", "silent", "closes"],
)
def test_what_shows_no_certificate_is_told_and_status_1(
    command_line: CommandLine, serve: Callable[[socket.socket], None], reason: str
) -> None:
    with listen(serve) as port:
        command_line.set(port=port, timeout="1s")
        told = command_line.run("trust", "--yes")

    assert (told.status, told.text) == (1, f"{LOOPBACK}:{port} shows no certificate: {reason}.\n")


def test_a_port_without_anything_and_a_name_without_an_address_are_told(command_line: CommandLine) -> None:
    with socket.create_server((LOOPBACK, 0)) as closed:
        port: int = closed.getsockname()[1]
    command_line.set(port=port)
    refused = command_line.run("trust", "--yes")
    assert (refused.status, refused.text) == (1, f"{LOOPBACK}:{port} shows no certificate: Connection refused.\n")
    command_line.set(host="nowhere.invalid")
    told = command_line.run("trust", "--yes")
    assert told.text.startswith(f"nowhere.invalid:{port} shows no certificate: ")
    assert told.status == 1


def test_a_certificate_that_cannot_be_understood_is_told(command_line: CommandLine) -> None:
    with show(ODDLY_NAMED) as shown:
        command_line.set(port=shown.port, fingerprint=None)
        told = command_line.run("trust", "--yes")

    assert (told.status, told.text) == (
        1,
        f"{LOOPBACK}:{shown.port} shows no certificate: its certificate cannot be understood.\n",
    )


def test_several_clusters_are_trusted_one_after_the_other(command_line: CommandLine) -> None:
    with show(NAMELESS) as shown:
        lab = command_line.format_table("lab", fingerprint=None)
        command_line.write_config(lab + command_line.format_table("new", port=shown.port, fingerprint=None))

        one = command_line.run("trust", "--cluster", "new", "--yes")
        both = command_line.run("trust", "--yes")

    assert (one.status, both.status) == (0, 0)
    assert "lab (" not in one.text
    assert f"lab ({LOOPBACK}:{command_line.port}) shows 1 certificate" in both.text
    assert f"new ({LOOPBACK}:{shown.port}) shows 1 certificate" in both.text
    assert len(find_saved_files()) == 2


def test_a_cluster_that_is_away_leaves_the_others_trusted_and_is_status_1(command_line: CommandLine) -> None:
    far = command_line.format_table("far", host="nowhere.invalid", fingerprint=None)
    command_line.write_config(far + command_line.format_table("lab", fingerprint=None))

    assert command_line.run("trust", "--yes").status == 1
    assert len(find_saved_files()) == 1


def test_hostile_text_in_a_certificate_stays_on_its_line_in_quotes(command_line: CommandLine) -> None:
    with show(issue_self_signed("x\n\033[2J  SHA-256  00:00\n" + "y" * 20)) as shown:
        command_line.set(port=shown.port, fingerprint=None)
        printed = command_line.run("trust", "--yes").text

    assert "\033" not in printed
    assert printed.count("\n  SHA-256  ") == 1


def test_many_names_are_shown_in_part(command_line: CommandLine) -> None:
    names = [f"node{number}.example.com" for number in range(500)]
    with show(AUTHORITY.issue_cert(*names)) as shown:
        command_line.set(port=shown.port, fingerprint=None)
        printed = command_line.run("trust", "--yes").text

    assert "node0.example.com" in printed
    assert "node9.example.com" not in printed


def test_a_link_in_the_place_of_the_file_is_followed(command_line: CommandLine) -> None:
    ca_file = command_line.folder / "link.pem"
    ca_file.symlink_to(command_line.write("ca.pem", trustme.CA().cert_pem.bytes().decode()))
    with show(WITH_ROOT) as shown:
        command_line.set(port=shown.port, fingerprint=None, ca_file=ca_file)
        assert command_line.run("trust", "--yes").status == 0

    assert ca_file.is_symlink()
    assert ca_file.read_text().count("BEGIN CERTIFICATE") == 2


@needs_root
def test_a_file_of_another_user_stays_theirs(command_line: CommandLine) -> None:
    ca_file = command_line.write("ca.pem", trustme.CA().cert_pem.bytes().decode())
    os.chown(ca_file, 54321, 54321)
    with show(WITH_ROOT) as shown:
        command_line.set(port=shown.port, fingerprint=None, ca_file=ca_file)
        assert command_line.run("trust", "--yes").status == 0

    assert (ca_file.stat().st_uid, ca_file.stat().st_gid, permission_bits(ca_file)) == (54321, 54321, 0o600)


def test_a_cluster_that_goes_away_meanwhile_is_told(command_line: CommandLine) -> None:
    with show_in_turn(NAMELESS, None) as port:
        command_line.set(port=port, fingerprint=None)
        told = command_line.run("trust", "--yes")

    assert told.status == 1
    assert f" from {LOOPBACK}:{port}: " in told.text.splitlines()[-1]
    assert find_saved_files() == []


def test_a_certificate_that_was_replaced_meanwhile_is_not_trusted(command_line: CommandLine) -> None:
    other = issue_self_signed("somebody else")
    with show_in_turn(NAMELESS, NAMELESS, NAMELESS, other) as port:
        command_line.write_config(command_line.format_table("lab", fingerprint=None, port=port))
        told = command_line.run("trust", "--yes")

    assert told.status == 1
    assert "It was saved, and still: The certificate of " in told.text
    assert "`qumulo-token-tools trust --cluster lab`" in told.text


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (ExceptionGroup("", [OSError(113, "x"), OSError(111, "x")]), "No route to host"),
        (RuntimeError("x"), "no connection could be made"),
    ],
)
def test_of_a_name_with_several_addresses_the_reason_of_the_first_is_told(cause: Exception, reason: str) -> None:
    failure = OSError("All connection attempts failed")
    failure.__cause__ = cause

    assert render_reason(failure) == reason
