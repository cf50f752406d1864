"""Test where the server's own credential can come from: a bare file, a program and the keyring, and how each fails."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import keyring
import pytest
from keyring.core import load_keyring
from keyring.errors import KeyringLocked
from pydantic import SecretStr

from tests.support.environment import set_environment
from tests.support.fake_keyring import FakeKeyring
from token_tools.configuration import load_settings
from token_tools.credential_sources import read_command, read_keyring_entry
from token_tools.credentials import encode_store, read_bearer
from token_tools.errors import SettingsError
from token_tools.settings import CREDENTIAL_SETTINGS, Settings
from token_tools.system_keyring import KeyringEntry

BODY = "c2VjcmV0IG9mIHRoZSBzb3VyY2VzIGFsb25l"
SECRET = f"access-v1:{BODY}=="
OTHER_SECRET = "access-v1:YW5vdGhlciBzZWNyZXQgb2YgdGhlIHNvdXJjZXM="
STORE = encode_store(SecretStr(SECRET)).decode()
TIMEOUT_SECONDS = 10
WriteProgram = Callable[[str], Path]


@pytest.fixture
def write_program(tmp_path: Path) -> WriteProgram:
    """Return a function that writes a shell script, which can be run."""

    def write(script: str) -> Path:
        path = tmp_path / "get-token"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)
        return path

    return write


def read(**settings: object) -> str:
    """Load settings with this source, and return the credential that it gives."""
    return load_settings({"host": "c", **settings}).read_bearer().get_secret_value()


def refusal_of(**settings: object) -> str:
    """Return why a source gives no credential; check that it is one line that quotes nothing secret."""
    with pytest.raises(SettingsError) as failure:
        load_settings({"host": "c", **settings})
    text = str(failure.value)
    assert text.isprintable()
    assert BODY[:8] not in "".join(traceback.format_exception(failure.value))
    return text


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(0o600)
    return path


@pytest.mark.parametrize("content", [SECRET, f"\n {SECRET}\r\n\n", f"\ufeff{SECRET}"], ids=["bare", "blanks", "mark"])
def test_a_bare_token_is_read_without_what_is_around_it(token_file: Path, content: str) -> None:
    token_file.write_text(content)

    assert read(bearer_token_file=str(token_file)) == SECRET


def test_a_bare_token_is_read_again_each_time(token_file: Path) -> None:
    token_file.write_text(SECRET)
    settings = load_settings({"host": "c", "bearer_token_file": str(token_file)})

    token_file.write_text(OTHER_SECRET)

    assert settings.read_bearer().get_secret_value() == OTHER_SECRET
    assert settings.read_bearer_at_start().get_secret_value() == SECRET


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param("", "is empty", id="empty"),
        pytest.param(
            STORE, "holds what is the content of a credentials file: QUMULO_CREDENTIALS_FILE takes its path", id="store"
        ),
        pytest.param(f"{SECRET}\n{SECRET}", "holds what is not a token: one word", id="lines"),
        pytest.param("/run/secrets/token", "holds what is a path", id="path"),
        pytest.param("x" * (65 << 10), "is larger than 64 KiB", id="large"),
    ],
)
def test_a_file_without_a_bare_token_is_told_as_what_it_is(token_file: Path, content: str, expected: str) -> None:
    token_file.write_text(content)

    assert refusal_of(bearer_token_file=str(token_file)).startswith(
        f"QUMULO_BEARER_TOKEN_FILE names {token_file}, which {expected}"
    )


def test_a_bare_token_in_a_store_s_setting_is_led_to_its_own(token_file: Path) -> None:
    token_file.write_text(SECRET)

    assert refusal_of(credentials_file=str(token_file)).endswith(
        "which holds a bare token: QUMULO_BEARER_TOKEN_FILE takes such a file."
    )


def test_a_bare_token_that_others_can_read_is_warned_of(token_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    token_file.write_text(SECRET)
    token_file.chmod(0o644)

    assert read(bearer_token_file=str(token_file)) == SECRET
    [warning] = caplog.messages
    assert warning.startswith(f"QUMULO_BEARER_TOKEN_FILE: other users of this machine can read {token_file}; `chmod")


def test_a_bare_token_comes_out_of_a_pipe_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    writer = threading.Thread(target=pipe.write_text, args=(SECRET,))
    writer.start()

    settings = load_settings({"host": "c", "bearer_token_file": str(pipe)})

    writer.join(TIMEOUT_SECONDS)
    assert [settings.read_bearer().get_secret_value() for _ in range(2)] == [SECRET, SECRET]
    assert settings.credential_location == f"QUMULO_BEARER_TOKEN_FILE ({pipe})"


@pytest.mark.parametrize("output", [SECRET, STORE], ids=["bare", "store"])
def test_a_command_prints_the_token_and_may_say_more_on_stderr(write_program: WriteProgram, output: str) -> None:
    program = write_program(f"echo '{output}'; echo warning >&2")

    assert read(credentials_command=str(program)) == SECRET


def test_a_command_is_run_once_at_the_start_and_again_each_time(tmp_path: Path, write_program: WriteProgram) -> None:
    runs = tmp_path / "runs"
    settings = load_settings(
        {"host": "c", "credentials_command": f"{write_program(f'echo x >> {runs}; echo {SECRET}')}"}
    )
    assert settings.read_bearer_at_start().get_secret_value() == SECRET
    assert runs.read_text() == "x\n"

    settings.read_bearer()

    assert runs.read_text() == "x\nx\n"


@pytest.mark.parametrize("is_list", [False, True], ids=["text", "list"])
def test_the_words_of_a_command_are_its_arguments_and_no_shell_sees_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_program: WriteProgram, *, is_list: bool
) -> None:
    arguments = tmp_path / "arguments"
    program = write_program(f'printf "%s\\n" "$@" > {arguments}; echo {SECRET}')
    words = [str(program), "two words", "*", "", "~"]
    if is_list:
        assert read(credentials_command=words) == SECRET
    else:
        set_environment(monkeypatch, {"QUMULO_CREDENTIALS_COMMAND": f"{program} 'two words' * '' ~"})
        assert read() == SECRET

    assert arguments.read_text().splitlines() == ["two words", "*", "", "~"]


def test_a_list_may_have_a_script_in_it(token_file: Path) -> None:
    token_file.write_text(SECRET)

    assert read(credentials_command=["sh", "-c", 'token=$(cat "$1")\necho $token', "sh", str(token_file)]) == SECRET


def test_a_program_is_found_on_the_path_and_in_the_home(
    monkeypatch: pytest.MonkeyPatch, write_program: WriteProgram
) -> None:
    program = write_program(f"echo {SECRET}")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(program.parent))

    assert read(credentials_command="get-token") == SECRET
    assert read(credentials_command="~/get-token") == SECRET


def test_a_command_gets_no_input_and_no_secret_that_it_had_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_program: WriteProgram
) -> None:
    environment = tmp_path / "environment"
    program = write_program(f"cat; env > {environment}; echo {SECRET}")
    monkeypatch.setenv("QUMULO_HOST", "c")

    assert read(credentials_command=str(program)) == SECRET
    assert "QUMULO_HOST=c" in environment.read_text().splitlines()
    assert "BEARER_TOKEN" not in environment.read_text()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param(f"echo {SECRET}; exit 1", "ended with exit status 1. Run it by hand", id="fails"),
        pytest.param(f"echo denied {SECRET} >&2; exit 2", "ended with exit status 2. Run it by hand", id="says-why"),
        pytest.param("kill -15 $$", "was ended by signal 15. Run it by hand", id="killed"),
        pytest.param("", "has an output that is empty. Run it by hand", id="nothing"),
        pytest.param(f"echo {SECRET}; echo {SECRET}", "has an output that is not a token: one word", id="two-lines"),
        pytest.param(f"echo token is {SECRET}", "has an output that is not a token: one word", id="words"),
        pytest.param(r"printf '\377\376\001'", "has an output that ", id="garbage"),
        pytest.param(f'echo \'{{"token": "{SECRET}"}}\'', "has an output that is not JSON in the format", id="json"),
        pytest.param(f"while echo {SECRET}; do :; done", "has an output that is larger than 64 KiB", id="endless"),
    ],
)
def test_a_command_that_gives_no_token_is_told_with_what_mends_it(
    write_program: WriteProgram, script: str, expected: str
) -> None:
    program = write_program(script)

    assert refusal_of(credentials_command=str(program)).startswith(f"QUMULO_CREDENTIALS_COMMAND: {program} {expected}")


def test_a_program_that_cannot_be_run_is_told_with_the_reason(write_program: WriteProgram) -> None:
    program = write_program("")
    mending = "It must be an absolute path, or a program on the PATH of this server."
    assert refusal_of(credentials_command="no-such-program-here") == (
        f"QUMULO_CREDENTIALS_COMMAND: no-such-program-here cannot be run: No such file or directory. {mending}"
    )

    program.chmod(0o600)
    assert refusal_of(credentials_command=str(program)) == (
        f"QUMULO_CREDENTIALS_COMMAND: {program} cannot be run: Permission denied. {mending}"
    )

    program.write_bytes(b"\0")
    program.chmod(0o700)
    assert "cannot be run: Exec format error." in refusal_of(credentials_command=str(program))


def wait_for_end(process_id: int) -> None:
    """Wait until a process that was killed is gone, or is a zombie that nobody has waited for."""
    command = ["/bin/ps", "-o", "stat=", "-p", str(process_id)]
    for _ in range(TIMEOUT_SECONDS * 100):
        if subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()[:1] in {"", "Z"}:
            return
    raise AssertionError("it still runs")


@pytest.mark.parametrize("closes", [False, True], ids=["silent", "closed-output"])
def test_a_command_that_hangs_is_killed_with_its_children(
    tmp_path: Path, write_program: WriteProgram, *, closes: bool
) -> None:
    child = tmp_path / "child"
    closing = "exec >&-; " if closes else ""
    program = write_program(f"{closing}sleep 1000 & echo $! > {child}; wait")

    with pytest.raises(SettingsError) as failure:
        read_command([str(program)], timeout_seconds=1)

    reason = (
        "closed its output and did not end within 1 seconds"
        if closes
        else "has an output that has no end: whoever writes into it took longer than 1 seconds"
    )
    assert str(failure.value) == f"QUMULO_CREDENTIALS_COMMAND: {program} {reason}."
    wait_for_end(int(child.read_text()))


def test_a_daemon_that_holds_the_output_open_is_not_waited_for(tmp_path: Path, write_program: WriteProgram) -> None:
    number = tmp_path / "number"
    # It leaves the process group, so that nobody else ends it.
    daemon = (
        f'import os, signal; os.setsid(); open("{number}.new", "w").write(str(os.getpid())); '
        f'os.rename("{number}.new", "{number}"); signal.pause()'
    )
    program = write_program(f"{sys.executable} -c '{daemon}' &\nuntil [ -e {number} ]; do :; done; echo {SECRET}")
    try:
        with pytest.raises(SettingsError, match="has an output that has no end"):
            read_command([str(program)], timeout_seconds=3)
    finally:
        os.kill(int(number.read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        pytest.param("vault 'kv", "is no command: a quote in it has no end", id="open-quote"),
        pytest.param("vault kv get x | jq .token", "has a shell's signs in it, and no shell runs it", id="pipe"),
        pytest.param("cat $HOME/token", "the client did not expand it", id="variable"),
        pytest.param("bin/get-token", "must be an absolute path, or begin with ~/", id="relative"),
        pytest.param(f"echo {SECRET}", "is wrong: this is a token", id="secret"),
        pytest.param([], "must be a command: a program and its arguments", id="no-words"),
        pytest.param(["", "x"], "must be a command: a program and its arguments", id="no-program"),
        pytest.param(["vault", 1], "must be a command: a program and its arguments", id="number"),
        pytest.param(["vault", "a\0b"], "must be a command: a program and its arguments", id="nul"),
        pytest.param(7, "must be a command: a program and its arguments", id="no-list"),
        pytest.param(["echo", SECRET], "is wrong: this is a token", id="secret-in-list"),
        pytest.param(["${HOME}/x"], "the client did not expand it", id="program-variable"),
    ],
)
def test_what_is_no_command_is_refused_with_the_reason(command: object, expected: str) -> None:
    assert refusal_of(credentials_command=command).startswith("QUMULO_CREDENTIALS_COMMAND ")
    assert expected in refusal_of(credentials_command=command)


@pytest.mark.parametrize("content", [SECRET, STORE], ids=["bare", "store"])
def test_an_entry_of_the_keyring_is_read(fake_keyring: FakeKeyring, content: str) -> None:
    fake_keyring.secrets["qumulo c:8000/x", "mcp"] = content

    assert read(keyring="qumulo c:8000/x/mcp") == SECRET


@pytest.mark.parametrize("failure", [KeyringLocked(SECRET), RuntimeError(SECRET), SystemExit(SECRET)], ids=repr)
def test_a_keyring_that_fails_is_told_without_what_it_said(fake_keyring: FakeKeyring, failure: BaseException) -> None:
    fake_keyring.failing_step, fake_keyring.failure = "get", failure

    assert refusal_of(keyring="qumulo/mcp") == (
        f"QUMULO_KEYRING names qumulo/mcp, and the system's keyring cannot be used ({type(failure).__name__}): it is "
        "locked, or this system has none."
    )


@pytest.mark.usefixtures("fake_keyring")
def test_a_system_without_a_keyring_is_told_so() -> None:
    keyring.set_keyring(load_keyring("keyring.backends.fail.Keyring"))

    assert "cannot be used (NoKeyringError): it is locked, or this system has none." in refusal_of(keyring="q/m")


def test_a_keyring_that_hangs_is_given_up(fake_keyring: FakeKeyring) -> None:
    fake_keyring.failing_step = "silent"

    with pytest.raises(SettingsError, match=r"did not answer within 0\.1 seconds: it may wait to be unlocked"):
        read_keyring_entry(KeyringEntry("qumulo", "mcp"), timeout_seconds=0.1)

    fake_keyring.hang_released.set()


@pytest.mark.usefixtures("fake_keyring")
def test_an_entry_that_there_is_not_is_told_with_the_command_that_makes_it() -> None:
    assert refusal_of(keyring="my qumulo/mcp") == (
        'QUMULO_KEYRING names "my qumulo/mcp", and the system\'s keyring does not give it: '
        f"`{sys.executable} -P -m keyring set 'my qumulo' mcp` asks for it and puts it there."
    )


def test_an_entry_that_is_no_token_is_told_so(fake_keyring: FakeKeyring) -> None:
    fake_keyring.secrets["qumulo", "mcp"] = f"{SECRET} x"

    assert refusal_of(keyring="qumulo/mcp").startswith(
        "QUMULO_KEYRING names qumulo/mcp, which is not a token: one word"
    )


@pytest.mark.parametrize("value", ["qumulo", "/mcp", "qumulo/", 7, ["qumulo", "mcp"]])
def test_what_names_no_entry_is_refused(value: object) -> None:
    assert refusal_of(keyring=value).startswith("QUMULO_KEYRING must be SERVICE/ACCOUNT")


def test_a_missing_library_is_named_with_what_installs_it(tmp_path: Path) -> None:
    (tmp_path / "keyring.py").write_text("raise ImportError\n")
    start = "from token_tools.configuration import load_settings; load_settings({'host': 'c', 'keyring': 'q/m'})"

    ended = subprocess.run(
        [sys.executable, "-c", start],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.stderr.endswith(
        "QUMULO_KEYRING names q/m, and the keyring library is missing: install qumulo-token-tools[keyring].\n"
    )


GIVEN: dict[str, object] = {
    "bearer_token": SecretStr(SECRET),
    "bearer_token_file": "/x",
    "credentials_file": "/x",
    "credentials_command": "x",
    "keyring": "q/m",
}


@pytest.mark.parametrize("one", GIVEN)
@pytest.mark.parametrize("other", GIVEN)
def test_two_sources_contradict_each_other(one: str, other: str) -> None:
    assert {*GIVEN} == {*CREDENTIAL_SETTINGS}
    if one != other:
        refusal = refusal_of(**{name: GIVEN[name] for name in (one, other)})

        assert re.findall(r"QUMULO_(\w+)", refusal) == [n.upper() for n in CREDENTIAL_SETTINGS if n in {one, other}]
        assert refusal.endswith(" contradict each other: keep one")


@pytest.mark.parametrize(
    ("name", "value", "location"),
    [
        ("bearer_token", SecretStr(SECRET), "QUMULO_BEARER_TOKEN"),
        ("bearer_token_file", "/run/token", "QUMULO_BEARER_TOKEN_FILE (/run/token)"),
        ("credentials_file", "/a b", 'QUMULO_CREDENTIALS_FILE ("/a b")'),
        ("credentials_command", "vault kv get x", "QUMULO_CREDENTIALS_COMMAND's output"),
        ("keyring", "qumulo/mcp", "QUMULO_KEYRING (qumulo/mcp)"),
    ],
)
def test_texts_name_the_place_that_the_credential_has(name: str, value: object, location: str) -> None:
    settings = Settings.model_validate({"host": "c", name: value})

    assert (settings.credential_setting, settings.credential_location) == (name, location)


def test_without_a_source_the_variable_is_named_where_a_credential_would_be() -> None:
    assert Settings(host="c").credential_setting is None
    assert Settings(host="c").credential_location == "QUMULO_BEARER_TOKEN"


def test_a_store_that_a_command_prints_is_what_a_file_would_hold(tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.write_text(json.dumps({"bearer_token": SECRET, "version": 1}))

    assert read(credentials_command=f"cat {path}") == read_bearer(path).get_secret_value()
