"""What every endpoint of the embedded cluster reads of a request: who asks, and a body of the published form."""

import json
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from token_tools.cluster.identity import Domain
from token_tools.sandbox.cluster import Caller, Cluster, RefusalReason, Refused


class Body(BaseModel):
    """The JSON of a request: no unknown fields, and only the published types."""

    model_config = ConfigDict(extra="forbid", frozen=True)


PosixId = Annotated[int, Field(ge=0, lt=2**32, strict=True)]


class IdentityBody(Body):
    """A user or a group, by one field or by several that agree."""

    domain: Domain | None = None
    auth_id: Annotated[str, Field(pattern=r"^[0-9]+$")] | None = None
    uid: PosixId | None = None
    gid: PosixId | None = None
    sid: str | None = None
    name: str | None = None


Model = TypeVar("Model", bound=BaseModel)


def authenticate(cluster: Cluster, request: Request) -> Caller:
    """Return who sends a request.

    Raises:
        Refused: If its bearer token does not work, or there is none.
    """
    scheme, _, bearer_token = request.headers.get("Authorization", "").partition(" ")
    caller = cluster.find_caller(bearer_token) if scheme == "Bearer" else None
    if caller is None:
        raise Refused("login", "Need to log in first")
    return caller


def validate(model: type[Model], content: object) -> Model:
    """Return the content as the model.

    Raises:
        Refused: If it does not fit.
    """
    try:
        return model.model_validate(content)
    except ValidationError as invalid:
        [first, *_] = invalid.errors(include_url=False)
        reason: RefusalReason = "bad-time" if first["loc"] == ("expiration_time",) else "decode"
        raise Refused(reason, f"field '{'.'.join(map(str, first['loc']))}': {first['msg']}") from None


async def read_body(model: type[Model], request: Request) -> Model:
    """Return the body of a request as the model.

    Raises:
        Refused: If it is no JSON, or does not fit.
    """
    try:
        content = json.loads((await request.body()).decode())
    except (ValueError, RecursionError):
        raise Refused("decode", "the body is not JSON") from None
    return validate(model, content)
