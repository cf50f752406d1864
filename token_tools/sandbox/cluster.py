"""The state of the embedded cluster: accounts, tokens and the rules about them. It knows nothing of HTTP.

What the vendor documents is a rule here. What nobody outside the vendor knows is a switch of `Behaviour`, so that no
test or program takes a guess for a fact.

Source: the published page of `/v1/auth/access-tokens/`, the vendor's administrator guide, `qumulo-api` 7.10.
"""

import base64
import random
import struct
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

from token_tools.sandbox.directory import Directory
from token_tools.times import Clock

READ_PRIVILEGE: Final = "PRIVILEGE_ACCESS_TOKENS_READ"
WRITE_PRIVILEGE: Final = "PRIVILEGE_ACCESS_TOKENS_WRITE"
LOOKUP_PRIVILEGE: Final = "PRIVILEGE_IDENTITY_READ"
MAX_TOKENS_PER_USER: Final = 2

RefusalReason = Literal[
    "decode",
    "bad-time",
    "past-time",
    "no-user",
    "ambiguous",
    "group",
    "limit",
    "no-token",
    "no-role",
    "exists",
    "privilege",
    "no-path",
    "method",
    "login",
]


EndOfPaging = Literal["null", "empty", "no-next", "null-paging", "no-paging", "empty-pages", "repeated"]


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What differs between versions of Core, or is not known about a real cluster."""

    version: str = "7.9.2.1"
    """What `/v1/version` says; it changes none of the other switches."""
    has_self_service: bool = True
    """Users may administer their own tokens without a privilege (Core 7.3 and newer)."""
    has_expiry: bool = True
    """Tokens have an `expiration_time` (Core 5.3.2 and newer)."""
    has_enabled: bool = True
    """Tokens can be disabled (Core 5.3.3 and newer)."""
    sparse_identities: bool = False
    """Lists give only the `auth_id` of an identity; the list of S3 keys is documented to do so."""
    end_of_paging: EndOfPaging = "null"
    """How the last page says that it is the last. `empty-pages` and `repeated` never do: empty pages follow without
    end, or the last page over and over. Other endpoints of the vendor are said to behave in that way."""
    has_absolute_links: bool = False
    """`paging.next` is a whole URL and not only a path."""
    default_page_size: int = 10_000
    """Tokens on a page if the request has no `limit`; the number is that of S3 keys."""
    max_page_size: int = 10_000
    """Most tokens on a page; a larger `limit` is not refused. The number is that of S3 keys."""
    allows_user_with_limit: bool = True
    """`user` may be combined with `limit` and `after`, which the list of S3 keys is said to refuse."""
    allows_domain_prefixes: bool = False
    """The `user` filter knows `local:`, `ad:` and `ldap_user:`. The vendor's SDK never sends them, one script does."""
    counts_dead_tokens: bool = True
    """Expired and disabled tokens count towards the limit of tokens per user."""
    tokens_outlive_users: bool = True
    """The tokens of a deleted user stay in the list, as S3 keys do."""
    allows_clearing_expiry: bool = True
    """A PATCH with a null `expiration_time` lets a token never expire; otherwise it is refused."""
    allows_empty_update: bool = True
    """A PATCH that changes nothing is accepted."""
    allows_past_expiry: bool = True
    """A token may be created with an expiration time in the past."""
    lookup_needs_privilege: bool = True
    """Looking up identities needs a privilege."""
    unprivileged_list_is_own: bool = False
    """A list of all tokens gives a caller without the privilege their own; otherwise it is refused."""
    has_body_of_401: bool = False
    """A 401 has the envelope of an error; the vendor's SDK does not expect one."""
    refusals: Mapping[RefusalReason, tuple[int, str]] = field(
        default_factory=lambda: {
            "decode": (400, "decode_error"),
            "bad-time": (400, "decode_error"),
            "past-time": (400, "decode_error"),
            "no-user": (404, "http_not_found_error"),
            "ambiguous": (400, "cred_identity_not_supported_error"),
            "group": (400, "cred_identity_not_supported_error"),
            "limit": (400, "access_token_limit_error"),
            "no-token": (404, "http_not_found_error"),
            "no-role": (404, "http_not_found_error"),
            "exists": (409, "http_conflict_error"),
            "privilege": (403, "http_forbidden_error"),
            "no-path": (404, "http_not_found_error"),
            "method": (405, "http_method_not_allowed_error"),
            "login": (401, "http_unauthorized_error"),
        }
    )
    """Status and error class of each refusal, most of them guesses: the vendor publishes few."""


class Refused(Exception):
    """The cluster refuses a request."""

    def __init__(self, reason: RefusalReason, description: str) -> None:
        super().__init__(description)
        self.reason: RefusalReason = reason
        self.description = description


@dataclass(frozen=True)
class Account:
    """A user or group: the fields of its identity, and its privileges."""

    auth_id: str
    domain: str
    name: str | None = None
    uid: int | None = None
    gid: int | None = None
    sid: str | None = None
    is_group: bool = False
    privileges: frozenset[str] = frozenset()

    def identity(self) -> dict[str, str | int | None]:
        """Return the six fields of the identity, None where unknown."""
        return {
            "auth_id": self.auth_id,
            "domain": self.domain,
            "name": self.name,
            "uid": self.uid,
            "gid": self.gid,
            "sid": self.sid,
        }

    def matches(self, identity: Mapping[str, object]) -> bool:
        """Return whether every field of `identity` agrees with this account; upper and lower case are the same."""
        own = self.identity()
        return all(_is_same_value(own[key], value) for key, value in identity.items())


@dataclass(frozen=True)
class Token:
    """One access token; `user` and `creator` are auth_ids."""

    id: str
    bearer_token: str = field(repr=False)
    user: str
    creator: str
    creation_time: datetime
    expiration_time: datetime | None = None
    enabled: bool = True
    creation_nanoseconds: int = 0
    """0 to 999, to be added to `creation_time`: a cluster gives nanoseconds, and `datetime` holds microseconds."""


class Caller(NamedTuple):
    """Who sends a request, with all their privileges, and the token that they send it with; None in a session."""

    account: Account
    access_token_id: str | None


class TokenTable(MutableMapping[str, Token]):
    """The tokens by id, in the order of their ids; a look-up takes no longer when there are very many."""

    def __init__(self) -> None:
        self._tokens: dict[str, Token] = {}
        self._ids: list[str] = []
        self._ids_of: defaultdict[str, list[str]] = defaultdict(list)
        self._by_bearer_token: dict[str, Token] = {}

    def __getitem__(self, token_id: str) -> Token:
        return self._tokens[token_id]

    def __setitem__(self, token_id: str, token: Token) -> None:
        if token_id in self._tokens:
            del self[token_id]
        self._tokens[token_id] = token
        insort(self._ids, token_id)
        insort(self._ids_of[token.user], token_id)
        self._by_bearer_token[token.bearer_token] = token

    def __delitem__(self, token_id: str) -> None:
        token = self._tokens.pop(token_id)
        for ids in (self._ids, self._ids_of[token.user]):
            del ids[bisect_left(ids, token_id)]
        del self._by_bearer_token[token.bearer_token]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def of_user(self, user: str) -> list[Token]:
        """Return the tokens of one user."""
        return [self._tokens[token_id] for token_id in self._ids_of.get(user, ())]

    def find_by_bearer_token(self, bearer_token: str) -> Token | None:
        """Return the token with this secret, or None."""
        return self._by_bearer_token.get(bearer_token)

    def page_after(self, cursor: str, *, user: str | None, limit: int) -> list[Token]:
        """Return the first `limit` tokens whose ids sort after `cursor`, of one user or, for None, of all."""
        ids = self._ids if user is None else self._ids_of.get(user, [])
        first = bisect_right(ids, cursor)
        return [self._tokens[token_id] for token_id in ids[first : first + limit]]


class Cluster:
    """Accounts and tokens, and what a caller may do with them.

    The same `seed` gives the same ids and secrets; without one they are random.
    """

    def __init__(self, *, clock: Clock, behaviour: Behaviour | None = None, seed: int | None = None) -> None:
        self.clock = clock
        self.behaviour = behaviour or Behaviour()
        self.accounts: dict[str, Account] = {}
        self.tokens = TokenTable()
        self.directory = Directory(clock)
        self._random = random.SystemRandom() if seed is None else random.Random(seed)  # noqa: S311 - to repeat a cluster

    def add_account(self, account: Account) -> None:
        """Add a user or group."""
        self.accounts[account.auth_id] = account

    def remove_account(self, auth_id: str) -> None:
        """Remove a user; a switch of the behaviour decides whether their tokens stay."""
        del self.accounts[auth_id]
        if not self.behaviour.tokens_outlive_users:
            for token in self.tokens.of_user(auth_id):
                del self.tokens[token.id]

    def add_token(
        self,
        user: str,
        *,
        creator: str,
        expiration_time: datetime | None = None,
        creation_time: datetime | None = None,
        enabled: bool = True,
    ) -> Token:
        """Add a token without checking any rule; without a creation time it is created now.

        Only a token that is created now has nanoseconds, so that a test finds the time that it gave.
        """
        created = creation_time or self.clock()
        key = self._random.getrandbits(64)
        creation_nanoseconds = 0 if creation_time else key % 1000
        # This is the layout of one published example. Nobody should rely on it, but it makes a token look like a real
        # one.
        seconds, nanoseconds = int(created.timestamp()), created.microsecond * 1000 + creation_nanoseconds
        secret = self._random.randbytes(32) + struct.pack("<IQQQI", 1, int(user), key, seconds, nanoseconds)
        token = Token(
            id=str((int(user) << 64) | key),
            bearer_token=f"access-v1:{base64.b64encode(secret).decode()}",
            user=user,
            creator=creator,
            creation_time=created,
            expiration_time=expiration_time,
            enabled=enabled,
            creation_nanoseconds=creation_nanoseconds,
        )
        self.tokens[token.id] = token
        return token

    def authenticate(self, bearer_token: str) -> Token | None:
        """Return the token with this secret if it works, else None."""
        token = self.tokens.find_by_bearer_token(bearer_token)
        return token if token and self._is_live(token) and token.user in self.accounts else None

    def find_caller(self, bearer_token: str) -> Caller | None:
        """Return whose token or session this is, or None if it does not work."""
        token = self.authenticate(bearer_token)
        user = token.user if token else self.directory.find_session_user(bearer_token)
        if user is None or user not in self.accounts:
            return None
        account = self.accounts[user]
        privileges = account.privileges | self.directory.list_granted(user)
        return Caller(replace(account, privileges=privileges), token.id if token else None)

    def log_in(self, name: str, password: str) -> str:
        """Return the bearer token of a new session of a local user.

        Raises:
            Refused: If there is no such user, or the password is wrong.
        """
        account = self.find_local_account(name)
        bearer_token = account and self.directory.open_session(account.auth_id, password)
        if not bearer_token:
            raise Refused("login", "the user name or the password is wrong")
        return bearer_token

    def find_local_account(self, name: str) -> Account | None:
        """Return the local user or group with this name, or None."""
        local = {"domain": "LOCAL", "name": name}
        return next((account for account in self.accounts.values() if account.matches(local)), None)

    def resolve_account(self, identity: Mapping[str, object]) -> Account:
        """Return the one account that agrees with every given field of an identity.

        Raises:
            Refused: If there is none or more than one, or if the identity gives at most a domain.
        """
        given = {key: value for key, value in identity.items() if value is not None}
        if not given.keys() - {"domain"}:
            raise Refused("decode", "field 'auth_id' not found")
        key = given.get("auth_id")
        candidates = self.accounts.values() if key is None else filter(None, [self.accounts.get(str(key))])
        found = [account for account in candidates if account.matches(given)]
        if not found:
            raise Refused("no-user", "no such identity")
        if len(found) > 1:
            raise Refused("ambiguous", "the name is that of more than one identity")
        return found[0]

    def list_tokens(self, caller: Account, user: Account | None, *, cursor: str, limit: int) -> list[Token]:
        """Return the first `limit` tokens whose ids sort after `cursor`, of one user or, for None, of all.

        Raises:
            Refused: If the caller may not see them.
        """
        if user is None and self.behaviour.unprivileged_list_is_own and READ_PRIVILEGE not in caller.privileges:
            user = caller
        self._check_privilege(READ_PRIVILEGE, caller, owner=None if user is None else user.auth_id)
        return self.tokens.page_after(cursor, user=None if user is None else user.auth_id, limit=limit)

    def get_token(self, caller: Account, token_id: str) -> Token:
        """Return one token.

        Raises:
            Refused: If it does not exist, or the caller may not see it.
        """
        return self._get_permitted_token(READ_PRIVILEGE, caller, token_id)

    def create_token(self, caller: Account, user: Account, expiration_time: datetime | None) -> Token:
        """Create a token.

        Raises:
            Refused: If a rule forbids it.
        """
        self._check_privilege(WRITE_PRIVILEGE, caller, owner=user.auth_id)
        if user.is_group or user.domain in {"POSIX_GROUP", "WORLD"}:
            raise Refused("group", "access tokens are for users, not for groups")
        if expiration_time and expiration_time <= self.clock() and not self.behaviour.allows_past_expiry:
            raise Refused("past-time", "expiration_time is in the past")
        if len(list(self._tokens_towards_limit(user))) >= MAX_TOKENS_PER_USER:
            raise Refused("limit", f"a user can have at most {MAX_TOKENS_PER_USER} access tokens")
        return self.add_token(user.auth_id, creator=caller.auth_id, expiration_time=expiration_time)

    def update_token(self, caller: Account, token_id: str, changes: Mapping[str, Any]) -> Token:
        """Enable or disable a token, or move its expiry.

        Raises:
            Refused: If it does not exist, or the caller may not.
        """
        self.tokens[token_id] = token = replace(self._get_permitted_token(WRITE_PRIVILEGE, caller, token_id), **changes)
        return token

    def delete_token(self, caller: Account, token_id: str) -> None:
        """Delete a token.

        Raises:
            Refused: If it does not exist, or the caller may not.
        """
        del self.tokens[self._get_permitted_token(WRITE_PRIVILEGE, caller, token_id).id]

    def _get_permitted_token(self, privilege: str, caller: Account, token_id: str) -> Token:
        token = self.tokens.get(token_id)
        self._check_privilege(privilege, caller, owner=None if token is None else token.user)
        if token is None:
            raise Refused("no-token", "no such access token")
        return token

    def _check_privilege(self, privilege: str, caller: Account, *, owner: str | None) -> None:
        own = self.behaviour.has_self_service and owner == caller.auth_id
        if not own and privilege not in caller.privileges:
            raise Refused("privilege", f"{privilege} is needed")

    def _tokens_towards_limit(self, user: Account) -> Iterator[Token]:
        for token in self.tokens.of_user(user.auth_id):
            if self.behaviour.counts_dead_tokens or self._is_live(token):
                yield token

    def _is_live(self, token: Token) -> bool:
        return token.enabled and (token.expiration_time is None or token.expiration_time > self.clock())


def _is_same_value(own: object, given: object) -> bool:
    r"""Compare two fields; `jane` and `jane@corp.example.com` also agree with the account `CORP\jane`."""
    if isinstance(own, str) and isinstance(given, str):
        own, given = own.casefold(), given.casefold()
        return not {given, _format_down_level_name(given)}.isdisjoint({own, own.rpartition("\\")[2]})
    return own == given


def _format_down_level_name(name: str) -> str:
    r"""Return `corp\jane` for `jane@corp.example.com`: the short name of a domain is usually its first label."""
    user, at, realm = name.rpartition("@")
    return f"{realm.partition('.')[0]}\\{user}" if at else name
