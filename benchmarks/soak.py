"""`python -m benchmarks.soak`: many clients make mixed calls while the cluster fails at random.

Each client has a server process of its own; all of them share one cluster, one delivery folder and one journal. At the
end these three must agree about every token. The exit status is 1 if they do not.
"""

import argparse
import json
import random
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, get_args

import anyio
import trustme
import uvicorn
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, TextContent

from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import READ_PRIVILEGE, WRITE_PRIVILEGE, Account, Cluster, Token
from token_tools.sandbox.faults import Endpoint, Fault, Faults
from token_tools.times import utc_now

USER_COUNT: Final = 40
READ_TIMEOUT_SECONDS: Final = 120.0
MAX_CALL_DURATION: Final = timedelta(seconds=10)
"""How long after its beginning a call can still have an effect; the server waits three seconds for an answer."""
Attempt = Mapping[str, Any]
"""An entry of the journal, as it is in the database."""
HOST: Final = "127.0.0.1"
SERVER_ACCOUNT: Final = Account(
    "500", "LOCAL", "admin", privileges=frozenset({READ_PRIVILEGE, WRITE_PRIVILEGE, "PRIVILEGE_IDENTITY_READ"})
)


@dataclass
class SoakRun:
    """One run: the cluster, its faults, and what the calls led to."""

    cluster: Cluster
    faults: Faults
    folder: Path
    address: tuple[str, int]
    random: random.Random
    outcome_counts: Counter[str] = field(default_factory=Counter[str])
    crashes: list[str] = field(default_factory=list[str])

    async def run(self, clients: int, duration: timedelta) -> None:
        """Let the clients make calls until the time is up; at the end, the cluster has no faults."""
        deadline = anyio.current_time() + duration.total_seconds()
        async with anyio.create_task_group() as tasks:
            for _ in range(clients):
                tasks.start_soon(self._run_client, deadline)
            while anyio.current_time() < deadline:
                self.faults.plan = self._choose_faults()
                await anyio.sleep(0.5)
            self.faults.plan = {}

    async def _run_client(self, deadline: float) -> None:
        server = StdioServerParameters(
            command=sys.executable, args=["-m", "token_tools"], env=self._create_environment()
        )
        async with Client(server, read_timeout_seconds=READ_TIMEOUT_SECONDS) as client:
            while anyio.current_time() < deadline:
                tool, arguments = self._choose_call()
                try:
                    self._record_result(tool, await client.call_tool(tool, arguments))
                except MCPError as failure:
                    self.crashes.append(f"{tool}: {failure}")

    def _record_result(self, tool: str, result: CallToolResult) -> None:
        text = "".join(block.text for block in result.content if isinstance(block, TextContent))
        self.outcome_counts[f"{tool} {'refused or failed' if result.is_error else 'done'}"] += 1
        if text.startswith("Error executing tool"):
            self.crashes.append(f"{tool}: {text}")

    def _choose_call(self) -> tuple[str, dict[str, Any]]:
        user = f"local:user{self.random.randrange(USER_COUNT)}"
        token_id = self.random.choice([*self.cluster.tokens])
        calls: list[tuple[str, dict[str, Any]]] = [
            ("list_access_tokens", {"user": user}),
            ("list_access_tokens", {"limit": 10}),
            ("get_access_token", {"id": token_id}),
            ("audit_access_tokens", {}),
            ("create_access_token", {"user": user}),
            ("create_access_token", {"user": user, "expiration_time": "never"}),
            ("rotate_access_token", {"id": token_id}),
            ("update_access_token", {"id": token_id, "enabled": self.random.random() < 0.5}),
            ("delete_access_token", {"id": token_id}),
        ]
        return self.random.choice(calls)

    def _choose_faults(self) -> dict[Endpoint, Fault]:
        """Return a random fault, or half of the time none."""
        if self.random.random() < 0.5:
            return {}
        return {self.random.choice(get_args(Endpoint)): self.random.choice(get_args(Fault))}

    def _create_environment(self) -> dict[str, str]:
        host, port = self.address
        [own] = [token for token in self.cluster.tokens.values() if token.user == SERVER_ACCOUNT.auth_id][:1]
        return {
            "QUMULO_HOST": host,
            "QUMULO_PORT": str(port),
            "QUMULO_CA_FILE": str(self.folder / "ca.pem"),
            "QUMULO_BEARER_TOKEN": own.bearer_token,
            "QUMULO_CONFIRM": "none",
            "QUMULO_MAX_CHANGES": "0",
            "QUMULO_TIMEOUT": "3s",
            "QUMULO_DELIVERY_DIR": str(self.folder / "tokens"),
            "XDG_STATE_HOME": str(self.folder / "state"),
        }


@dataclass(frozen=True)
class Ledger:
    """What cluster, folder and journal say: tokens by id, bearer tokens by id, and the entry of each attempt."""

    tokens: Mapping[str, Token]
    delivered: Mapping[str, str]
    attempts: Sequence[Attempt]

    def find_disagreements(self, initial_ids: set[str]) -> list[str]:
        """Return a line for each contradiction; the tokens in `initial_ids` were there before the run."""
        return [
            *self._find_lost_tokens(initial_ids),
            *self._find_wrong_states(),
            *self._find_wrong_files(),
            *self._find_wrong_attempts(),
        ]

    def _find_lost_tokens(self, initial_ids: set[str]) -> Generator[str]:
        lost = {attempt["token_id"] for attempt in self._list_ended("unknown", "undeletable")}
        vague = [attempt for attempt in self.attempts if _has_unknown_token(attempt)]
        for token in self.tokens.values():
            if token.id in initial_ids or token.id in self.delivered or token.id in lost:
                continue
            # An attempt with an unknown outcome can have created one token, within its own time.
            attempt = next((attempt for attempt in vague if _may_have_created(attempt, token)), None)
            if attempt is None:
                yield f"token {token.id} of {_user_name(token)}: its secret is nowhere, and the journal does not say so"
            else:
                vague.remove(attempt)

    def _find_wrong_states(self) -> Generator[str]:
        """Check that each token is as its last update left it; of updates that overlap, any may be the last."""
        updates: dict[str, list[Attempt]] = {}
        for attempt in self.attempts:
            if attempt["operation"] == "update" and attempt["outcome"] != "not done":
                updates.setdefault(attempt["token_id"], []).append(attempt)
        for token in self.tokens.values():
            theirs = updates.get(token.id, [])
            certain = [_parse_begin_time(attempt) for attempt in theirs if attempt["outcome"] == "done"]
            last = [attempt for attempt in theirs if not any(later > _estimate_end_time(attempt) for later in certain)]
            possible: set[str] = {attempt["state_after"] for attempt in last}
            possible |= set() if certain else {"enabled: true"}
            if f"enabled: {str(token.enabled).lower()}" not in possible:
                yield f"token {token.id}: it is {'' if token.enabled else 'not '}enabled, and nobody made it so"

    def _find_wrong_files(self) -> Generator[str]:
        deleted = {
            attempt["token_id"] for attempt in self._list_ended("done", "unknown") if attempt["operation"] == "delete"
        }
        for token_id, bearer_token in self.delivered.items():
            token = self.tokens.get(token_id)
            if token is None and token_id not in deleted:
                yield f"file of {token_id}: there is no such token, and nobody deleted it"
            if token is not None and token.bearer_token != bearer_token:
                yield f"file of {token_id}: it holds another secret"

    def _find_wrong_attempts(self) -> Generator[str]:
        deleted = {
            attempt["token_id"] for attempt in self._list_ended("done", "unknown") if attempt["operation"] == "delete"
        }
        for attempt in self._list_ended("created"):
            if attempt["token_id"] not in self.delivered:
                yield f"journal: {attempt['token_id']} was made, but it was not delivered"
            if attempt["token_id"] not in self.tokens and attempt["token_id"] not in deleted:
                yield f"journal: {attempt['token_id']} was made and is gone, but nobody deleted it"
        for attempt in self._list_ended("rolled back"):
            if attempt["token_id"] in self.tokens:
                yield f"journal: {attempt['token_id']} was deleted again, but it is there"
        for attempt in self._list_ended("done"):
            if attempt["operation"] == "delete" and attempt["token_id"] in self.tokens:
                yield f"journal: {attempt['token_id']} was deleted, but it is there"

    def _list_ended(self, *outcomes: str) -> Sequence[Attempt]:
        return [attempt for attempt in self.attempts if attempt["outcome"] in outcomes]


def _has_unknown_token(attempt: Attempt) -> bool:
    """Return whether the attempt may have created a token whose id is not in the journal."""
    is_create = attempt["operation"] in {"create", "rotate"}
    return is_create and attempt["outcome"] in {"intended", "unknown"} and attempt["token_id"] is None


def _may_have_created(attempt: Attempt, token: Token) -> bool:
    is_theirs = attempt["user_name"] == f"local:{_user_name(token)}"
    return (
        is_theirs
        and _parse_begin_time(attempt) <= token.creation_time <= _parse_begin_time(attempt) + MAX_CALL_DURATION
    )


def _parse_begin_time(attempt: Attempt) -> datetime:
    return datetime.fromisoformat(attempt["begun"])


def _estimate_end_time(attempt: Attempt) -> datetime:
    """Return when the outcome was recorded, or without a clear one, the last time at which it can have an effect."""
    if attempt["outcome"] == "done":
        return datetime.fromisoformat(attempt["ended"])
    return _parse_begin_time(attempt) + MAX_CALL_DURATION


def _user_name(token: Token) -> str:
    return f"user{int(token.user) - 2000}"


def read_ledger(soak: SoakRun) -> Ledger:
    """Read what the cluster, the delivery folder and the journal say."""
    stores = {path: json.loads(path.read_text()) for path in (soak.folder / "tokens").glob("*.json")}
    by_secret = {token.bearer_token: token.id for token in soak.cluster.tokens.values()}
    with closing(sqlite3.connect(soak.folder / "state" / "qumulo-token-tools" / "state.db")) as database:
        database.row_factory = sqlite3.Row
        attempts = [dict(row) for row in database.execute("SELECT * FROM changes WHERE outcome != 'refused'")]
    delivered = {
        by_secret.get(store["bearer_token"]) or path.stem.split("_")[-1]: store["bearer_token"]
        for path, store in stores.items()
    }
    return Ledger(soak.cluster.tokens, delivered, attempts)


@contextmanager
def serve_over_https(faults: Faults, folder: Path) -> Generator[tuple[str, int]]:
    """Serve the cluster over HTTPS in a thread, as long as the block; yield host and port."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    config = uvicorn.Config(faults, host=HOST, port=0, ssl_certfile=folder / "server.pem", log_level="critical")
    server = uvicorn.Server(config)
    sockets = [config.bind_socket()]
    thread = threading.Thread(target=server.run, kwargs={"sockets": sockets})
    thread.start()
    try:
        yield HOST, sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join()


def main() -> int:
    """Run it, print the outcomes and the disagreements, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__, allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    options = parser.parse_args()
    cluster = Cluster(clock=utc_now)
    cluster.add_account(SERVER_ACCOUNT)
    cluster.add_token(SERVER_ACCOUNT.auth_id, creator=SERVER_ACCOUNT.auth_id)
    for number in range(USER_COUNT):
        cluster.add_account(Account(str(2000 + number), "LOCAL", f"user{number}"))
        cluster.add_token(str(2000 + number), creator=SERVER_ACCOUNT.auth_id)
    before = {*cluster.tokens}
    faults = Faults(create_app(cluster), {})
    with TemporaryDirectory(prefix="soak-") as folder, serve_over_https(faults, Path(folder)) as address:
        chance = random.Random(options.seed)
        soak = SoakRun(cluster, faults, Path(folder), address, chance)
        anyio.run(soak.run, options.clients, timedelta(minutes=options.minutes))
        ledger = read_ledger(soak)
        leftovers = [path.name for path in Path(folder, "tokens").glob(".*")]
        wrong = [*soak.crashes, *ledger.find_disagreements(before), *(f"left over: {name}" for name in leftovers)]
    for outcome, count in sorted(soak.outcome_counts.items()):
        sys.stdout.write(f"{count:7,} {outcome}\n")
    sys.stdout.write(
        f"{len(ledger.tokens):,} tokens, {len(ledger.delivered):,} files, {len(ledger.attempts):,} attempts in the "
        f"journal, seed {options.seed}: {len(wrong) or 'no'} disagreements\n"
    )
    sys.stdout.write("".join(f"  {line}\n" for line in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
