"""Answer a call that names an argument or a tool which does not exist: with what exists, or how else it is done.

An existing name is proposed only where it is similar enough. What models take for granted and does not exist here has a
row in a table: the words that they write for it, and the sentence that answers them.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from token_tools.operations.calls import find_named_cluster
from token_tools.quoting import quote_untrusted

MAX_NAME_CHARS: Final = 40
"""Characters of a name that are repeated in an answer."""

MAX_COMPARED_CHARS: Final = 200
"""Characters of a name that are compared with others."""

MIN_SIMILARITY: Final = 0.85
"""Ratio, from 0 to 1, from which on two names count as the same one, misspelled."""

MIN_FUZZY_CHARS: Final = 4
"""Characters from which on a name may be misspelled. In a shorter one each character counts: `id` is not `uid`."""

_PLURAL_ARGUMENTS: Final = {"ids", "users"}
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")

_CALL_WITHOUT_CLUSTER: Final = re.compile(r"(?<!audit)(_access_tokens?)\((?=(\)?))")
"""A call that needs a cluster where there are several: an audit and the list of changes do without one."""

_ARGUMENT_SYNONYMS: Final = {
    "cluster": "clusters cluster_name cluster_id host hostname server environment instance profile",
    "since": (
        "from start begin start_time start_date from_date after_date since_date changed_since within days hours weeks "
        "period last last_days time_range window"
    ),
    "id": ("token_id token key_id access_token_id token_ids ids old_id old_token old_token_id identifier access_token"),
    "enabled": (
        "disabled active state status disable enable is_enabled is_active new_state is_disabled new_status revoked "
        "is_revoked suspended blocked"
    ),
    "expiring_within": (
        "within days weeks months window expires_within expiring soon threshold days_ahead warn_days horizon"
    ),
    "format": "file_format output_format export_format report_format file_type filetype type output report csv json",
    "state": "status token_state token_status state_filter status_filter filter_state filter_status by_state by_status",
    "user": (
        "username user_name owner identity account name for_user auth_id uid sid domain user_id owner_id "
        "users principal login account_name user_filter filter_user filter_by_user target_user "
        "service_account subject email user_email upn owner_name user_type user_domain domain_name realm directory "
        "account_type on_behalf_of run_as as_user impersonate"
    ),
    "after": (
        "cursor page_token next offset page start_after next_page next_after key page_number next_token starting_after "
        "next_cursor continuation_token after_id after_key start_key marker skip"
    ),
    "limit": "page_size per_page max_results count size first max top top_n max_items max_tokens number_of_results",
    "expiration_time": (
        "ttl expires expiry expires_at expires_in lifetime duration days valid_until valid_for expire_at "
        "expire_in expires_on expiration expiration_date max_lifetime new_expiry new_expiration validity "
        "end_date until extend_by seconds ttl_seconds not_after end_time valid_to max_age"
    ),
}
"""The names that models use for an argument, by the name that it really has."""


class Topic(NamedTuple):
    """Something that models often ask for by an argument, and the sentence that answers them.

    The topic fits a name that has one of `words`. If `is_whole_name`, it fits only a name that has no other word: a
    `sessionId` is not the id of a token. The answer is true for tools whose names begin with one of `verbs`, and for
    all tools if there are none.
    """

    words: frozenset[str]
    answer: str
    verbs: frozenset[str]
    is_whole_name: bool

    def fits(self, words: Sequence[str], tool: str) -> bool:
        """Whether these words of an argument of the tool are about this topic."""
        is_meant = self.words.issuperset(words) if self.is_whole_name else not self.words.isdisjoint(words)
        return bool(words) and is_meant and (not self.verbs or tool.startswith(tuple(self.verbs)))


def _build_topic(words: str, answer: str, verbs: str = "", *, is_whole_name: bool = False) -> Topic:
    return Topic(frozenset(words.split()), answer, frozenset(verbs.split()), is_whole_name)


_TOPICS: Final = (
    _build_topic(
        "operation operations action type kind outcome status state actor who by consent agreed approved question "
        "until to end before limit count max page offset order sort reverse unfinished pending open filter search "
        "query format output",
        "`since`, `user` and `id` narrow the list; each line tells what was done, what came of it, who asked and who "
        "agreed, and what is unfinished comes first.",
        "list_token",
    ),
    _build_topic(
        "action operation op verb command mode",
        "each tool does one thing: update_access_token(id=…, enabled=false) disables a token, enabled=true enables it, "
        "rotate_access_token(id=…) makes a new one beside it, delete_access_token(id=…) deletes it for ever.",
        "update delete rotate",
    ),
    _build_topic(
        "dry preview simulate rehearse whatif plan test trial noop validate",
        "there is no dry run. Where a person has to agree, they are shown first what would be done.",
        "create update delete rotate",
    ),
    _build_topic(
        "soft archive trash recoverable only if unless expired unused condition delay later grace schedule when at "
        "expiration expires expire expiry ttl enabled disabled status state active enable disable",
        "a deletion is for ever, at once, and without conditions. update_access_token(id=…, enabled=false) stops a "
        "token and can be undone; get_access_token(id=…) tells how it is.",
        "delete",
    ),
    _build_topic(
        "schedule scheduled delay delayed start starts later begin cron interval when before",
        "what is called is done at once; nothing can be scheduled.",
        "create update rotate",
    ),
    _build_topic(
        "report reports format output file filename export csv json save download path folder directory dir",
        "an audit writes no file; export_access_tokens(format=…) writes one of all tokens, where the operator "
        "allows it.",
        "audit",
    ),
    _build_topic(
        "user users username owner expiring expiration expires within days state status enabled disabled filter "
        "only finding findings columns fields limit after sort all include",
        "the file has all tokens of the cluster, with every column and finding; list_access_tokens(state=…, user=…) "
        "lists some.",
        "export",
    ),
    _build_topic(
        "confirm confirmed confirmation force yes approve approved approval consent agree agreed acknowledge sure "
        "bypass override",
        "whether a person has to agree is the operator's to say, and this server asks them itself.",
    ),
    _build_topic(
        "bearer secret secrets password credential credentials passphrase authorization jwt value api apikey",
        "no argument takes or shows a secret. This server has its own from its operator, and nobody can read that of "
        "an existing token again.",
    ),
    _build_topic(
        "cluster clusters host hostname server endpoint url port region tenant profile environment instance",
        "which clusters this server serves, and how, is the operator's to say.",
    ),
    _build_topic(
        "ttl expires expire expiry expiration lifetime valid validity never permanent duration hours days weeks months "
        "years",
        'how long a token lives is said by `expiration_time`, such as "90d" or "never".',
        "create update rotate",
    ),
    _build_topic(
        "old grace overlap existing previous keep revoke retire delete auto replace purge",
        "the old token stays alive. What follows are calls of their own: update_access_token(id=…, enabled=false), and "
        "when nothing broke delete_access_token(id=…).",
        "create rotate",
    ),
    _build_topic(
        "user users username owner owners account principal login uid sid domain",
        "whose a token is never changes; list_access_tokens(user=…) lists a user's tokens with their ids.",
        "get update delete rotate",
    ),
    _build_topic(
        "user users username owner owners account principal login uid sid domain",
        "an audit looks at all users; list_access_tokens(user=…) lists one user's tokens.",
        "audit",
    ),
    _build_topic(
        "reason justification ticket comment note notes requester actor",
        "nothing can be noted with a token or a call.",
    ),
    _build_topic(
        "used usage unused label labels title description purpose tag tags metadata scope scopes permission "
        "permissions privilege privileges role roles rights grants readonly ip ips cidr allowlist group groups "
        "name names",
        "access tokens have no names, descriptions, scopes, roles or addresses here, and nothing tells when one was "
        "last used. A token is known by its id and its user, and may do what they may.",
    ),
    _build_topic(
        "sort order orderby sortby ordering reverse direction descending ascending desc asc",
        "the order cannot be chosen: it is the cluster's own, and with `state` fixed, such as the soonest first with "
        'state="expiring".',
        "list_access",
    ),
    _build_topic(
        "sort order orderby sortby ordering reverse direction descending ascending desc asc",
        "the order is the cluster's own and cannot be chosen.",
    ),
    _build_topic(
        "limit page after offset cursor max top count size first per next token tokens results items n number start "
        "key",
        "an audit reads all tokens in one call.",
        "audit",
        is_whole_name=True,
    ),
    _build_topic(
        "count number quantity copies amount",
        "one call is about one token.",
        "create update delete rotate",
    ),
    _build_topic(
        "path folder directory delivery deliver destination save inline output file filename return show print reveal "
        "vault keyring store",
        "where files and new bearer tokens go is the operator's to say; the answer names the place.",
        "export create rotate",
    ),
    _build_topic(
        "status state filter filters query search q where expired expires expiring expiry expiration within disabled "
        "enabled active inactive valid live old older newer before after since until from created creator age stale "
        "permanent suspended revoked updated modified lifetime expire "
        "type match contains pattern days only include date finding findings severity risk category",
        "tokens cannot be filtered by that. list_access_tokens lists those of a `state` (expiring, expired, "
        "never_expires or disabled) or of one `user`, and audit_access_tokens finds what is a risk, such as old ones.",
        "list_access audit",
    ),
    _build_topic(
        "enabled disabled status state active enable disable",
        "a new token is enabled; update_access_token(id=…, enabled=false) disables one.",
        "create rotate",
    ),
    _build_topic(
        "ids users tokens bulk batch all everyone", "one call is about one token.", "create update delete rotate"
    ),
    _build_topic(
        "arguments args params parameters input kwargs body payload request data json options update updates change "
        "changes values v",
        "write the arguments themselves, not inside another.",
        is_whole_name=True,
    ),
    _build_topic(
        "fields columns field format output verbose details detail expand select full raw include",
        "the answer is always whole, and of one form.",
    ),
    _build_topic("timezone tz locale language", "times are told in UTC."),
    _build_topic(
        "id token ids access",
        "get_access_token(id=…) tells of one token.",
        "list_access audit",
        is_whole_name=True,
    ),
    _build_topic(
        "id token ids access",
        "a new token gets its id from the cluster; rotate_access_token(id=…) makes one beside an old one.",
        "create",
        is_whole_name=True,
    ),
)
"""The first topic that fits gives the answer."""

_USER_FORMS_TOPIC: Final = _build_topic(
    "domain realm directory auth uid sid id identity type",
    r"it says domain and number too: local:NAME, ad:DOMAIN\NAME, ldap_user:NAME, uid:N, auth_id:N or sid:S-1-….",
)
"""For parts of a user, such as the domain, where the user is given as well. Without them it could be another user."""

_EXTENSION_WORDS: Final = frozenset(["extend", "extension", "by", "additional", "add", "plus", "more", "increase"])
_FROM_NOW_NOTE: Final = " A duration counts from now, not from the present expiry, which get_access_token tells."


class ToolWords(NamedTuple):
    """Words that models use for a tool that has another name, and the sentence that answers them.

    The words fit unless the name has one of `unless` as well. `verb` begins the name of the tool that does what is
    asked for, None if no tool does it.
    """

    verb: str | None
    words: frozenset[str]
    answer: str
    unless: frozenset[str]

    def fits(self, words: Sequence[str]) -> bool:
        """Whether a name with these words asks for this."""
        return not self.words.isdisjoint(words) and self.unless.isdisjoint(words)


def _build_tool_words(verb: str | None, words: str, answer: str, *, unless: frozenset[str] = frozenset()) -> ToolWords:
    return ToolWords(verb, frozenset(words.split()), answer, unless)


_TOKEN_WORDS: Final = frozenset(
    ["token", "tokens", "key", "keys", "credential", "credentials", "whoami", "me", "self", "current"]
)

_TOOL_WORDS: Final = (
    _build_tool_words(
        None,
        "user users account accounts group groups identity role roles privilege privileges permission permissions "
        "password passwords",
        "no tool tells of users or changes them; list_access_tokens(user=…) lists a user's tokens",
        unless=_TOKEN_WORDS,
    ),
    _build_tool_words(
        None, "cluster node nodes version system server", "no tool tells of the cluster itself", unless=_TOKEN_WORDS
    ),
    _build_tool_words(
        None,
        "file files folder folders directory directories snapshot snapshots share shares quota quotas",
        "the tools are for access tokens alone",
        unless=_TOKEN_WORDS,
    ),
    _build_tool_words(
        "list_token_changes",
        "log logs history changes events journal activity record records timeline who unfinished",
        "list_token_changes() lists what was done through this server, with user=… or id=… that of one user or token",
    ),
    _build_tool_words(
        None, "rename label tag annotate name", "access tokens have no names, labels or descriptions here"
    ),
    _build_tool_words(None, "transfer assign reassign", "whose a token is never changes"),
    _build_tool_words(
        None, "confirm approve agree consent", "where a person has to agree, this server asks them itself"
    ),
    _build_tool_words(
        "update",
        "restore recover undelete unrevoke undo revert",
        "update_access_token(id=…, enabled=true) enables a token that was disabled; nothing brings a deleted one back",
    ),
    _build_tool_words(
        "update",
        "disable deactivate suspend block lock pause",
        "update_access_token(id=…, enabled=false) disables a token",
    ),
    _build_tool_words(
        "update",
        "enable activate reactivate unlock unblock resume",
        "update_access_token(id=…, enabled=true) enables a token",
    ),
    _build_tool_words(
        "delete",
        "revoke invalidate remove destroy erase purge cancel kill drop delete del",
        "update_access_token(id=…, enabled=false) stops a token and can be undone, delete_access_token(id=…) cannot",
    ),
    _build_tool_words(
        "rotate",
        "regenerate refresh reissue rotate replace roll rollover recreate reset",
        "rotate_access_token(id=…) makes a new token beside an old one",
    ),
    _build_tool_words(
        "update",
        "renew extend prolong postpone expire",
        "update_access_token(id=…, expiration_time=…) moves the expiry of a token",
    ),
    _build_tool_words(
        "update",
        "edit modify change set patch update",
        "update_access_token(id=…) changes a token: enabled, expiration_time, or both",
    ),
    _build_tool_words(
        "create", "make generate new issue mint add create post", "create_access_token(user=…) creates a token"
    ),
    _build_tool_words(
        "export",
        "export download csv dump",
        'export_access_tokens(format="csv") writes a file of all tokens, format="json" likewise',
    ),
    _build_tool_words(
        "audit",
        "audit report check scan stale unused old review summary stats count risk risks health",
        "audit_access_tokens() looks at all tokens and tells what is a risk",
    ),
    _build_tool_words(
        "list",
        "expiring expired disabled inactive permanent",
        "list_access_tokens(state=…) lists the tokens that are expiring, expired, never_expires or disabled",
    ),
    _build_tool_words(
        "list", "whoami me self current", 'list_access_tokens(user="self") lists the tokens of whoever this server is'
    ),
    _build_tool_words(
        "list",
        "list search find query tokens user users owner",
        "list_access_tokens() lists all tokens, with user=… those of one user",
    ),
    _build_tool_words(
        "get",
        "bearer secret reveal value",
        "nobody can read the bearer token of an existing token; get_access_token(id=…) tells all else of it",
    ),
    _build_tool_words(
        "get",
        "get show describe read view lookup inspect details info fetch validate verify introspect status token",
        "get_access_token(id=…) tells of a token",
    ),
)
"""The first row that fits gives the answer."""


def render_unknown_argument(
    tool: str, name: str, properties: Mapping[str, Mapping[str, Any]], given: Collection[str]
) -> str:
    """Return what to write instead of an argument that a tool does not have.

    `given` are the names of all arguments of the call. One that is given already is not what was meant.
    """
    words = _split_words(name)
    meant = _find_intended_argument("_".join(words), properties)
    problem = f"{tool} has no argument {quote_untrusted(name, max_chars=MAX_NAME_CHARS)}"
    takes = f"It takes {', '.join(properties)}."
    if meant is not None and meant not in given:
        one = ", one a call" if not _PLURAL_ARGUMENTS.isdisjoint(words) else ""
        note = "" if meant != "expiration_time" or _EXTENSION_WORDS.isdisjoint(words) else _FROM_NOW_NOTE
        return f"{problem}; nearest is `{meant}`{one}: {properties[meant]['description']}{note} {takes}"
    topics = [_USER_FORMS_TOPIC] if meant == "user" and _USER_FORMS_TOPIC.fits(words, tool) else _TOPICS
    answers = (topic.answer for topic in topics if topic.fits(words, tool))
    already = "" if meant is None else f"`{meant}` is given already; "
    answer = name_clusters(next(answers, "leave this out."), properties)
    return f"{problem}: {already}{answer} {takes}"


def render_unknown_tool(name: str, offered: Sequence[str], withheld: Mapping[str, str]) -> str:
    """Return what to call instead of a tool that does not exist.

    `withheld` says for each tool that this server does not offer why it does not.
    """
    problem = f"There is no tool {quote_untrusted(name, max_chars=MAX_NAME_CHARS)}"
    tools = f"The tools are {', '.join(offered)}."
    tool, answer = _find_tool(_split_words(name), [*offered, *withheld])
    if tool is not None and tool in withheld:
        return f"{problem}: {withheld[tool]}. {tools}"
    return f"{problem}{answer}. {tools}"


def name_clusters(text: str, properties: Collection[str]) -> str:
    """Return a text whose calls name a cluster, if it is among the arguments of the tools."""
    if "cluster" not in properties:
        return text
    named = find_named_cluster()
    cluster = "…" if named is None else f'"{named}"'
    return _CALL_WITHOUT_CLUSTER.sub(lambda call: f"{call[1]}(cluster={cluster}{'' if call[2] else ', '}", text)


def has_action_word(text: object) -> bool:
    """Whether a text has a word for what a tool does, such as `disable`."""
    words = _split_words(text) if isinstance(text, str) else []
    return any(row.verb is not None and row.fits(words) for row in _TOOL_WORDS)


def _find_tool(words: Sequence[str], tools: Sequence[str]) -> tuple[str | None, str]:
    """Return the tool that does what the words of a name ask for, None if none does, and the end of the answer."""
    for tool in tools:
        # Some hosts put the server's name before the tool's.
        if f"_{tool}_" in f"_{'_'.join(words)}_":
            return tool, f": its name is {tool}"
    row = next((row for row in _TOOL_WORDS if row.fits(words)), None)
    if row is None:
        return None, ""
    meant = None if row.verb is None else next(tool for tool in tools if tool.startswith(row.verb))
    return meant, f": {row.answer}"


def _find_intended_argument(name: str, properties: Iterable[str]) -> str | None:
    """Return the argument that a name is, or is similar enough to; None if there is none."""
    real_names = {word: real for real in properties for word in [real, *_ARGUMENT_SYNONYMS.get(real, "").split()]}
    cutoff = MIN_SIMILARITY if len(name) >= MIN_FUZZY_CHARS else 1
    # A short name is similar to too many others: a `uuid` is not a `uid`.
    candidates = [word for word in real_names if len(word) >= MIN_FUZZY_CHARS or word == name]
    matches = difflib.get_close_matches(name, candidates, n=1, cutoff=cutoff)
    return real_names[matches[0]] if matches else None


def _split_words(name: str) -> list[str]:
    """Return the words of a name in small letters, the same for `expirationTime` and `EXPIRATION-TIME`."""
    return [word.lower() for word in _WORD.findall(name[:MAX_COMPARED_CHARS])]
