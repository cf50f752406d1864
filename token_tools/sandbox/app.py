"""The embedded cluster's REST endpoints, with the vendor's own JSON, paging and envelope of errors.

Source: the published pages of the endpoints; `qumulo-api` 7.10, which the tests run against this.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from pydantic import AwareDatetime, BeforeValidator, Field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from token_tools.sandbox.cluster import LOOKUP_PRIVILEGE, Account, Cluster, RefusalReason, Refused, Token
from token_tools.sandbox.directory_endpoints import list_directory_routes
from token_tools.sandbox.requests import Body, IdentityBody, authenticate, read_body, validate

TOKENS_PATH: Final = "/v1/auth/access-tokens/"

START_CURSOR: Final = "0"
_CURSOR_MARK: Final = "key."
"""What a cursor begins with. In base64, digits are equal to a part of some secret by chance once in a while."""
"""A cursor that sorts before the id of every token."""

_POSIX_ID: Final = re.compile(r"[0-9]{1,10}")
_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)
_DOMAIN_BY_PREFIX: Final = {"local": "LOCAL", "ad": "ACTIVE_DIRECTORY", "ldap_user": "POSIX_USER"}


def _require_rfc_3339(value: object) -> object:
    """Return the value if it is a time in the published notation; pydantic alone also takes seconds since 1970."""
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise ValueError("must be a time as RFC 3339 writes it, with an offset")
    return value


Instant = Annotated[AwareDatetime, BeforeValidator(_require_rfc_3339)]


class _CreateBody(Body):
    user: IdentityBody
    expiration_time: Instant | None = None


class _UpdateBody(Body):
    expiration_time: Instant | None = None
    enabled: Annotated[bool, Field(strict=True)] = True


class _ListQuery(Body):
    user: str | None = None
    after: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None


class _ExpandBody(Body):
    id: IdentityBody


def create_app(cluster: Cluster) -> Starlette:
    """Return the endpoints of one cluster as an application.

    A path needs the trailing slash that it is published with, or none; there is no redirect to the other form.
    """
    api = _Endpoints(cluster)
    app = Starlette(
        routes=[
            Route(TOKENS_PATH, api.list_tokens, methods=["GET"]),
            Route(TOKENS_PATH, api.create_token, methods=["POST"]),
            Route(TOKENS_PATH + "{token_id}", api.get_token, methods=["GET"]),
            Route(TOKENS_PATH + "{token_id}", api.update_token, methods=["PATCH"]),
            Route(TOKENS_PATH + "{token_id}", api.delete_token, methods=["DELETE"]),
            Route("/v1/session/who-am-i", api.who_am_i, methods=["GET"]),
            Route("/v1/identity/find", api.find_identity, methods=["POST"]),
            Route("/v1/auth/identity/find", api.find_identity, methods=["POST"]),
            Route("/v1/identity/expand", api.expand_identity, methods=["POST"]),
            Route("/v1/version", api.get_version, methods=["GET"]),
            *list_directory_routes(cluster),
        ],
        exception_handlers={Refused: api.render_refusal, HTTPException: api.render_routing_error},
    )
    app.router.redirect_slashes = False
    return app


@dataclass(frozen=True)
class _Endpoints:
    """One method for each endpoint; it answers with status 200 or raises `Refused`."""

    cluster: Cluster

    async def list_tokens(self, request: Request) -> Response:
        caller = authenticate(self.cluster, request).account
        query = validate(_ListQuery, dict(request.query_params))
        if (
            query.user is not None
            and (query.after or query.limit)
            and not self.cluster.behaviour.allows_user_with_limit
        ):
            raise Refused("decode", "user cannot be combined with limit or after")
        user = None if query.user is None else self._resolve_user_filter(query.user)
        start = _decode_cursor(query.after) if query.after else START_CURSOR
        limit = min(query.limit or self.cluster.behaviour.default_page_size, self.cluster.behaviour.max_page_size)
        tokens = self.cluster.list_tokens(caller, user, cursor=start, limit=limit + 1)
        page, has_more = tokens[:limit], len(tokens) > limit
        last = page[-1].id if page else start
        cursor = last if has_more else self._choose_end_cursor(start, last)
        link = None if cursor is None else self._render_next_link(request, query, cursor, limit)
        return JSONResponse(
            {"entries": [self._render_token(token, in_list=True) for token in page]} | self._render_paging(link)
        )

    async def create_token(self, request: Request) -> Response:
        caller = authenticate(self.cluster, request).account
        body = await read_body(_CreateBody, request)
        self._check_fields_known(body.model_fields_set)
        user = self.cluster.resolve_account(body.user.model_dump())
        token = self.cluster.create_token(caller, user, body.expiration_time)
        return JSONResponse({"id": token.id, "bearer_token": token.bearer_token})

    async def get_token(self, request: Request) -> Response:
        caller = authenticate(self.cluster, request).account
        return JSONResponse(self._render_token(self.cluster.get_token(caller, request.path_params["token_id"])))

    async def update_token(self, request: Request) -> Response:
        caller = authenticate(self.cluster, request).account
        changes = (await read_body(_UpdateBody, request)).model_dump(exclude_unset=True)
        self._check_fields_known(changes.keys())
        if not changes and not self.cluster.behaviour.allows_empty_update:
            raise Refused("decode", "nothing to change")
        if changes.get("expiration_time", ...) is None and not self.cluster.behaviour.allows_clearing_expiry:
            raise Refused("bad-time", "expiration_time cannot be null")
        return JSONResponse(
            self._render_token(self.cluster.update_token(caller, request.path_params["token_id"], changes))
        )

    async def delete_token(self, request: Request) -> Response:
        caller = authenticate(self.cluster, request).account
        self.cluster.delete_token(caller, request.path_params["token_id"])
        return Response()

    async def who_am_i(self, request: Request) -> Response:
        caller, access_token_id = authenticate(self.cluster, request)
        return JSONResponse(
            {
                "id": caller.auth_id,
                "name": caller.name,
                "primary_group": "513",
                "sid": caller.sid,
                "uid": "" if caller.uid is None else str(caller.uid),
                "home_directory": None,
                "can_change_password": caller.domain == "LOCAL",
                "privileges": sorted(caller.privileges),
            }
            | ({} if access_token_id is None else {"access_token_id": access_token_id})
        )

    async def find_identity(self, request: Request) -> Response:
        caller = authenticate(self.cluster, request).account
        if self.cluster.behaviour.lookup_needs_privilege and LOOKUP_PRIVILEGE not in caller.privileges:
            raise Refused("privilege", f"{LOOKUP_PRIVILEGE} is needed")
        identity = await read_body(IdentityBody, request)
        return JSONResponse(self.cluster.resolve_account(identity.model_dump()).identity())

    async def expand_identity(self, request: Request) -> Response:
        authenticate(self.cluster, request)
        account = self.cluster.resolve_account((await read_body(_ExpandBody, request)).id.model_dump())
        kind = "GROUP" if account.is_group else "USER"
        return JSONResponse({"id": account.identity(), "type": kind, "group_ids": [], "equivalent_ids": []})

    async def get_version(self, _request: Request) -> Response:
        revision = f"Qumulo Core {self.cluster.behaviour.version}"
        return JSONResponse(
            {"revision_id": revision, "build_id": "000000.0", "flavor": "release", "build_date": "2026-01-01T00:00:00Z"}
        )

    async def render_refusal(self, _request: Request, refusal: Exception) -> Response:
        """Return a refusal in the vendor's envelope."""
        assert isinstance(refusal, Refused)  # noqa: S101 - Starlette calls this for no other exception
        status, error_class = self.cluster.behaviour.refusals[refusal.reason]
        if refusal.reason == "login" and not self.cluster.behaviour.has_body_of_401:
            return Response(status_code=status)
        envelope: dict[str, object] = {
            "module": "sandbox",
            "error_class": error_class,
            "description": refusal.description,
            "stack": [],
            "user_visible": True,
        }
        return JSONResponse(envelope, status_code=status)

    async def render_routing_error(self, request: Request, failure: Exception) -> Response:
        """Return the refusal of a path that does not exist, or that does not have this method."""
        assert isinstance(failure, HTTPException)  # noqa: S101 - Starlette calls this for no other exception
        reason: RefusalReason = "no-path" if failure.status_code == HTTPStatus.NOT_FOUND else "method"
        return await self.render_refusal(
            request, Refused(reason, f"{request.method} {request.url.path}: {failure.detail}")
        )

    def _check_fields_known(self, fields: Iterable[str]) -> None:
        """Refuse fields that are newer than the version of this cluster."""
        behaviour = self.cluster.behaviour
        known = {"expiration_time": behaviour.has_expiry, "enabled": behaviour.has_enabled}
        for field in sorted(fields):
            if not known.get(field, True):
                raise Refused("decode", f"unknown field '{field}'")

    def _resolve_user_filter(self, text: str) -> Account:
        return self.cluster.resolve_account(validate(IdentityBody, self._parse_user_filter(text)).model_dump())

    def _parse_user_filter(self, text: str) -> dict[str, Any]:
        """Return the fields of an identity that a `user` filter gives.

        It is a name, a SID, or has one of the prefixes `uid:`, `gid:`, `auth_id:`, `sid:`, `name:`; the prefix of a
        domain counts only if the behaviour allows it.
        """
        prefix, colon, rest = text.partition(":")
        key = prefix.lower()
        if colon and key in _DOMAIN_BY_PREFIX and self.cluster.behaviour.allows_domain_prefixes:
            return {"domain": _DOMAIN_BY_PREFIX[key], "name": rest}
        if colon and key in {"uid", "gid"} and _POSIX_ID.fullmatch(rest):
            return {key: int(rest)}
        if colon and key in {"auth_id", "sid", "name"}:
            return {key: rest}
        return {"sid": text} if text.upper().startswith("S-1-") else {"name": text}

    def _render_token(self, token: Token, *, in_list: bool = False) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "id": token.id,
            "user": self._render_identity(token.user, in_list=in_list),
            "creator": self._render_identity(token.creator, in_list=in_list),
            "creation_time": _format_time(token.creation_time, token.creation_nanoseconds),
        }
        if self.cluster.behaviour.has_expiry:
            fields["expiration_time"] = token.expiration_time and _format_time(token.expiration_time)
        if self.cluster.behaviour.has_enabled:
            fields["enabled"] = token.enabled
        return fields

    def _render_identity(self, auth_id: str, *, in_list: bool) -> Mapping[str, object]:
        account = self.cluster.accounts.get(auth_id)
        if account is None or (in_list and self.cluster.behaviour.sparse_identities):
            return {"domain": None, "auth_id": auth_id, "uid": None, "gid": None, "sid": None, "name": None}
        return account.identity()

    def _choose_end_cursor(self, start: str, last: str) -> str | None:
        """Return the cursor on the last page; None unless the behaviour is that paging never ends."""
        return {"empty-pages": last, "repeated": start}.get(self.cluster.behaviour.end_of_paging)

    def _render_paging(self, link: str | None) -> dict[str, Any]:
        if link is not None:
            return {"paging": {"next": link}}
        ends: dict[str, dict[str, Any]] = {
            "null": {"paging": {"next": None}},
            "empty": {"paging": {"next": ""}},
            "no-next": {"paging": {}},
            "null-paging": {"paging": None},
            "no-paging": {},
        }
        return ends[self.cluster.behaviour.end_of_paging]

    def _render_next_link(self, request: Request, query: _ListQuery, cursor: str, limit: int) -> str:
        user = {"user": query.user} if query.user else dict[str, str]()
        link = f"{TOKENS_PATH}?{urlencode({**user, 'after': f'{_CURSOR_MARK}{cursor}', 'limit': limit})}"
        return (
            f"{request.url.scheme}://{request.url.netloc}{link}" if self.cluster.behaviour.has_absolute_links else link
        )


def _decode_cursor(text: str) -> str:
    mark, cursor = text[: len(_CURSOR_MARK)], text[len(_CURSOR_MARK) :]
    if mark != _CURSOR_MARK or not (cursor.isascii() and cursor.isdecimal()):
        raise Refused("decode", "after is not a key")
    return cursor


def _format_time(instant: datetime, nanoseconds: int = 0) -> str:
    """Return the time in UTC; its fraction has up to nine digits, without trailing zeros, or is left out."""
    whole = instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    return f"{whole}{nanoseconds:03}".rstrip("0").rstrip(".") + "Z"
