"""Everything that the vendor's SDK can do with access tokens gives the same through our tools, whatever came before."""

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

from tests.support.twin_clusters import ACCOUNTS, Entry, FakeClock, Ours, Spelling, Theirs, spell
from token_tools.cluster.identity import Identity

LEAST_STEPS: Final = 1_000
STEPS_OF_A_RUN: Final = 30
RUNS: Final = 40
MOST_REMOVED: Final = 3
FIELDS: Final = ("domain", "auth_id", "uid", "gid", "sid", "name")


@dataclass(frozen=True)
class Expiry:
    """When a token is to expire: so long from now (None: never), written like that or as an instant of that zone."""

    lifetime: timedelta | None
    written: str | None = None
    zone: timezone | None = None

    def write(self, now: datetime) -> str | None:
        """For our tools."""
        instant = self.find(now)
        return self.written if instant is None or self.zone is None else instant.astimezone(self.zone).isoformat()

    def find(self, now: datetime) -> datetime | None:
        """For the SDK."""
        return None if self.lifetime is None else (now + self.lifetime).replace(microsecond=0)


NEVER: Final = Expiry(None, "never")
ABSENT: Final = Expiry(timedelta(days=90))
EXPIRIES: Final = st.sampled_from(
    [
        NEVER,
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
        *(spelling for account in ACCOUNTS for spelling in spell(account)),
        Spelling(r"ad:jane", {"domain": "ACTIVE_DIRECTORY", "name": "jane"}, "auth_id:21474836481"),
        Spelling("jane@corp.example.com", "jane@corp.example.com", "jane@corp.example.com"),
        Spelling("local:nobody", {"domain": "LOCAL", "name": "nobody"}, "nobody"),
        Spelling("ad:bob", {"domain": "ACTIVE_DIRECTORY", "name": "bob"}, "nobody"),
        Spelling("uid:77", "uid:77", "uid:77"),
        Spelling("auth_id:77", "auth_id:77", "auth_id:77"),
    ]
)
PLACES: Final = st.integers(0, 99)
"""Which token is meant."""


class SideBySide(RuleBasedStateMachine):
    """One step is one operation on both sides; after each, both clusters are the same and are told alike."""

    def __init__(self, portal: BlockingPortal, theirs: Theirs, folder: Path, number: int) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.theirs = theirs
        self.theirs.begin(self.clock)
        self._ending = ExitStack()
        # The journal is that of one user, and knows clusters by their names.
        host = f"c{number}.example.com"
        self.ours = self._ending.enter_context(Ours.connected(portal, self.clock, host=host, folder=folder))
        self.own = self.theirs.who_am_i()["access_token_id"]
        self.gone = ["1234567890123456789012"]
        self.disabled_since: dict[str, datetime] = {}
        self.successors: set[str] = set()
        self.removed = 0
        self.compared = -1

    def teardown(self) -> None:
        """Every run has a server of its own."""
        self._ending.close()

    @rule(user=USERS, expiry=EXPIRIES | st.just(ABSENT))
    def create(self, user: Spelling, expiry: Expiry) -> None:
        """A token for anybody."""
        now = self.clock()
        ours = self.call("create_access_token", user=user.ours, expiration_time=expiry.write(now))
        theirs = self.theirs.create_token(user.theirs, expiry.find(now))

        self.check_made(ours, theirs)

    @rule(expiry=EXPIRIES)
    def create_for_itself(self, expiry: Expiry) -> None:
        """A token for whoever asks."""
        now = self.clock()
        ours = self.call("create_access_token", user="self", expiration_time=expiry.write(now))
        theirs = self.theirs.create_token(f"auth_id:{self.theirs.who_am_i()['id']}", expiry.find(now))

        self.check_made(ours, theirs)

    @rule(place=PLACES, expiry=EXPIRIES | st.just(ABSENT))
    def rotate(self, place: int, expiry: Expiry) -> None:
        """For the SDK, the second token of the same user; it works."""
        token_id, now = self.find(place), self.clock()
        ours = self.call("rotate_access_token", id=token_id, expiration_time=expiry.write(now))
        old = self.theirs.get_token(token_id)
        user = None if old is None else f"auth_id:{old['user']['auth_id']}"
        theirs = None if user is None else self.theirs.create_token(user, expiry.find(now))

        self.check_made(ours, theirs)
        if ours is not None:
            assert ours["replaces"] == token_id
            self.successors.add(ours["id"])
            assert old is not None
            me = self.theirs.who_is_it(read_bearer(ours))
            assert me is not None
            assert (me["id"], me["access_token_id"]) == (old["user"]["auth_id"], ours["id"])

    @rule(place=PLACES, enabled=st.booleans())
    def enable_or_disable(self, place: int, enabled: bool) -> None:
        """Either, whether it is so already or not."""
        token_id = self.find(place)
        if token_id == self.own and not enabled:
            self.check_forbidden("update_access_token", "lock itself out", id=token_id, enabled=enabled)
            return
        ours = self.call("update_access_token", id=token_id, enabled=enabled)
        theirs = self.theirs.modify_token(token_id, expires=None, enabled=enabled)

        self.check_changed(ours, theirs)

    @rule(place=PLACES, expiry=EXPIRIES, enabled=st.none() | st.booleans())
    def move_the_expiry(self, place: int, expiry: Expiry, enabled: bool | None) -> None:
        """To anywhere in the future or away, with the state or without."""
        token_id, now = self.find(place), self.clock()
        change = {"expiration_time": expiry.write(now), "enabled": enabled}
        if token_id == self.own and (expiry != NEVER or enabled is False):
            self.check_forbidden("update_access_token", "lock itself out", id=token_id, **change)
            return
        ours = self.call("update_access_token", id=token_id, **change)
        if expiry == NEVER:
            theirs = self.theirs.clear_expiry(token_id)
            theirs = theirs if enabled is None else self.theirs.modify_token(token_id, expires=None, enabled=enabled)
        else:
            theirs = self.theirs.modify_token(token_id, expires=expiry.find(now), enabled=enabled)

        self.check_changed(ours, theirs)

    @rule(place=PLACES)
    def delete(self, place: int) -> None:
        """Any token but the one that our server runs on."""
        token_id = self.find(place)
        if token_id == self.own:
            self.check_forbidden("delete_access_token", "lock itself out", id=token_id)
            return
        listed = self.theirs.get_token(token_id)
        ours = self.call("delete_access_token", id=token_id)
        theirs = self.theirs.delete_token(token_id)

        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert listed is not None
            assert as_listed(ours) == as_we_tell_it(listed)
            self.gone.append(token_id)

    @rule(place=PLACES)
    def get(self, place: int) -> None:
        """One token."""
        token_id = self.find(place)

        self.check_got(token_id)

    @rule(limit=st.integers(2, 9), their_limit=st.none() | st.integers(2, 9))
    def list_page_by_page(self, limit: int, their_limit: int | None) -> None:
        """All tokens, in pages of any size."""
        theirs = self.theirs.list_tokens(limit=their_limit)

        assert theirs is not None
        assert [as_listed(entry) for entry in self.read_pages(limit)] == [as_we_tell_it(entry) for entry in theirs]

    @rule(user=USERS)
    def list_of_a_user(self, user: Spelling) -> None:
        """The tokens of one user, or of nobody whom the cluster knows."""
        ours = self.call("list_access_tokens", user=user.ours)
        theirs = self.theirs.list_tokens(user.in_filter)

        assert (ours is None) == (theirs is None), user
        if ours is not None and theirs is not None:
            assert [as_listed(entry) for entry in read_entries(ours)] == [as_we_tell_it(entry) for entry in theirs]

    @rule(within=st.sampled_from([("30d", 30), ("1 w", 7), ("P400D", 400)]))
    def audit(self, within: tuple[str, int]) -> None:
        """The counts are those that the list of the SDK gives."""
        ours = self.call("audit_access_tokens", expiring_within=within[0])
        entries = self.theirs.list_tokens()

        assert ours is not None
        assert entries is not None
        owners = Counter(entry["user"]["auth_id"] for entry in entries)
        states = Counter(tell_state(entry, self.clock()) for entry in entries)
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
        place=PLACES,
        change=st.sampled_from(
            [
                ({}, "Nothing to do"),
                ({"expiration_time": "2020-01-01T00:00:00Z"}, "is in the past"),
                ({"expiration_time": "2040-01-01T00:00:00"}, "has no offset"),
                ({"expiration_time": "soon"}, "is not understood"),
            ]
        ),
    )
    def ask_for_what_is_never_done(self, place: int, change: tuple[dict[str, str], str]) -> None:
        """The SDK would do it, or the cluster would refuse it; our tools do not ask."""
        self.check_forbidden("update_access_token", change[1], id=self.find(place), **change[0])

    @rule(passed=st.timedeltas(timedelta(microseconds=1), timedelta(days=120)))
    def time_passes(self, passed: timedelta) -> None:
        """Tokens expire and grow old."""
        self.clock.now += passed

    @precondition(lambda self: self.removed < MOST_REMOVED)
    @rule(place=st.integers(1, len(ACCOUNTS) - 1))
    def remove_a_user(self, place: int) -> None:
        """Somebody deletes a user elsewhere; the tokens stay."""
        key = ACCOUNTS[place].auth_id
        if key in self.ours.cluster.accounts:
            self.ours.cluster.remove_account(key)
            self.theirs.cluster.remove_account(key)
            self.removed += 1

    @invariant()
    def both_clusters_are_the_same_and_told_alike(self) -> None:
        """What holds after each step."""
        theirs = self.theirs.list_tokens()

        assert self.ours.cluster.tokens == self.theirs.cluster.tokens
        assert theirs is not None
        assert [as_listed(entry) for entry in self.read_pages(200)] == [as_we_tell_it(entry) for entry in theirs]
        self.check_got(theirs[self.compared % len(theirs)]["id"])
        self.compared += 1

    def call(self, tool: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON, of which each tool gives another form
        """What our tool tells, None where it refuses, which changes nothing."""
        before = dict(self.ours.cluster.tokens)
        told = self.ours.call(tool, **arguments)
        if told.is_error:
            assert told.text
            assert self.ours.cluster.tokens == before
        return None if told.is_error else told.fields

    def find(self, place: int) -> str:
        """The id of a token; once in a while of one that was deleted, or never made."""
        tokens = [token_id for token_id in self.ours.cluster.tokens if token_id != self.own]
        ids = [*tokens, self.own] if place < 90 else self.gone
        return ids[place % len(ids)]

    def read_pages(self, limit: int) -> Iterator[Entry]:
        """All that our tool lists."""
        told = self.call("list_access_tokens", limit=limit)
        yield from read_entries(told)
        while "after" in told:
            told = self.call("list_access_tokens", limit=limit, after=told["after"])
            yield from read_entries(told)

    def check_made(self, ours: Entry | None, theirs: Entry | None) -> None:
        """Both made the same token, secret included, or none."""
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert {"id": ours["id"], "bearer_token": read_bearer(ours)} == theirs

    def check_changed(self, ours: Entry | None, theirs: Entry | None) -> None:
        """Both made the same change, or none."""
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert (ours["id"], ours["enabled"]) == (theirs["id"], theirs["enabled"])
            assert ours.get("expiration_time") == theirs["expiration_time"]
            if ours["enabled_before"] and not ours["enabled"]:
                self.disabled_since[ours["id"]] = self.clock()
            elif ours["enabled"]:
                self.disabled_since.pop(ours["id"], None)

    def find_risks(self, entry: Entry, now: datetime, within: timedelta) -> Sequence[str]:
        """What an audit has to find about an entry by itself, and by what it knows of what was done before."""
        created = datetime.fromisoformat(entry["creation_time"])
        expires = None if entry["expiration_time"] is None else datetime.fromisoformat(entry["expiration_time"])
        user, state = entry["user"], tell_state(entry, now)
        is_live = state == "live"
        is_built_in = user["auth_id"] in {"1", "2", "500", "501"} or str(user["domain"]).startswith(("API_", "WORLD"))
        is_made_by_another = user["auth_id"] != entry["creator"]["auth_id"] and entry["id"] not in self.successors
        since = self.disabled_since.get(entry["id"], created)
        risks = {
            "never_expires": is_live and expires is None,
            "built_in_user": is_live and is_built_in,
            "made_by_another": is_live and is_made_by_another,
            "user_has_no_name": user["name"] is None,
            "expired": state == "expired",
            "disabled_and_old": not entry["enabled"] and now - since >= timedelta(days=30),
            "older_than_a_year": is_live and now - created >= timedelta(days=365),
            "expires_soon": is_live and expires is not None and expires - now <= within,
        }
        return [risk for risk, is_one in risks.items() if is_one]

    def check_got(self, token_id: str) -> None:
        """Both tell the same of one token, each field of its identities included."""
        ours = self.call("get_access_token", id=token_id)
        theirs = self.theirs.get_token(token_id)

        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert as_listed(ours) == as_we_tell_it(theirs)
            assert ours["is_own"] == (token_id == self.own)
            for role in ("user", "creator"):
                told = {field: ours.get(f"{role}_{field}") for field in FIELDS}
                assert told | {"name": unquote(told["name"])} == theirs[role]

    def check_forbidden(self, tool: str, why: str, **arguments: object) -> None:
        """Our tool refuses for a reason of its own, so the SDK is not asked."""
        before = dict(self.ours.cluster.tokens)
        told = self.ours.call(tool, **arguments)

        assert told.is_error
        assert why in told.text
        assert self.ours.cluster.tokens == before


def read_entries(told: Entry) -> list[Entry]:
    """The entries of a page, with what is usual and told once."""
    usual = {"enabled": True} | ({"creator": told["usual_creator"]} if "usual_creator" in told else {})
    return [usual | entry for entry in told["tokens"]]


def as_listed(entry: Entry) -> Entry:
    """Of our fields, those that the endpoint has too."""
    return {key: entry[key] for key in ENDPOINT_FIELDS if key in entry}


ENDPOINT_FIELDS: Final = ("id", "user", "creator", "creation_time", "expiration_time", "enabled")


def as_we_tell_it(entry: Entry) -> Entry:
    """An entry of the SDK with its identities in one string and nothing null."""
    told = entry | {role: str(Identity.model_validate(entry[role])) for role in ("user", "creator")}
    return {key: value for key, value in told.items() if value is not None}


def unquote(name: str | None) -> str | None:
    """The name itself, where it is told in quotes."""
    unquoted: str | None = json.loads(name) if name and name.startswith('"') else name
    return unquoted


def read_bearer(made: Entry) -> str:
    """The secret, from where the answer says that it is."""
    bearer_token: str = json.loads(Path(made["bearer_token_in"]).read_text())["bearer_token"]
    return bearer_token


def tell_state(entry: Entry, now: datetime) -> str:
    """How an audit counts it."""
    expires = entry["expiration_time"]
    if expires is not None and datetime.fromisoformat(expires) <= now:
        return "expired"
    return "live" if entry["enabled"] else "disabled"


@pytest.fixture
def theirs(tmp_path: Path) -> Generator[Theirs]:
    with Theirs.connected(tmp_path) as theirs:
        yield theirs


def test_our_tools_do_to_a_cluster_what_the_vendor_s_sdk_does_to_its_twin(theirs: Theirs, tmp_path: Path) -> None:
    compared: list[int] = []

    with start_blocking_portal() as portal:

        class Run(SideBySide):
            """One with what all of them share."""

            def __init__(self) -> None:
                super().__init__(portal, theirs, tmp_path, len(compared))

            def teardown(self) -> None:
                """Count, so that nobody is deceived about how much was tried."""
                super().teardown()
                compared.append(self.compared)

        run_state_machine_as_test(
            Run,
            settings=settings(
                max_examples=RUNS,
                stateful_step_count=STEPS_OF_A_RUN,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )

    assert sum(compared) >= LEAST_STEPS
