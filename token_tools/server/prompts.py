"""Two short guided workflows on top of the tools, for clients that show prompts."""

from typing import Annotated, Final

from mcp.server.mcpserver.prompts import Prompt
from pydantic import Field

from token_tools.quoting import quote_untrusted

DEFAULT_EXPIRING_WITHIN: Final = "30d"
MAX_PROMPT_ARGUMENT_CHARS: Final = 200
"""Characters of an argument that a person typed into a prompt; the rest is cut."""


def review_tokens(
    expiring_within: Annotated[
        str, Field(description="How soon is soon to expire, such as 30d")
    ] = DEFAULT_EXPIRING_WITHIN,
) -> str:
    """Return what a person says who wants to look through all tokens."""
    soon = quote_untrusted(expiring_within or DEFAULT_EXPIRING_WITHIN, max_chars=MAX_PROMPT_ARGUMENT_CHARS)
    return (
        f"Review the access tokens. Call audit_access_tokens with expiring_within {soon}. Tell me first "
        "how many tokens there are, then the findings in their order: what each means here, the worst few "
        "by user, and what you would do. Tell what cannot be known. Change nothing yet: propose the calls, the most "
        "urgent first, and wait for me to choose."
    )


def rotate_token(
    token: Annotated[str, Field(description="Id of the token, or the user whose token it is, such as local:jane")],
) -> str:
    """Return what a person says who wants to replace a token."""
    return (
        f"Rotate an access token: {quote_untrusted(token, max_chars=MAX_PROMPT_ARGUMENT_CHARS)}. If that is "
        "not an id, find the user's "
        "tokens with list_access_tokens, and ask me which one if there are two. If the tools take a cluster, ask me "
        "first which one it is on. Look at it with get_access_token, and "
        "tell me whose it is and when it expires. Then call rotate_access_token, and tell me where the new bearer "
        "token is. Stop there until I say that it is in use and works. Then disable the old token with "
        "update_access_token; only when I say that nothing broke, delete it with delete_access_token. Never ask me for "
        "a bearer token."
    )


# The descriptions are no docstrings, because Python can be told to leave those out.
READ_PROMPTS: Final = (
    Prompt.from_function(
        review_tokens,
        title="Review access tokens",
        description="Look for access tokens that are a risk, and decide together what to do.",
    ),
)
CREATING_PROMPTS: Final = (
    Prompt.from_function(
        rotate_token,
        title="Rotate an access token",
        description="Replace an access token by a new one without an outage.",
    ),
)
