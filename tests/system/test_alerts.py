"""Test that what the page about alerts prints works: the job of systemd and cron, by mail and into a chat.

The command, the cluster and curl are real. `sendmail` and the chat are at the edge.
"""

import fcntl
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support.alert_receivers import Chat, Mailer, install_mailer, running_chat
from tests.support.page_names import REPOSITORY, list_blocks
from tests.support.permissions import permission_bits
from tests.support.sandbox_process import SandboxProcess, running_sandbox
from tests.support.secret_scan import find_secrets

pytestmark = pytest.mark.slow

PAGE: Final = (REPOSITORY / "docs" / "alerts.md").read_text()
DEPLOY: Final = REPOSITORY / "deploy"
UNIT: Final = DEPLOY / "systemd" / "qumulo-token-audit.service"
WEBHOOK: Final = DEPLOY / "systemd" / "webhook.conf"
CRON: Final = DEPLOY / "alerts" / "cron"
TIMEOUT_SECONDS: Final = 60
READ_NIGHTLY: Final = "--since-last nightly --expiring-within 30d,14d,1d --fail-on any,changed"
"""How the page and the job ask."""

SUBJECT: Final = "Qumulo access tokens: "
NEWS: Final = f"{SUBJECT}there is something new"


@dataclass(frozen=True)
class Machine:
    """A machine with the job installed: below `root` are its folders, and `sandbox` is its one cluster."""

    root: Path
    sandbox: SandboxProcess
    mailer: Mailer

    @property
    def credentials(self) -> Path:
        """The folder of the secrets that systemd hands to the job."""
        return self.root / "credentials"

    @property
    def outbox(self) -> Path:
        """The folder of what waits to be sent."""
        return self.root / "var/lib/qumulo-token-tools/alerts"

    def write_config(self, **changed: str) -> None:
        """Write the page's audit.toml with the cluster of this machine for its first one, and without the second."""
        settings = self.sandbox.settings
        [table] = [block for block in list_blocks(PAGE, "toml") if "[clusters.production]" in block]
        table = table.partition("\n[clusters.replica]")[0].replace("production.example.com", settings["QUMULO_HOST"])
        table = re.sub(r"/run/credentials/[\w.-]+", str(self.credentials), table)
        ours = {"port": settings["QUMULO_PORT"], "ca_file": f'"{settings["QUMULO_CA_FILE"]}"'} | changed
        lines = [f"{key} = {value}\n" for key, value in ours.items()]
        (self.root / "etc/audit.toml").write_text(table + "".join(lines))

    def place(self, text: str) -> str:
        """Return a text of a unit or of cron with this machine's folders in the place of the real ones."""
        for real, here in (
            ("/opt/qumulo-token-tools/bin", f"{Path(sys.executable).parent}:{self.mailer.folder}"),
            ("/opt/qumulo-token-tools/libexec", str(DEPLOY / "alerts")),
            ("/etc/qumulo-token-tools", str(self.root / "etc")),
            ("/var/lib/", f"{self.root}/var/lib/"),
            ("%S", str(self.root / "var/lib")),
            ("%d", str(self.credentials)),
        ):
            text = text.replace(real, here)
        return text

    def run(self, command: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command line with these variables alone, as systemd and cron do."""
        return subprocess.run(
            ["/bin/sh", "-c", command],
            env={"HOME": str(self.root), **environment},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    def run_unit(self, *units: Path) -> subprocess.CompletedProcess[str]:
        """Run what a unit with its extensions starts."""
        text = self.place("".join(unit.read_text() for unit in (units or [UNIT])))
        example = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / "alerts/audit.env.example").read_text(), re.MULTILINE))
        environment = dict(re.findall(r"^Environment=(\w+)=(.*)$", text, re.MULTILINE))
        return self.run(re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)[-1], environment | example)

    def list_waiting(self) -> Sequence[Path]:
        """Return the alerts that wait to be sent."""
        return sorted(path for path in self.outbox.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def sandbox() -> Generator[SandboxProcess]:
    with running_sandbox() as running:
        yield running


@pytest.fixture
def machine(sandbox: SandboxProcess, tmp_path: Path) -> Machine:
    machine = Machine(tmp_path / "machine", sandbox, install_mailer(tmp_path / "mailer"))
    (machine.root / "etc").mkdir(parents=True)
    machine.credentials.mkdir()
    token = machine.credentials / "tokens_production"
    token.write_text(sandbox.settings["QUMULO_BEARER_TOKEN"])
    token.chmod(0o400)
    machine.write_config()
    return machine


@pytest.fixture
def chat(machine: Machine) -> Generator[Chat]:
    """Serve a chat, whose URL the machine knows as the page says."""
    [line] = re.findall(r"^echo '(url = .*)' > /etc/qumulo-token-tools/webhook$", PAGE, re.MULTILINE)
    with running_chat() as running:
        (machine.credentials / "webhook").write_text(line.replace("https://chat.example.com", running.url))
        yield running


def test_the_page_asks_as_the_job_does() -> None:
    job = (DEPLOY / "alerts/nightly-audit").read_text().replace("\\\n ", "")

    assert f"qumulo-token-tools audit {READ_NIGHTLY}\n" in PAGE
    assert f"qumulo-token-tools audit {READ_NIGHTLY} " in job


def test_the_first_night_tells_of_all_by_mail_and_the_second_night_is_quiet(machine: Machine) -> None:
    first = machine.run_unit()
    [mail] = machine.mailer.take_mails()
    second = machine.run_unit()

    assert [(run.returncode, run.stdout, run.stderr) for run in (first, second)] == [(0, "", "")] * 2
    assert (mail["To"], mail["Subject"]) == ("storage-team@example.com", NEWS)
    assert "local:ci-runner" in mail.get_content()
    assert machine.mailer.take_mails() == []
    assert machine.list_waiting() == []
    assert permission_bits(machine.outbox) == 0o700
    assert find_secrets(mail.as_bytes(), [machine.sandbox.settings["QUMULO_BEARER_TOKEN"]]) == []


def test_an_alert_that_could_not_be_sent_is_sent_by_the_next_run(machine: Machine) -> None:
    machine.mailer.refuse()
    unsent = machine.run_unit()
    waiting = machine.list_waiting()
    machine.mailer.accept()
    sent = machine.run_unit()

    assert (unsent.returncode, len(waiting), sent.returncode) == (1, 1, 0)
    [mail] = machine.mailer.take_mails()
    assert mail["Subject"] == NEWS
    assert "local:ci-runner" in mail.get_content()
    assert machine.list_waiting() == []


def test_an_audit_that_was_stopped_before_its_end_is_told(machine: Machine) -> None:
    machine.run_unit()
    machine.mailer.take_mails()
    # It is what a machine leaves that goes down after the audit counts as told.
    stopped = machine.outbox / "2026-11-27T030000Z.aaaaaa"
    stopped.mkdir()
    (stopped / "errors.txt").touch()
    (stopped / "report.txt").write_text("the news of that night\n")

    run = machine.run_unit()

    [mail] = machine.mailer.take_mails()
    assert run.returncode == 0
    assert mail["Subject"] == f"{SUBJECT}the audit did not come to its end"
    assert "the news of that night" in mail.get_content()


def test_a_cluster_that_cannot_be_read_and_a_wrong_setting_are_told_each_night(machine: Machine) -> None:
    machine.write_config(port="1")
    unreachable = [machine.run_unit().returncode for _ in range(2)]
    told = machine.mailer.take_mails()
    machine.write_config(confirm='"sometimes"')
    wrong = machine.run_unit()
    [of_setting] = machine.mailer.take_mails()

    assert (unreachable, wrong.returncode) == ([0, 0], 0)
    assert [mail["Subject"] for mail in told] == [f"{SUBJECT}not all could be audited"] * 2
    assert all(f"{machine.sandbox.settings['QUMULO_HOST']}:1" in mail.get_content() for mail in told)
    assert of_setting["Subject"] == f"{SUBJECT}the audit cannot work"
    assert "confirm" in of_setting.get_content()


def test_an_alert_for_nobody_is_not_taken_for_sent(machine: Machine, tmp_path: Path) -> None:
    sender = DEPLOY / "alerts" / "send-mail"

    sent = machine.run(f"{sender} subject {tmp_path}", {"PATH": f"{machine.mailer.folder}:/usr/bin:/bin"})

    assert sent.returncode != 0
    assert "ALERT_MAIL_TO" in sent.stderr


@pytest.mark.parametrize("output_format", ["text", "html"])
def test_a_report_is_whole_where_stdout_has_another_encoding(machine: Machine, output_format: str) -> None:
    environment = machine.sandbox.settings | {"PYTHONIOENCODING": "ascii"}

    audit = machine.run(f"{Path(sys.executable).parent}/qumulo-token-tools audit --format {output_format}", environment)

    assert (audit.returncode, audit.stderr) == (0, "")
    assert ("\u25c6" in audit.stdout) == (output_format == "html")


def test_a_run_that_is_at_work_keeps_the_next_one_from_starting(machine: Machine) -> None:
    machine.outbox.mkdir(parents=True)
    with (machine.outbox / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = machine.run_unit()

    assert refused.returncode == 75
    assert "another one is still at work" in refused.stderr
    assert machine.list_waiting() == []


def test_the_line_of_cron_sends_the_alert_by_mail(machine: Machine) -> None:
    text = machine.place(CRON.read_text())
    environment: dict[str, str] = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    [(user, command)] = re.findall(r"^0 3 \* \* \* (\S+) (.*)\n$", text, re.MULTILINE)

    run = machine.run(command, environment)

    assert (user, run.returncode, run.stderr) == ("qumulo-token-tools", 0, "")
    [mail] = machine.mailer.take_mails()
    assert (mail["To"], mail["Subject"]) == (environment["MAILTO"], NEWS)
    assert "%" not in command


def test_the_chat_is_told_through_its_webhook(machine: Machine, chat: Chat) -> None:
    run = machine.run_unit(UNIT, WEBHOOK)

    assert (run.returncode, run.stderr) == (0, "")
    [(path, post)] = chat.posts
    assert path.startswith("/hooks/")
    assert post.keys() == {"text"}
    assert post["text"].startswith(f"{NEWS}\n```\n")
    assert post["text"].endswith("\n```")
    assert machine.list_waiting() == []
    assert machine.mailer.take_mails() == []


def test_what_the_chat_did_not_take_is_posted_by_the_next_run(machine: Machine, chat: Chat) -> None:
    chat.status = 500
    unsent = machine.run_unit(UNIT, WEBHOOK)
    chat.status = 202
    sent = machine.run_unit(UNIT, WEBHOOK)

    assert (unsent.returncode, sent.returncode) == (1, 0)
    assert "status 500" in unsent.stderr
    assert chat.posts[0] == chat.posts[1]
    assert len(chat.posts) == 2


@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_chat_that_takes_a_post_may_say_so_in_each_way(machine: Machine, chat: Chat, status: int) -> None:
    chat.status = status

    assert post_report(DEPLOY / "alerts/send-webhook", machine).returncode == 0


@pytest.mark.parametrize("status", [302, 404, 429])
def test_a_chat_that_did_not_take_a_post_is_told_by_its_status(machine: Machine, chat: Chat, status: int) -> None:
    chat.status = status

    refused = post_report(DEPLOY / "alerts/send-webhook", machine)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"status {status}" in refused.stderr
    assert len(chat.posts) == 1


def test_a_chat_that_cannot_be_reached_is_told_without_the_secret_in_its_url(machine: Machine, chat: Chat) -> None:
    webhook = machine.credentials / "webhook"
    webhook.write_text(webhook.read_text().replace(chat.url, "http://127.0.0.1:1"))

    refused = post_report(DEPLOY / "alerts/send-webhook", machine)

    assert refused.returncode != 0
    assert "Failed to connect" in refused.stderr
    assert "hooks" not in refused.stderr
    assert chat.posts == []


def test_a_name_calls_nobody_in_a_chat_and_a_long_report_is_cut(machine: Machine, chat: Chat) -> None:
    report = "``` <!channel> @all <https://example.com|here>\n" + "ü" * 5000

    posted = post_report(DEPLOY / "alerts/send-webhook", machine, report)

    [(_, post)] = chat.posts
    assert posted.returncode == 0, posted.stderr
    block = post["text"].removeprefix("subject\n```\n").removesuffix("\n```")
    assert not {*"`<>@"} & {*block}
    assert "the command audit tells all" in block
    assert 3000 < len(post["text"]) < 3100


def test_teams_gets_a_card_by_the_lines_of_the_page(machine: Machine, chat: Chat) -> None:
    [card] = [block for block in list_blocks(PAGE, "python") if "AdaptiveCard" in block]
    sender = machine.root / "send-webhook"
    text = (DEPLOY / "alerts/send-webhook").read_text()
    sender.write_text(text.replace('print(json.dumps({"text": text}))\n', card))
    sender.chmod(0o755)

    posted = post_report(sender, machine)

    [(_, post)] = chat.posts
    assert posted.returncode == 0, posted.stderr
    [attachment] = post["attachments"]
    assert post["type"] == "message"
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert "one line" in attachment["content"]["body"][0]["text"]


def post_report(sender: Path, machine: Machine, report: str = "one line\n") -> subprocess.CompletedProcess[str]:
    (machine.root / "report.txt").write_text(report)
    command = shlex.join([str(sender), "subject", str(machine.root)])
    webhook = str(machine.credentials / "webhook")
    return machine.run(command, {"PATH": "/usr/bin:/bin", "ALERT_WEBHOOK_FILE": webhook})


def test_the_page_installs_what_the_units_and_cron_start(tmp_path: Path) -> None:
    commands = [line for block in list_blocks(PAGE, "bash") for line in block.splitlines() if "install --" in line]
    for folder in ("etc/systemd/system", "etc/sysusers.d", "etc/cron.d", "var/lib"):
        (tmp_path / folder).mkdir(parents=True)
    for command in commands:
        # Only root may give a file away.
        here = re.sub(r" --owner=\S+", "", re.sub(r" (/(?:etc|opt|var)/)", rf" {tmp_path}\1", command))
        subprocess.run(["/bin/sh", "-euc", here], cwd=REPOSITORY, timeout=TIMEOUT_SECONDS, check=True)

    installed = {f"/{file.relative_to(tmp_path)}": file for file in tmp_path.rglob("*") if file.is_file()}
    started = re.findall(r"/opt\S+/libexec/\S+", UNIT.read_text() + WEBHOOK.read_text() + CRON.read_text())
    assert {*started} <= {path for path, file in installed.items() if os.access(file, os.X_OK)}
    assert permission_bits(installed["/etc/qumulo-token-tools/webhook"]) == 0o600
    for unit in ("qumulo-token-audit.service", "qumulo-token-audit.timer", "qumulo-token-audit.service.d/webhook.conf"):
        assert installed[f"/etc/systemd/system/{unit}"].read_bytes() == (UNIT.with_name(Path(unit).name)).read_bytes()
    assert "/etc/qumulo-token-tools/audit.env" in installed
    assert "/etc/cron.d/qumulo-token-audit" in installed


def test_what_the_page_quotes_of_the_job_is_what_the_job_says() -> None:
    scripts = "".join(file.read_text() for file in (DEPLOY / "alerts").iterdir())
    [bound] = re.findall(r"cut after (\d+) characters", PAGE)

    for said in ("another one is still at work", "the chat answered with status $status", f"text[:{bound}]"):
        assert said in scripts
