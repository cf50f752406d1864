"""Test that the installed command answers mistakes of people and hosts with one line, no secret, and status 2."""

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.json_rpc import COMMAND
from tests.support.permissions import needs_root
from tests.support.secret_scan import find_secrets
from tests.support.stdio_client import run_to_end
from token_tools import __version__
from token_tools.cli.arguments import COMMANDS

TIMEOUT_SECONDS = 60
BODY = base64.b64encode(hashlib.sha256(b"test").digest() * 2).decode()
SECRET = f"access-v1:{BODY}"
CREDENTIALS_FILE_JSON = json.dumps({"bearer_token": SECRET, "version": 1})
REQUIRED_ENVIRONMENT = {"QUMULO_HOST": "c", "QUMULO_BEARER_TOKEN": SECRET}
STARTED_CLEANLY = (0, "")
RUN_AS_UNKNOWN_USER_SCRIPT = "import os, sys; os.setreuid(54321, -1); os.execv(sys.argv[1], sys.argv[1:])"


def run_command(
    *words: str, env: Mapping[str, str] | None = None, unset: Sequence[str] = (), cwd: Path | None = None
) -> tuple[int, str]:
    """Run a command, check that it writes no secret, and return its status and stderr."""
    variables = {name: value for name, value in (os.environ | (env or {})).items() if name not in unset}
    ended = subprocess.run(
        words,
        capture_output=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
        env=variables,
        cwd=cwd,
    )
    assert find_secrets(ended.stdout + ended.stderr, [SECRET]) == []
    return ended.returncode, ended.stderr.decode()


DOCTOR = "; run `qumulo-token-tools doctor`"


def read_start_failure(*words: str, env: Mapping[str, str] | None = None, unset: Sequence[str] = ()) -> str:
    """Return the line in which a process says why it does not start, without the line's beginning."""
    is_serving = COMMANDS.keys().isdisjoint(words)
    beginning = f"qumulo-token-tools{' could not start' if is_serving else ''}: "
    status, answer = run_command(*words, env=env, unset=unset)
    assert status == 2
    assert answer.startswith(beginning)
    assert answer.endswith("\n")
    line = answer.removesuffix("\n").removeprefix(beginning)
    assert line.isprintable()
    return line


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        pytest.param({}, "QUMULO_HOST is not set", id="no-host"),
        pytest.param({"QUMULO_HOST": "c"}, "QUMULO_BEARER_TOKEN, QUMULO_BEARER_TOKEN_FILE, ", id="no-credential"),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_READONLY": "true"}, "QUMULO_READONLY is no setting", id="near-miss"
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_READ_ONLY": "ture"}, "QUMULO_READ_ONLY must be true or false", id="value"
        ),
        pytest.param(
            {"QUMULO_HOST": "c", "QUMULO_CREDENTIALS_FILE": CREDENTIALS_FILE_JSON},
            "QUMULO_CREDENTIALS_FILE is",
            id="store",
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_CA_FILE": SECRET}, "QUMULO_CA_FILE is wrong: this is a token", id="token"
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_CA_FILE": "/nowhere"}, "QUMULO_CA_FILE names /nowhere", id="no-ca-file"
        ),
        pytest.param(
            REQUIRED_ENVIRONMENT | {"QUMULO_STATE_DIR": "$HOME/x"}, "QUMULO_STATE_DIR is not", id="not-expanded"
        ),
        pytest.param(
            {"QUMULO_HOST": "c", "QUMULO_BEARER_TOKEN": f"'{SECRET}'"}, "QUMULO_BEARER_TOKEN has its", id="quotes"
        ),
    ],
)
def test_a_start_that_fails_is_one_line_that_begins_with_the_setting(env: Mapping[str, str], expected: str) -> None:
    assert read_start_failure(COMMAND, env=env).startswith(expected)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([SECRET], id="alone"),
        pytest.param([BODY], id="without-its-prefix"),
        pytest.param([f"--ca-file={SECRET}"], id="option"),
        pytest.param(["--port", SECRET], id="number"),
        pytest.param([f"--{SECRET}"], id="as-an-option"),
        pytest.param(["--delivery-dir", CREDENTIALS_FILE_JSON], id="store"),
        pytest.param(["demo", SECRET], id="demo"),
        pytest.param(["sandbox", "--fault", SECRET], id="fault"),
        pytest.param(["sandbox", "--port", SECRET], id="sandbox-port"),
        pytest.param(["--bearer-token", SECRET], id="no-option"),
    ],
)
def test_a_secret_among_the_arguments_is_told_and_not_repeated(words: Sequence[str]) -> None:
    refusal = read_start_failure(COMMAND, *words, env=REQUIRED_ENVIRONMENT)

    assert refusal.startswith("an argument is wrong: this is ")
    assert refusal.endswith("a secret is only an environment variable, QUMULO_BEARER_TOKEN.")


def test_an_option_for_a_secret_is_none_even_without_one() -> None:
    refusal = read_start_failure(COMMAND, "--bearer-token", "own")

    assert refusal.startswith("--bearer-token is no option, since every user of the machine could read it")


def test_a_mistake_on_the_command_line_stays_one_line_whatever_is_in_it() -> None:
    assert read_start_failure(COMMAND, "demo", "x\ny") == '"unrecognized arguments: x\\ny"'
    assert read_start_failure(COMMAND, "--ho\u200bst", "c") == '"there is no option --ho\\u200bst; nearest is --host."'


def test_an_option_that_is_near_to_none_is_not_told_to_be() -> None:
    refusal = read_start_failure(COMMAND, "--frobnicate")

    assert refusal == "there is no option --frobnicate; --help tells those that there are."


def test_a_credential_out_of_a_shell_s_pipe_is_taken() -> None:
    shell = ["bash", "-c", f"exec '{COMMAND}' --host c --credentials-file <(printf %s \"$STORE\")"]

    assert run_command(*shell, env={"STORE": CREDENTIALS_FILE_JSON}) == STARTED_CLEANLY


def test_stdin_is_no_file_of_credentials() -> None:
    shell = ["bash", "-c", f"printf %s \"$STORE\" | '{COMMAND}' --host c --credentials-file /dev/stdin"]

    assert read_start_failure(*shell, env={"STORE": CREDENTIALS_FILE_JSON}) == (
        "QUMULO_CREDENTIALS_FILE names /dev/stdin, which is stdin: there the client talks to the server" + DOCTOR
    )


@needs_root
def test_a_user_whom_the_system_does_not_know_is_told_what_is_missing(tmp_path: Path) -> None:
    nobody = [sys.executable, "-c", RUN_AS_UNKNOWN_USER_SCRIPT, COMMAND]
    without = ["HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"]

    assert read_start_failure(*nobody, env=REQUIRED_ENVIRONMENT, unset=without) == (
        "QUMULO_STATE_DIR is not set, and its default needs a home folder, and HOME is not set: the system knows no "
        f"user 54321 who could have one. Set QUMULO_STATE_DIR to an absolute path{DOCTOR}"
    )
    folders = {"QUMULO_STATE_DIR": str(tmp_path / "state"), "QUMULO_DELIVERY_DIR": str(tmp_path / "tokens")}
    assert run_command(*nobody, env=REQUIRED_ENVIRONMENT | folders, unset=without) == STARTED_CLEANLY
    assert run_command(*nobody, "--demo", unset=without) == STARTED_CLEANLY


def test_a_working_directory_that_is_gone_does_not_matter(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    shell = ["sh", "-c", f"mkdir {gone} && cd {gone} && rmdir {gone} && exec '{COMMAND}'"]

    assert run_command(*shell, env=REQUIRED_ENVIRONMENT) == STARTED_CLEANLY


def test_stderr_that_is_closed_or_that_nobody_reads_changes_nothing() -> None:
    for redirection in ("2>&-", "2> >(exec true)"):
        shell = ["bash", "-c", f"'{COMMAND}' --host 'a b' {redirection}"]
        assert run_command(*shell) == (2, "")
    assert run_command("sh", "-c", f"'{COMMAND}' demo 2>&-") == STARTED_CLEANLY


LOG_SECRET_SCRIPT = """
import logging, sys, threading, warnings
from pydantic import SecretStr
from token_tools.cli.stderr import redact_stderr
from token_tools.redaction import remember_secret

redact_stderr()
secret = sys.argv[1]
remember_secret(SecretStr(secret))
logging.basicConfig()

def fail():
    raise ValueError(f"of a thread: {secret}")

print("a line", file=sys.stderr)
warnings.warn(f"of a library: {secret}")
logging.error("of a log: %s, %s", secret, secret[10:20])
thread = threading.Thread(target=fail)
thread.start()
thread.join()
for letter in f"in pieces: {secret} ":
    sys.stderr.write(letter)
print("and somebody's access-v1:QUJDREVG", file=sys.stderr)
assert sys.stderr.fileno() == 2
try:
    fail()
finally:
    sys.stderr.write("half a line, " + secret)
    if sys.argv[2] == "traceback":
        print(file=sys.stderr)
    else:
        sys.exit(1)
"""


@pytest.mark.parametrize("ends", ["traceback", "half"])
def test_no_line_on_stderr_repeats_a_secret(ends: str) -> None:
    status, answer = run_command(sys.executable, "-c", LOG_SECRET_SCRIPT, SECRET, ends)

    lines = answer.splitlines()
    assert status == 1
    assert lines[0] == "a line"
    assert "Exception in thread Thread-1 (fail):" in lines
    assert answer.count("[withheld: it repeats something of a secret]") == (5 if ends == "half" else 6)
    assert find_secrets(answer.encode(), [SECRET]) == []
    assert ("Traceback (most recent call last):" in lines[-6:]) is (ends == "traceback")


@pytest.mark.parametrize(
    "words", [(BODY[:12],), (".".join(BODY),), (BODY[:15], BODY[15:30]), ("sandbox", "--port", BODY[:12])]
)
def test_a_piece_of_a_secret_among_the_arguments_is_not_repeated(words: Sequence[str]) -> None:
    refusal = read_start_failure(COMMAND, *words, env=REQUIRED_ENVIRONMENT)

    assert all(word not in refusal for word in words if word.startswith(BODY[:2]))


def test_a_word_that_is_no_command_is_answered_with_those_that_there_are() -> None:
    refusal = read_start_failure(COMMAND, "serve-it")

    assert refusal == (
        "there is no such command; there are setup, doctor, trust, install, uninstall, clients, audit, journal, "
        "prune, http, demo, sandbox and completion."
    )


@pytest.mark.parametrize(
    ("options", "env", "expected"),
    [
        pytest.param((), {}, "QUMULO_HOST is not set", id="no-host"),
        pytest.param((), {"QUMULO_HOST": "cluster.example.com"}, "QUMULO_BEARER_TOKEN", id="no-credential"),
        pytest.param(("--host", "https://cluster"), {}, "QUMULO_HOST", id="host-is-a-url"),
        pytest.param(("--demo",), {"QUMULO_TIMEOUT": "soon"}, "QUMULO_TIMEOUT", id="wrong-duration"),
        pytest.param(
            ("--host", "c", "--credentials-file", COMMAND),
            {"QUMULO_BEARER_TOKEN": "access-v1:own"},
            "QUMULO_BEARER_TOKEN and QUMULO_CREDENTIALS_FILE",
            id="contradiction",
        ),
        pytest.param(
            ("--demo", "--delivery", "pickup"),
            {},
            "QUMULO_DELIVERY=pickup is for `qumulo-token-tools http`, at whose pages people sign in",
            id="no-pages",
        ),
        pytest.param(
            ("http", "--demo", "--http-anonymous", "--delivery", "pickup"),
            {},
            "for which QUMULO_HTTP_ISSUER, QUMULO_HTTP_CLIENT_ID and QUMULO_HTTP_STATE_KEYS have to be set",
            id="no-sign-in",
        ),
        pytest.param(
            ("--host", "c", "--ca-file", COMMAND),
            {"QUMULO_BEARER_TOKEN": "access-v1:own"},
            "QUMULO_CA_FILE",
            id="no-certificate-in-ca-file",
        ),
    ],
)
def test_a_wrong_setting_is_one_line_on_stderr_and_status_2(
    options: Sequence[str], env: dict[str, str], expected: str
) -> None:
    ended = run_to_end(*options, env=env)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert expected in ended.stderr
    assert "access-v1:own" not in ended.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--hots", "x"], "there is no option --hots; nearest is --host."),
        (["--hots=x"], "there is no option --hots; nearest is --host."),
        (["sandbox", "--falt", "x"], "there is no option --falt; nearest is --fault."),
        (["--bearer-token", "access-v1:own"], "a secret is only an environment variable, QUMULO_BEARER_TOKEN."),
        (["--bearer-token=access-v1:own"], "a secret is only an environment variable, QUMULO_BEARER_TOKEN."),
        (["--host"], "expected one argument"),
        (["--demo", "--cluster", "lab"], "so that --cluster chooses nothing."),
    ],
    ids=[
        "unknown",
        "unknown-with-value",
        "unknown-to-a-command",
        "secret",
        "secret-with-value",
        "no-value",
        "demo-of-a-cluster",
    ],
)
def test_a_mistake_on_the_command_line_is_named_in_one_line(words: Sequence[str], expected: str) -> None:
    ended = run_to_end(*words)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.strip().endswith(expected)
    assert "access-v1" not in ended.stderr


def test_a_client_without_pages_may_read_where_bearer_tokens_are_picked_up_at_pages() -> None:
    ended = run_to_end("--demo", "--read-only", env={"QUMULO_DELIVERY": "pickup"})

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_variable_that_is_no_setting_is_said_at_the_start() -> None:
    ended = run_to_end("--demo", env={"QUMULO_PORTS": "1"})

    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr.count("\n") == 1
    assert "QUMULO_PORTS is no setting and is ignored; nearest is QUMULO_PORT" in ended.stderr


def test_unverified_tls_is_said_at_the_start() -> None:
    ended = run_to_end("--host", "c", "--no-verify-tls", env={"QUMULO_BEARER_TOKEN": "access-v1:own"})

    assert (ended.returncode, ended.stdout) == (0, "")
    assert "QUMULO_VERIFY_TLS=false" in ended.stderr
    assert "access-v1:own" not in ended.stderr


def test_the_demo_ignores_how_a_real_cluster_is_reached() -> None:
    real = {
        "QUMULO_BEARER_TOKEN_FILE": "/nowhere",
        "QUMULO_CREDENTIALS_COMMAND": "false",
        "QUMULO_KEYRING": "no/where",
        "QUMULO_FINGERPRINT": "0" * 64,
    }

    ended = run_to_end("--demo", env=real)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_the_bearer_token_is_no_command_line_option() -> None:
    answer = run_to_end("--help")

    assert answer.returncode == 0
    assert "--bearer-token " not in answer.stdout
    assert "--credentials-file" in answer.stdout


def test_the_package_runs_as_a_module_too() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "token_tools", "--version"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
    )

    assert answer.stdout == f"{__version__}\n"
