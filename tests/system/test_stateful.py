"""Test that our tools give the results of the vendor's SDK for any sequence of operations on access tokens."""

import json
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.support.twin_clusters import ACCOUNTS, Entry, FakeClock, SdkSide, ServerSide, UserSpelling, list_spellings
from token_tools.cluster.identity import Identity

pytestmark = pytest.mark.slow

MIN_STEPS: Final = 1_000
STEPS_PER_RUN: Final = 30
RUNS: Final = 40
MAX_REMOVED_USERS: Final = 3
IDENTITY_FIELDS: Final = ("domain", "auth_id", "uid", "gid", "sid", "name")


@dataclass(frozen=True)
class Expiry:
    """The expiry of a token: `lifetime` from now (None: never), written as `duration` or as an instant in `zone`."""

    lifetime: timedelta | None
    duration: str | None = None
    zone: timezone | None = None

    def format_argument(self, now: datetime) -> str | None:
        """Return the expiry as an argument of our tools."""
        instant = self.resolve(now)
        return self.duration if instant is None or self.zone is None else instant.astimezone(self.zone).isoformat()

    def resolve(self, now: datetime) -> datetime | None:
        """Return the expiry as a time for the SDK."""
        return None if self.lifetime is None else (now + self.lifetime).replace(microsecond=0)


NEVER_EXPIRES: Final = Expiry(None, "never")
NO_EXPIRY_ARGUMENT: Final = Expiry(timedelta(days=90))
EXPIRIES: Final = st.sampled_from(
    [
        NEVER_EXPIRES,
        Expiry(timedelta(days=90), "90d"),
        Expiry(timedelta(hours=12), "12h"),
        Expiry(timedelta(weeks=2), " 2 weeks"),
        Expiry(timedelta(days=1, hours=12), "P1DT12H"),
        Expiry(timedelta(seconds=1), "1 s"),
        Expiry(timedelta(days=400), "400 Days"),
        *(
            Expiry(timedelta(hours=hours), zone=timezone(timedelta(hours=offset)))
            for hours, offset in ((1, 0), (100, -8), (1_000, 2), (10_000, 5.5))
        ),
    ]
)
USERS: Final = st.sampled_from(
    [
        *(spelling for account in ACCOUNTS for spelling in list_spellings(account)),
        UserSpelling(r"ad:jane", {"domain": "ACTIVE_DIRECTORY", "name": "jane"}, "auth_id:21474836481"),
        UserSpelling("jane@corp.example.com", "jane@corp.example.com", "jane@corp.example.com"),
        UserSpelling("local:nobody", {"domain": "LOCAL", "name": "nobody"}, "nobody"),
        UserSpelling("ad:bob", {"domain": "ACTIVE_DIRECTORY", "name": "bob"}, "nobody"),
        UserSpelling("uid:77", "uid:77", "uid:77"),
        UserSpelling("auth_id:77", "auth_id:77", "auth_id:77"),
    ]
)
TOKEN_POSITIONS: Final = st.integers(0, 99)
"""A position in the list of tokens, modulo its length; 90 and above mean deleted or unknown tokens."""


class TwoClustersMachine(RuleBasedStateMachine):
    """Each step is one operation on both sides; after it, both clusters and both lists are equal."""

    def __init__(self, portal: BlockingPortal, sdk_side: SdkSide, folder: Path, number: int) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.theirs = sdk_side
        self.theirs.reset(self.clock)
        self._cleanup = ExitStack()
        # All runs share one journal, so each cluster has a name of its own.
        host = f"c{number}.example.com"
        self.ours = self._cleanup.enter_context(ServerSide.connected(portal, self.clock, host=host, folder=folder))
        self.own = self.theirs.who_am_i()["access_token_id"]
        self.gone = ["1234567890123456789012"]
        self.disabled_since: dict[str, datetime] = {}
        self.successors: set[str] = set()
        self.removed = 0
        self.compared = -1

    def teardown(self) -> None:
        """Stop the server of this run."""
        self._cleanup.close()

    @rule(user=USERS, expiry=EXPIRIES | st.just(NO_EXPIRY_ARGUMENT))
    def create(self, user: UserSpelling, expiry: Expiry) -> None:
        """Create a token for any user."""
        now = self.clock()
        ours = self.call("create_access_token", user=user.for_tool, expiration_time=expiry.format_argument(now))
        sdk_side = self.theirs.create_token(user.for_sdk, expiry.resolve(now))

        self.check_created(ours, sdk_side)

    @rule(expiry=EXPIRIES)
    def create_for_self(self, expiry: Expiry) -> None:
        """Create a token for the user whom the server works as."""
        now = self.clock()
        ours = self.call("create_access_token", user="self", expiration_time=expiry.format_argument(now))
        sdk_side = self.theirs.create_token(f"auth_id:{self.theirs.who_am_i()['id']}", expiry.resolve(now))

        self.check_created(ours, sdk_side)

    @rule(position=TOKEN_POSITIONS, expiry=EXPIRIES | st.just(NO_EXPIRY_ARGUMENT))
    def rotate(self, position: int, expiry: Expiry) -> None:
        """Rotate a token; the SDK creates a second token for its user. Check that the new bearer token works."""
        token_id, now = self.find_token_id(position), self.clock()
        ours = self.call("rotate_access_token", id=token_id, expiration_time=expiry.format_argument(now))
        old = self.theirs.get_token(token_id)
        user = None if old is None else f"auth_id:{old['user']['auth_id']}"
        sdk_side = None if user is None else self.theirs.create_token(user, expiry.resolve(now))

        self.check_created(ours, sdk_side)
        if ours is not None:
            assert ours["replaces"] == token_id
            self.successors.add(ours["id"])
            assert old is not None
            me = self.theirs.who_am_i_with(read_bearer_token(ours))
            assert me is not None
            assert (me["id"], me["access_token_id"]) == (old["user"]["auth_id"], ours["id"])

    @rule(position=TOKEN_POSITIONS, enabled=st.booleans())
    def enable_or_disable(self, position: int, enabled: bool) -> None:
        """Enable or disable a token, whatever its state was."""
        token_id = self.find_token_id(position)
        if token_id == self.own and not enabled:
            self.check_forbidden("update_access_token", "lock itself out", id=token_id, enabled=enabled)
            return
        ours = self.call("update_access_token", id=token_id, enabled=enabled)
        sdk_side = self.theirs.update_token(token_id, expires=None, enabled=enabled)

        self.check_updated(ours, sdk_side)

    @rule(position=TOKEN_POSITIONS, expiry=EXPIRIES, enabled=st.none() | st.booleans())
    def update_expiry(self, position: int, expiry: Expiry, enabled: bool | None) -> None:
        """Change the expiry to a time in the future or to never, with or without the state."""
        token_id, now = self.find_token_id(position), self.clock()
        change = {"expiration_time": expiry.format_argument(now), "enabled": enabled}
        if token_id == self.own and (expiry != NEVER_EXPIRES or enabled is False):
            self.check_forbidden("update_access_token", "lock itself out", id=token_id, **change)
            return
        ours = self.call("update_access_token", id=token_id, **change)
        if expiry == NEVER_EXPIRES:
            sdk_side = self.theirs.clear_expiry(token_id)
            sdk_side = (
                sdk_side if enabled is None else self.theirs.update_token(token_id, expires=None, enabled=enabled)
            )
        else:
            sdk_side = self.theirs.update_token(token_id, expires=expiry.resolve(now), enabled=enabled)

        self.check_updated(ours, sdk_side)

    @rule(position=TOKEN_POSITIONS)
    def delete(self, position: int) -> None:
        """Delete a token; our server refuses to delete its own."""
        token_id = self.find_token_id(position)
        if token_id == self.own:
            self.check_forbidden("delete_access_token", "lock itself out", id=token_id)
            return
        listed = self.theirs.get_token(token_id)
        ours = self.call("delete_access_token", id=token_id)
        sdk_side = self.theirs.delete_token(token_id)

        assert (ours is None) == (sdk_side is None)
        if ours is not None:
            assert listed is not None
            assert keep_endpoint_fields(ours) == convert_sdk_entry(listed)
            self.gone.append(token_id)

    @rule(position=TOKEN_POSITIONS)
    def get(self, position: int) -> None:
        """Get a token."""
        token_id = self.find_token_id(position)

        self.check_got(token_id)

    @rule(limit=st.integers(2, 9), their_limit=st.none() | st.integers(2, 9))
    def list_page_by_page(self, limit: int, their_limit: int | None) -> None:
        """List all tokens, in pages of any size."""
        sdk_side = self.theirs.list_tokens(limit=their_limit)

        assert sdk_side is not None
        assert [keep_endpoint_fields(entry) for entry in self.read_pages(limit)] == [
            convert_sdk_entry(entry) for entry in sdk_side
        ]

    @rule(user=USERS)
    def list_of_a_user(self, user: UserSpelling) -> None:
        """List the tokens of a user, who may be unknown to the cluster."""
        ours = self.call("list_access_tokens", user=user.for_tool)
        sdk_side = self.theirs.list_tokens(user.for_sdk_filter)

        assert (ours is None) == (sdk_side is None), user
        if ours is not None and sdk_side is not None:
            assert [keep_endpoint_fields(entry) for entry in expand_entries(ours)] == [
                convert_sdk_entry(entry) for entry in sdk_side
            ]

    @rule(within=st.sampled_from([("30d", 30), ("1 w", 7), ("P400D", 400)]))
    def audit(self, within: tuple[str, int]) -> None:
        """Audit the cluster, and compare the counts with the list of the SDK."""
        ours = self.call("audit_access_tokens", expiring_within=within[0])
        entries = self.theirs.list_tokens()

        assert ours is not None
        assert entries is not None
        owners = Counter(entry["user"]["auth_id"] for entry in entries)
        states = Counter(classify_state(entry, self.clock()) for entry in entries)
        found = Counter(
            finding for entry in entries for finding in self.find_risks(entry, self.clock(), timedelta(days=within[1]))
        )
        found["users_with_two_tokens"] = sum(count >= 2 for count in owners.values())
        assert (ours["total"], ours["users"]) == (len(entries), len(owners))
        assert {state: ours[state] for state in ("live", "disabled", "expired")} == {
            state: states[state] for state in ("live", "disabled", "expired")
        }
        assert {finding["finding"]: finding["count"] for finding in ours["findings"]} == dict(+found)

    @rule(
        position=TOKEN_POSITIONS,
        change=st.sampled_from(
            [
                ({}, "Nothing to do"),
                ({"expiration_time": "2020-01-01T00:00:00Z"}, "is in the past"),
                ({"expiration_time": "2040-01-01T00:00:00"}, "has no offset"),
                ({"expiration_time": "soon"}, "is not understood"),
            ]
        ),
    )
    def try_forbidden_change(self, position: int, change: tuple[dict[str, str], str]) -> None:
        """Try a change that our tools refuse without asking the cluster."""
        self.check_forbidden("update_access_token", change[1], id=self.find_token_id(position), **change[0])

    @rule(passed=st.timedeltas(timedelta(microseconds=1), timedelta(days=120)))
    def advance_time(self, passed: timedelta) -> None:
        """Move the clock, so that tokens expire and grow old."""
        self.clock.now += passed

    @precondition(lambda self: self.removed < MAX_REMOVED_USERS)
    @rule(position=st.integers(1, len(ACCOUNTS) - 1))
    def remove_a_user(self, position: int) -> None:
        """Delete a user on both clusters; the tokens stay."""
        key = ACCOUNTS[position].auth_id
        if key in self.ours.cluster.accounts:
            self.ours.cluster.remove_account(key)
            self.theirs.cluster.remove_account(key)
            self.removed += 1

    @invariant()
    def clusters_and_lists_are_equal(self) -> None:
        """Check that both clusters and both lists are equal."""
        sdk_side = self.theirs.list_tokens()

        assert self.ours.cluster.tokens == self.theirs.cluster.tokens
        assert sdk_side is not None
        assert [keep_endpoint_fields(entry) for entry in self.read_pages(200)] == [
            convert_sdk_entry(entry) for entry in sdk_side
        ]
        self.check_got(sdk_side[self.compared % len(sdk_side)]["id"])
        self.compared += 1

    def call(self, tool: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON, of which each tool gives another form
        """Call our tool, and return its fields, or None if it refuses. Check that a refusal changes nothing."""
        before = dict(self.ours.cluster.tokens)
        answer = self.ours.call(tool, **arguments)
        if answer.is_error:
            assert answer.text
            assert self.ours.cluster.tokens == before
        return None if answer.is_error else answer.fields

    def find_token_id(self, position: int) -> str:
        """Return the id of a token; a position of 90 or more gives a deleted or unknown token."""
        tokens = [token_id for token_id in self.ours.cluster.tokens if token_id != self.own]
        ids = [*tokens, self.own] if position < 90 else self.gone
        return ids[position % len(ids)]

    def read_pages(self, limit: int) -> Iterator[Entry]:
        """Yield every entry that our tool lists, page by page."""
        answer = self.call("list_access_tokens", limit=limit)
        yield from expand_entries(answer)
        while "after" in answer:
            answer = self.call("list_access_tokens", limit=limit, after=answer["after"])
            yield from expand_entries(answer)

    def check_created(self, ours: Entry | None, sdk_side: Entry | None) -> None:
        """Check that both sides created equal tokens, secret included, or none."""
        assert (ours is None) == (sdk_side is None)
        if ours is not None:
            assert {"id": ours["id"], "bearer_token": read_bearer_token(ours)} == sdk_side

    def check_updated(self, ours: Entry | None, sdk_side: Entry | None) -> None:
        """Check that both sides made equal changes, or none."""
        assert (ours is None) == (sdk_side is None)
        if ours is not None and sdk_side is not None:
            assert (ours["id"], ours["enabled"]) == (sdk_side["id"], sdk_side["enabled"])
            assert ours.get("expiration_time") == sdk_side["expiration_time"]
            if ours["enabled_before"] and not ours["enabled"]:
                self.disabled_since[ours["id"]] = self.clock()
            elif ours["enabled"]:
                self.disabled_since.pop(ours["id"], None)

    def find_risks(self, entry: Entry, now: datetime, within: timedelta) -> Sequence[str]:
        """Return the findings that an audit has to make about an entry and its history."""
        created = datetime.fromisoformat(entry["creation_time"])
        expires = None if entry["expiration_time"] is None else datetime.fromisoformat(entry["expiration_time"])
        user, state = entry["user"], classify_state(entry, now)
        is_live = state == "live"
        if str(user["domain"]).startswith(("API_", "WORLD")):
            return ["cluster_account"]
        is_built_in = user["auth_id"] in {"1", "2", "500", "501"}
        is_made_by_another = user["auth_id"] != entry["creator"]["auth_id"] and entry["id"] not in self.successors
        since = self.disabled_since.get(entry["id"], created)
        risks = {
            "never_expires": is_live and expires is None,
            "built_in_user": is_live and is_built_in,
            "made_by_another": is_live and is_made_by_another,
            "user_has_no_name": user["name"] is None,
            "expired": state == "expired",
            "disabled_and_old": not entry["enabled"] and now - since >= timedelta(days=30),
            "disabled_lately": not entry["enabled"]
            and entry["id"] in self.disabled_since
            and now - since < timedelta(days=30),
            "older_than_a_year": is_live and now - created >= timedelta(days=365),
            "expires_soon": is_live and expires is not None and expires - now <= within,
        }
        return [risk for risk, is_one in risks.items() if is_one]

    def check_got(self, token_id: str) -> None:
        """Check that both sides say the same of one token, including each field of its identities."""
        ours = self.call("get_access_token", id=token_id)
        sdk_side = self.theirs.get_token(token_id)

        assert (ours is None) == (sdk_side is None)
        if ours is not None and sdk_side is not None:
            assert keep_endpoint_fields(ours) == convert_sdk_entry(sdk_side)
            assert ours["is_own"] == (token_id == self.own)
            for role in ("user", "creator"):
                answer = {field: ours.get(f"{role}_{field}") for field in IDENTITY_FIELDS}
                assert answer | {"name": unquote_name(answer["name"])} == sdk_side[role]

    def check_forbidden(self, tool: str, why: str, **arguments: object) -> None:
        """Check that our tool refuses a change for this reason, without a request of the SDK."""
        before = dict(self.ours.cluster.tokens)
        answer = self.ours.call(tool, **arguments)

        assert answer.is_error
        assert why in answer.text
        assert self.ours.cluster.tokens == before


def expand_entries(page: Entry) -> list[Entry]:
    """Return the entries of a page, with the defaults and the facts that the page states once."""
    usual = {"enabled": True} | ({"creator": page["usual_creator"]} if "usual_creator" in page else {})
    return [usual | entry for entry in page["tokens"]]


def keep_endpoint_fields(entry: Entry) -> Entry:
    """Keep those of our fields that the endpoint has too."""
    return {key: entry[key] for key in ENDPOINT_FIELDS if key in entry}


ENDPOINT_FIELDS: Final = ("id", "user", "creator", "creation_time", "expiration_time", "enabled")


def convert_sdk_entry(entry: Entry) -> Entry:
    """Convert an entry of the SDK to our form, with identities as strings and without nulls."""
    answer = entry | {role: str(Identity.from_json(entry[role])) for role in ("user", "creator")}
    return {key: value for key, value in answer.items() if value is not None}


def unquote_name(name: str | None) -> str | None:
    """Return a name without the quotes of JSON, if it has any."""
    unquoted: str | None = json.loads(name) if name and name.startswith('"') else name
    return unquoted


def read_bearer_token(created: Entry) -> str:
    """Read the secret from the file that the answer names."""
    bearer_token: str = json.loads(Path(created["bearer_token_in"]).read_text())["bearer_token"]
    return bearer_token


def classify_state(entry: Entry, now: datetime) -> str:
    """Return the state under which an audit counts an entry."""
    expires = entry["expiration_time"]
    if expires is not None and datetime.fromisoformat(expires) <= now:
        return "expired"
    return "live" if entry["enabled"] else "disabled"


@pytest.fixture
def sdk_side(tmp_path: Path) -> Generator[SdkSide]:
    with SdkSide.connected(tmp_path) as sdk_side:
        yield sdk_side


def test_our_tools_do_to_a_cluster_what_the_vendor_s_sdk_does_to_its_twin(sdk_side: SdkSide, tmp_path: Path) -> None:
    compared: list[int] = []

    with start_blocking_portal() as portal:

        class Run(TwoClustersMachine):
            """A run with the objects that all runs share."""

            def __init__(self) -> None:
                super().__init__(portal, sdk_side, tmp_path, len(compared))

            def teardown(self) -> None:
                """Count the run and its steps, so that the test can check how much was tried."""
                super().teardown()
                compared.append(self.compared)

        run_state_machine_as_test(
            Run,
            settings=settings(
                max_examples=RUNS,
                stateful_step_count=STEPS_PER_RUN,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )

    assert sum(compared) >= MIN_STEPS
