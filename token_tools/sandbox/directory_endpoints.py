"""The embedded cluster's endpoints for what `qq` needs to make a service account: login, users, roles, privileges.

Source: `qumulo-api` 7.10, whose `qq` the tests run against this. Which privileges a real cluster asks for here is not
known.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import AfterValidator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from token_tools.sandbox.cluster import Account, Cluster, Refused
from token_tools.sandbox.directory import (
    LOCAL_SID,
    PRIVILEGES,
    ROLE_READ_PRIVILEGE,
    ROLE_WRITE_PRIVILEGE,
    USER_WRITE_PRIVILEGE,
    Role,
)
from token_tools.sandbox.requests import Body, IdentityBody, authenticate, read_body


def _validate_privilege(name: str) -> str:
    if name not in PRIVILEGES:
        raise ValueError("there is no such privilege")
    return name


Privilege = Annotated[str, AfterValidator(_validate_privilege)]


class _LoginBody(Body):
    username: str
    password: str


class _UserBody(Body):
    name: str
    primary_group: str
    password: str
    uid: str = ""
    home_directory: str | None = None


class _RoleBody(Body):
    name: str
    description: str
    privileges: frozenset[Privilege] = frozenset()


class _RoleChange(Body):
    description: str | None = None
    privileges: frozenset[Privilege] | None = None


def list_directory_routes(cluster: Cluster) -> list[Route]:
    """Return the endpoints for the users and roles of one cluster."""
    api = _Endpoints(cluster)
    return [
        Route("/v1/session/login", api.log_in, methods=["POST"]),
        Route("/v1/session/roles", api.list_own_roles, methods=["GET"]),
        Route("/v1/users/", api.add_user, methods=["POST"]),
        Route("/v1/auth/privileges/", api.list_privileges, methods=["GET"]),
        Route("/v1/auth/roles/", api.list_roles, methods=["GET"]),
        Route("/v1/auth/roles/", api.create_role, methods=["POST"]),
        Route("/v1/auth/roles/{role}", api.get_role, methods=["GET"]),
        Route("/v1/auth/roles/{role}", api.modify_role, methods=["PATCH"]),
        Route("/v1/auth/roles/{role}/members", api.list_members, methods=["GET"]),
        Route("/v1/auth/roles/{role}/members", api.add_member, methods=["POST"]),
    ]


@dataclass(frozen=True)
class _Endpoints:
    """One method for each endpoint; it answers with status 200 or raises `Refused`."""

    cluster: Cluster

    async def log_in(self, request: Request) -> Response:
        body = await read_body(_LoginBody, request)
        bearer_token = self.cluster.log_in(body.username, body.password)
        return JSONResponse({"bearer_token": bearer_token})

    async def list_own_roles(self, request: Request) -> Response:
        """Answer with the caller's roles, which `qq who_am_i` asks for."""
        return JSONResponse(self.cluster.directory.list_roles_of(authenticate(self.cluster, request).account.auth_id))

    async def add_user(self, request: Request) -> Response:
        self._check_privilege(request, USER_WRITE_PRIVILEGE)
        body = await read_body(_UserBody, request)
        if self.cluster.find_local_account(body.name):
            raise Refused("exists", "there is such a user, or such a group")
        auth_id = self._choose_auth_id()
        self.cluster.add_account(Account(auth_id, "LOCAL", body.name, sid=f"{LOCAL_SID}-{auth_id}"))
        self.cluster.directory.set_password(auth_id, body.password)
        return JSONResponse(
            {"id": auth_id, "sid": f"{LOCAL_SID}-{auth_id}", "can_change_password": True}
            | body.model_dump(exclude={"password"})
        )

    async def list_privileges(self, request: Request) -> Response:
        authenticate(self.cluster, request)
        return JSONResponse(PRIVILEGES)

    async def list_roles(self, request: Request) -> Response:
        self._check_privilege(request, ROLE_READ_PRIVILEGE)
        return JSONResponse({name: _render_role(role) for name, role in self.cluster.directory.roles.items()})

    async def create_role(self, request: Request) -> Response:
        self._check_privilege(request, ROLE_WRITE_PRIVILEGE)
        body = await read_body(_RoleBody, request)
        if body.name in self.cluster.directory.roles:
            raise Refused("exists", "there is such a role")
        role = self.cluster.directory.roles[body.name] = Role(body.description, body.privileges)
        return JSONResponse({"name": body.name, **_render_role(role)})

    async def get_role(self, request: Request) -> Response:
        self._check_privilege(request, ROLE_READ_PRIVILEGE)
        return JSONResponse(_render_role(self._get_role(request)))

    async def modify_role(self, request: Request) -> Response:
        self._check_privilege(request, ROLE_WRITE_PRIVILEGE)
        changes = (await read_body(_RoleChange, request)).model_dump(exclude_none=True)
        role = self._replace_role(request, replace(self._get_role(request), **changes))
        return JSONResponse(_render_role(role))

    async def list_members(self, request: Request) -> Response:
        self._check_privilege(request, ROLE_READ_PRIVILEGE)
        members = sorted(self._get_role(request).members & self.cluster.accounts.keys())
        return JSONResponse(
            {
                "members": {auth_id: self.cluster.accounts[auth_id].identity() for auth_id in members},
                "paging": {"next": None},
            }
        )

    async def add_member(self, request: Request) -> Response:
        self._check_privilege(request, ROLE_WRITE_PRIVILEGE)
        role = self._get_role(request)
        account = self.cluster.resolve_account((await read_body(IdentityBody, request)).model_dump())
        self._replace_role(request, replace(role, members=role.members | {account.auth_id}))
        return JSONResponse(account.identity())

    def _check_privilege(self, request: Request, privilege: str) -> None:
        if privilege not in authenticate(self.cluster, request).account.privileges:
            raise Refused("privilege", f"{privilege} is needed")

    def _get_role(self, request: Request) -> Role:
        role = self.cluster.directory.roles.get(request.path_params["role"])
        if role is None:
            raise Refused("no-role", "no such role")
        return role

    def _replace_role(self, request: Request, role: Role) -> Role:
        self.cluster.directory.roles[request.path_params["role"]] = role
        return role

    def _choose_auth_id(self) -> str:
        """Return the number of the next local user; the first one that somebody adds is 1001 or more."""
        local = [int(account.auth_id) for account in self.cluster.accounts.values() if account.domain == "LOCAL"]
        return str(max([1000, *local]) + 1)


def _render_role(role: Role) -> Mapping[str, object]:
    return {"description": role.description, "privileges": sorted(role.privileges)}
