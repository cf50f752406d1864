"""Test that `doctor` names what is wrong and what mends it, whatever is broken, and tells no secret."""

import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import trustme
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.command_line import CommandLine
from tests.support.fake_keyring import FakeKeyring
from tests.support.harness import ADMIN
from tests.support.listening import answer_in_plain_http, listen, say_nothing, show
from tests.support.record import add_entries
from token_tools.sandbox.cluster import Behaviour
from token_tools.sandbox.https import LOOPBACK
from token_tools.times import utc_now

AUTHORITY = trustme.CA()
NOW, DAY = utc_now(), timedelta(days=1)
READ, WRITE, LOOKUP = "PRIVILEGE_ACCESS_TOKENS_READ", "PRIVILEGE_ACCESS_TOKENS_WRITE", "PRIVILEGE_IDENTITY_READ"


def test_where_all_is_well_each_check_says_so_and_nothing_has_to_be_mended(command_line: CommandLine) -> None:
    printed = command_line.run("doctor")

    assert printed.status == 0
    assert printed.text.endswith("\nAll is well.\n")
    assert "\033" not in printed.text
    outcomes = {line.split()[1]: line.split()[0] for line in printed.text.splitlines() if line[:1].isalpha()}
    assert {name for name, outcome in outcomes.items() if outcome == "ok"} == {
        "program", "settings", "credential", "name", "TCP", "TLS", "version", "clocks", "who", "privileges", "journal",
        "unfinished", "delivery", "reports",
    }  # fmt: skip


def test_what_is_tried_in_earnest_leaves_nothing_behind(command_line: CommandLine) -> None:
    command_line.examine()

    state = Path(os.environ["HOME"], "qumulo-token-tools")
    assert {path.name for path in state.rglob("*") if path.is_file()} <= {"state.db", "state.db-wal", "state.db-shm"}


def test_each_setting_is_told_with_its_place_and_a_secret_only_as_set(command_line: CommandLine) -> None:
    command_line.write("config.toml", 'max_lifetime = "30d"\n')
    command_line.set(config=command_line.folder / "config.toml", timeout="20s")

    printed = command_line.run("doctor", "--read-only")

    assert "  bearer_token = set, not shown  (QUMULO_BEARER_TOKEN)\n" in printed.text
    assert f"  port = {command_line.port}  (QUMULO_PORT)\n" in printed.text
    assert "  read_only = true  (--read-only)\n" in printed.text
    assert "  max_lifetime = 30 days  (max_lifetime)\n" in printed.text


@dataclass(frozen=True)
class Fault:
    """How something is broken, the name of the check that finds it, and what that says."""

    cause: Callable[[CommandLine], object]
    check: str
    said: str
    mended_by: str
    id: str


def find_closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port: int = closed.getsockname()[1]
    return port


def set_own_expiry(command_line: CommandLine, from_now: timedelta) -> None:
    command_line.own = command_line.cluster.add_token(
        ADMIN.auth_id, creator=ADMIN.auth_id, expiration_time=utc_now() + from_now
    )
    command_line.set(bearer_token=command_line.own.bearer_token)


FAULTS: Sequence[Fault] = (
    Fault(lambda it: it.set(host="nowhere.invalid"), "name", "is not found", "QUMULO_HOST", id="name"),
    Fault(lambda it: it.set(port=find_closed_port()), "TCP", "refused", "QUMULO_PORT", id="port"),
    Fault(
        lambda it: it.set_credential("credentials_file", it.folder / "none"),
        "credential",
        "does not exist",
        "qq --host 127.0.0.1",
        id="no-credentials-file",
    ),
    Fault(
        lambda it: it.set_credential("bearer_token_file", it.write("b", it.own.bearer_token, mode=0o644)),
        "credential",
        "others can read",
        "chmod 600",
        id="readable-credential",
    ),
    Fault(
        lambda it: it.set_credential("bearer_token_file", it.write("b", "# nothing yet\n# at all\n")),
        "credential",
        "QUMULO_BEARER_TOKEN_FILE",
        "setup",
        id="no-token",
    ),
    Fault(
        lambda it: it.set_credential("credentials_file", it.write("c", "{}")),
        "credential",
        "QUMULO_CREDENTIALS_FILE",
        "setup",
        id="no-store",
    ),
    Fault(
        lambda it: it.set_credential("credentials_command", "false"),
        "credential",
        "QUMULO_CREDENTIALS_COMMAND",
        "setup",
        id="command-fails",
    ),
    Fault(
        lambda it: it.set_credential("credentials_command", "/nowhere/op read op://x"),
        "credential",
        "QUMULO_CREDENTIALS_COMMAND",
        "setup",
        id="no-command",
    ),
    Fault(
        lambda it: it.set_credential("keyring", "service/name"),
        "credential",
        "QUMULO_KEYRING",
        "setup",
        id="credential-in-no-keyring",
    ),
    Fault(lambda it: it.cluster.tokens.pop(it.own.id), "cluster", "401", "QUMULO_BEARER_TOKEN", id="deleted-token"),
    Fault(lambda it: it.start_cluster(without=[READ]), "privileges", READ, "auth_modify_role", id="may-not-read"),
    Fault(lambda it: it.inject("list", "page-404"), "cluster", "404", "operator", id="list-404"),
    Fault(lambda it: it.inject("list", "page-403"), "cluster", "403", "operator", id="list-403"),
    Fault(lambda it: it.inject("list", "html"), "cluster", "502", "has to look at it", id="list-html"),
    Fault(lambda it: it.inject("list", "error-500"), "cluster", "500", "gain", id="list-500"),
    Fault(lambda it: it.inject("who-am-i", "page-502"), "cluster", "502", "", id="who-am-i"),
    Fault(lambda it: it.inject("version", "other-json"), "cluster", "version", "operator", id="no-cluster"),
    Fault(lambda it: it.inject("get", "page-403"), "who am I", "403", "QUMULO_PORT", id="own-token"),
    Fault(lambda it: it.start_cluster(without=[WRITE]), "privileges", f"{WRITE} missing", "role", id="may-not-write"),
    Fault(lambda it: it.start_cluster(without=[LOOKUP]), "privileges", f"{LOOKUP} missing", "role", id="no-lookup"),
    Fault(
        lambda it: it.start_cluster(Behaviour(unprivileged_list_is_own=True), without=[READ, WRITE]),
        "privileges",
        f"{READ}, {WRITE} missing",
        "role",
        id="self-service",
    ),
    Fault(lambda it: it.start_cluster(Behaviour(version="5.2.4")), "version", "no access tokens", "upgraded", id="old"),
    Fault(
        lambda it: it.start_cluster(Behaviour(version="of the day")),
        "version",
        "no version",
        "upgrade",
        id="no-version",
    ),
    Fault(lambda it: set_own_expiry(it, timedelta(days=5)), "who am I", "in 5 days", "rotate", id="own-token-ends"),
    Fault(
        lambda it: it.set(verify_tls="false", fingerprint=None),
        "TLS",
        "not verified",
        "remove QUMULO_VERIFY_TLS, and run `qumulo-token-tools trust",
        id="unverified",
    ),
    Fault(lambda it: it.set(fingerprint=None), "TLS", "is not trusted", "`qumulo-token-tools trust", id="untrusted"),
    Fault(lambda it: it.set(fingerprint="0" * 64), "TLS", "SHA-256", "`qumulo-token-tools trust", id="replaced"),
    Fault(
        lambda it: it.set(fingerprint=None, ca_file=it.write("ca", "nothing")),
        "TLS",
        "QUMULO_CA_FILE",
        "`qumulo-token-tools trust",
        id="no-certificates",
    ),
    Fault(lambda it: it.set(state_dir=it.write("state", "a file")), "journal", "", "QUMULO_STATE_DIR", id="no-state"),
    Fault(lambda it: it.set(delivery_dir=it.write("d", "a file")), "delivery", "", "QUMULO_DELIVERY_DIR", id="place"),
    Fault(lambda it: it.set(delivery="inline"), "delivery", "the model", "QUMULO_DELIVERY", id="inline"),
    Fault(lambda it: it.set(report_dir=it.write("r", "a file")), "reports", "", "QUMULO_REPORT_DIR", id="no-reports"),
    Fault(lambda it: it.set(state_url="postgresql://me@127.0.0.1:1/db"), "journal", "", "QUMULO_STATE_URL", id="no-db"),
    Fault(lambda it: it.set(readonly="true"), "settings", "QUMULO_READONLY", "QUMULO_READ_ONLY", id="misspelt"),
    Fault(lambda it: it.set(host=None), "settings", "QUMULO_HOST is not set", "setup", id="no-host"),
    Fault(lambda it: it.set(config=it.write("c.toml", "a = = b")), "settings", "is not TOML", "setup", id="no-toml"),
    Fault(
        lambda it: it.set(config=it.write("c.toml", "reed_only = true")),
        "settings",
        "nearest is read_only",
        "setup",
        id="no-key",
    ),
    Fault(lambda it: it.set(config=it.write("c.toml", "", mode=0o666)), "settings", "chmod go-w", "", id="open-file"),
    Fault(lambda it: it.write_config("[clusters.lab]\nhost = 5"), "settings", "[clusters.lab] host", "", id="table"),
)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.id for fault in FAULTS])
def test_each_fault_is_named_with_what_mends_it(command_line: CommandLine, fault: Fault) -> None:
    fault.cause(command_line)

    report = command_line.examine()

    assert fault.check in report.list_faults()
    assert report.status == 1
    assert fault.said in report.checks[fault.check].text
    assert fault.mended_by in report.checks[fault.check].told
    assert all(check.mend for check in report.checks.values() if check.outcome == "failed")


@pytest.mark.parametrize(
    ("serve", "said"),
    [
        pytest.param(answer_in_plain_http, "does not speak TLS", id="plain-http"),
        pytest.param(say_nothing, "no answer in time", id="silent"),
        pytest.param(socket.socket.close, "reset", id="closes-at-once"),
    ],
)
def test_what_is_no_cluster_is_found_out_without_a_credential(
    command_line: CommandLine, serve: Callable[[socket.socket], None], said: str
) -> None:
    with listen(serve) as port:
        command_line.set(port=port, timeout="1s")
        report = command_line.examine()

    assert report.list_faults() == ["TLS"]
    assert said in report.checks["TLS"].text
    assert "8000 unless somebody changed it" in report.checks["TLS"].mend
    assert report.checks["cluster"].outcome == "skipped"
    assert report.checks["journal"].outcome == "ok"


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        pytest.param(AUTHORITY.issue_cert("elsewhere.example.com"), "IP address mismatch", id="name"),
        pytest.param(
            AUTHORITY.issue_cert(LOOPBACK, not_before=NOW - 9 * DAY, not_after=NOW - DAY), "has expired", id="expired"
        ),
        pytest.param(
            AUTHORITY.issue_cert(LOOPBACK, not_before=NOW + DAY, not_after=NOW + 9 * DAY), "not yet valid", id="not-yet"
        ),
        pytest.param(AUTHORITY.issue_cert(LOOPBACK, not_after=NOW + 9 * DAY), "expires soon", id="soon"),
    ],
)
def test_a_certificate_of_a_known_authority_that_is_not_good_is_told_with_its_names_dates_and_fingerprint(
    command_line: CommandLine, certificate: trustme.LeafCert, said: str
) -> None:
    ca_file = command_line.write("ca.pem", AUTHORITY.cert_pem.bytes().decode())
    with show(certificate) as shown:
        command_line.set(port=shown.port, fingerprint=None, ca_file=ca_file)
        found = command_line.examine().checks["TLS"]

    assert said in found.text
    assert found.mend
    assert "\nSHA-256  " in found.details
    assert "\nuntil    " in found.details


def test_a_certificate_that_others_could_have_put_there_trusts_nothing(command_line: CommandLine) -> None:
    command_line.set(fingerprint=None)
    command_line.run("trust", "--yes")
    [saved] = Path(os.environ["HOME"]).rglob("*.pem")
    saved.chmod(0o666)

    report = command_line.examine()

    assert report.list_faults() == ["TLS"]
    assert f"{saved} has the certificate that was trusted, and can be written by others" in report.checks["TLS"].text


@pytest.mark.parametrize(("ahead", "said"), [(timedelta(hours=3), "3 hours ahead"), (timedelta(hours=-2), "2 hours")])
def test_clocks_that_are_apart_are_told_by_how_much(command_line: CommandLine, ahead: timedelta, said: str) -> None:
    command_line.ahead = ahead

    report = command_line.examine()

    assert report.list_faults() == ["clocks"]
    assert said in report.checks["clocks"].text
    assert "NTP" in report.checks["clocks"].mend


def test_clocks_that_were_not_compared_are_not_told_to_agree(command_line: CommandLine) -> None:
    command_line.ahead = None

    assert command_line.examine().checks["clocks"].outcome == "skipped"


def test_an_older_core_is_told_with_what_it_lacks(command_line: CommandLine) -> None:
    command_line.start_cluster(Behaviour(version="7.2.9"))

    report = command_line.examine()

    assert report.list_faults() == []
    assert "it lacks self-service: one's own tokens without a privilege" in report.checks["version"].text


def test_who_only_reads_needs_no_privilege_for_more(command_line: CommandLine) -> None:
    command_line.start_cluster(without=[WRITE])

    report = command_line.examine("--read-only")

    assert report.list_faults() == []
    assert "create_access_token" not in report.checks["privileges"].details
    assert "delivery" not in report.checks


def test_a_cluster_that_does_not_tell_privileges_is_no_fault(command_line: CommandLine) -> None:
    command_line.serve(WithoutPrivileges(command_line.served.app))

    found = command_line.examine().checks["privileges"]

    assert "does not tell" in found.text
    assert "works: list_access_tokens" in found.details


@pytest.mark.parametrize(
    ("without", "works", "rest"),
    [
        ([READ, LOOKUP], "no tool works for the tokens of all users", "users have to be written by number"),
        ([WRITE], "works: list_access_tokens, get_access_token, audit", "every tool works for this user's own"),
        ([LOOKUP], "rotate_access_token", "users have to be written by number, such as auth_id:500"),
    ],
)
def test_which_tools_work_with_the_privileges_is_told(
    command_line: CommandLine, without: list[str], works: str, rest: str
) -> None:
    command_line.start_cluster(without=without)

    found = command_line.examine().checks["privileges"]

    assert works in found.details
    assert rest in found.details


@pytest.mark.parametrize("step", ["get", "set"])
def test_a_keyring_that_is_locked_is_told(command_line: CommandLine, fake_keyring: FakeKeyring, step: str) -> None:
    fake_keyring.failing_step = step
    command_line.set(delivery="keyring")

    report = command_line.examine()

    assert report.list_faults() == ["delivery"]
    assert "keyring" in report.checks["delivery"].text


def test_a_keyring_that_works_is_empty_afterwards(command_line: CommandLine, fake_keyring: FakeKeyring) -> None:
    command_line.set(delivery="keyring")

    assert "system's keyring, which was tried" in command_line.examine().checks["delivery"].text
    assert fake_keyring.secrets == {}


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (None, "handed to QUMULO_DELIVERY_COMMAND (true), which can be executed; no QUMULO_DELIVERY_CHECK is set"),
        ("true", "handed to QUMULO_DELIVERY_COMMAND (true); QUMULO_DELIVERY_CHECK ended with 0"),
        ("false", "QUMULO_DELIVERY_CHECK (false) ended with exit status 1"),
    ],
)
def test_the_check_of_a_command_is_run(command_line: CommandLine, check: str | None, expected: str) -> None:
    command_line.set(
        delivery="command", delivery_command="true", **({} if check is None else {"delivery_check": check})
    )

    report = command_line.examine()

    assert report.list_faults() == (["delivery"] if check == "false" else [])
    assert expected in report.checks["delivery"].text


def test_where_no_token_can_be_created_no_place_for_one_is_looked_for(command_line: CommandLine) -> None:
    command_line.set(delivery="none")

    assert "delivery" not in command_line.examine().checks


def test_what_was_begun_and_not_ended_is_told_with_the_command_that_tells_more(command_line: CommandLine) -> None:
    state = prepare_state(command_line)
    add_entries(state, [{"cluster": f"{LOOPBACK}:{command_line.port}", "user_name": "local:jane"}])

    report = command_line.examine()

    assert report.list_faults() == ["unfinished"]
    assert report.checks["unfinished"].details == "rotate for local:jane"
    assert "journal --unfinished" in report.checks["unfinished"].mend


def test_as_many_changes_as_are_allowed_are_told_with_the_setting(command_line: CommandLine) -> None:
    state = prepare_state(command_line)
    begun = utc_now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    done = {"cluster": f"{LOOPBACK}:{command_line.port}", "begun": begun, "ended": begun, "outcome": "done"}
    add_entries(state, [done, done])
    command_line.set(max_changes=2)

    report = command_line.examine()

    assert report.list_faults() == ["journal"]
    assert "QUMULO_MAX_CHANGES" in report.checks["journal"].mend


def test_a_database_whose_driver_is_not_installed_is_told(command_line: CommandLine) -> None:
    command_line.monkeypatch.setitem(sys.modules, "token_tools.storage.state.postgres", None)
    command_line.set(state_url="postgresql://me@127.0.0.1:1/db")

    report = command_line.examine()

    assert report.list_faults() == ["journal"]
    assert "QUMULO_STATE_URL needs an extra" in report.checks["journal"].text


def test_of_two_clusters_the_one_that_is_away_hides_nothing_of_the_other(command_line: CommandLine) -> None:
    lab, far = command_line.format_table("lab"), command_line.format_table("far", port=find_closed_port())
    command_line.write_config(far + lab)

    report = command_line.examine()

    assert report.list_faults() == ["far: TCP"]
    assert report.checks["far: TCP"].mend.startswith("[clusters.far] port has to be")
    assert report.checks["lab: privileges"].outcome == "ok"
    assert command_line.examine("--cluster", "lab").list_faults() == []


def test_a_table_is_mended_by_the_command_that_chooses_it(command_line: CommandLine) -> None:
    command_line.write_config(command_line.format_table("lab", fingerprint=None))

    found = command_line.examine().checks["TLS"]

    assert found.mend.startswith("`qumulo-token-tools trust --cluster lab`")
    assert "--host" not in found.told


def test_several_clusters_are_told_apart_for_people_too(command_line: CommandLine) -> None:
    command_line.write_config(command_line.format_table("lab", host="localhost") + command_line.format_table("main"))

    printed = command_line.run("doctor")

    assert "\n\nlab:\nok " in printed.text
    assert "\n\nmain:\nok " in printed.text


def test_hostile_text_of_a_cluster_is_shown_in_quotes_on_its_line(command_line: CommandLine) -> None:
    command_line.start_cluster(Behaviour(version="7.9\n\033[31mall is well"))

    printed = command_line.run("doctor")

    assert "\033" not in printed.text
    assert "\nall is well" not in printed.text


def test_a_cluster_that_is_not_configured_is_a_wrong_call(command_line: CommandLine) -> None:
    command_line.write_config("[clusters.lab]\nhost = 'lab.example.com'")

    assert command_line.run_refused("doctor", "--cluster", "lap").endswith("nearest is lab.")


def test_a_setting_beside_the_entry_of_a_host_is_a_wrong_call(command_line: CommandLine) -> None:
    assert "give no others" in command_line.run_refused("doctor", "--client", "cursor", "--port", "1")


def prepare_state(command_line: CommandLine) -> Path:
    """Let the journal be there."""
    state = command_line.folder / "state"
    command_line.set(state_dir=state)
    command_line.examine()
    return state


@dataclass
class WithoutPrivileges:
    """A cluster whose who-am-i does not tell privileges."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["path"] == "/v1/session/who-am-i":
            await JSONResponse({"id": ADMIN.auth_id, "name": "admin"})(scope, receive, send)
        else:
            await self.app(scope, receive, send)
