"""Which user is meant by what a caller wrote."""

from typing import Literal, NamedTuple

from token_tools.cluster.identity import HOW_TO_WRITE_A_USER, SELF, Identity, bare_name, format_name
from token_tools.errors import BadAnswer, ClusterError, Forbidden, NotFound, Refusal, Rejected
from token_tools.operations.services import Services

User = Identity | Literal["self"]
"""A user as a caller writes one."""


class MeantUser(NamedTuple):
    """The user whom a caller means, with all that the cluster tells of them.

    Where the cluster tells nothing, `identity` is what the caller wrote and `lookup_error` says why.
    """

    identity: Identity
    lookup_error: ClusterError | None = None

    @property
    def is_not_found(self) -> bool:
        """Whether the look-up ended with an answer that may mean that there is no such user."""
        return isinstance(self.lookup_error, NotFound | Rejected)


async def identify(services: Services, user: User) -> MeantUser:
    """Return the user whom a caller means.

    Raises:
        Refusal: If the cluster takes what was written for somebody else, or if `self` means nobody.
        ClusterError: If the cluster cannot be asked.
    """
    asked = await _find_self(services) if user == SELF else user
    try:
        found = await services.cluster.resolve_identity(asked)
    except (Forbidden, NotFound, Rejected) as failure:
        return MeantUser(asked, failure)
    merged = asked.merged_with(found)
    if merged is None:
        raise Refusal(f"The cluster takes {asked} for {found}, which is somebody else. Write the user differently.")
    if not asked.shares_identifier_with(found):
        # Nothing in the answer shows that it is about the user who was asked for.
        return MeantUser(asked, BadAnswer("The cluster's answer has nothing in common with what was asked for."))
    return MeantUser(merged)


async def _find_self(services: Services) -> Identity:
    match services.caller.is_self:
        case None:
            raise Refusal(
                "`self` means nobody here: this server does not know which user of the cluster you are. Name the user."
            )
        case "self":
            return (await services.cluster.who_am_i()).identity
        case user:
            return user


def render_identity_caveat(asked: User, meant: MeantUser) -> str | None:
    """Render why it is not certain who is meant; None if it is certain."""
    if not isinstance(asked, Identity):
        return None
    if meant.lookup_error is not None:
        return "the cluster did not tell who that is"
    name = meant.identity.name
    if asked.name and name and not _may_be_same_name(asked.name, name):
        return f"the cluster calls that user {format_name(name)}, and not {format_name(asked.name)}"
    return None


def _may_be_same_name(asked: str, found: str) -> bool:
    # A distinguished name (`CN=…`) cannot be compared.
    return "=" in asked + found or bare_name(asked) == bare_name(found)


def explain_missing_user(asked: User, meant: MeantUser, hint: str = "") -> NotFound:
    """Explain that the cluster finds no such user, and how to write the user instead; `hint` goes at the end."""
    user = meant.identity
    if asked == SELF:
        better = "That is whom `self` means here: another spelling does not help."
    elif user.name is None:
        better = "A deleted user is not found any more; if they are not deleted, check the number."
    elif isinstance(meant.lookup_error, Rejected) and user.domain is None:
        name = format_name(user.name)
        better = rf"Better say in which domain: local:{name}, ad:DOMAIN\{name} or ldap_user:{name}."
    else:
        better = f"Better {HOW_TO_WRITE_A_USER}."
    # It is not known what a cluster answers to a name that several users have: only NotFound says that there is none.
    is_missing = isinstance(meant.lookup_error, NotFound)
    answer = f"finds no user {user}" if is_missing else f"did not tell which user {user} is"
    return NotFound(f"The cluster {answer}. {meant.lookup_error} {better}{hint}")
