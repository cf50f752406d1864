r"""How is a user spelled, and when are two identities the same user? The endpoint's identity, as one string and back.

The spelling is that of the vendor's `qq`: `jane`, `local:jane`, `ad:CORP\jane`, `uid:1001`, `auth_id:500`,
`sid:S-1-5-21-…`. Two additions make every user expressible:
 - Each of the eleven published domains is a prefix, also before a number: `posix_user:uid:1001`.
 - A name may be a JSON string in double quotes. Names that are not plain words are always written so, because the users
   of the cluster choose them, and a model must see them as data.

Quotes around a whole spelling change nothing: `"local:jane"` is `local:jane`. A user whose name is `local:jane` is
`name:"local:jane"`. An unpublished domain, of a cluster that is newer than this code, is quoted too: `"SHINY":jane`.
A spelling that could mean several users is refused with the spellings to choose from; nothing is guessed.

Source: the published schema of `/v1/auth/access-tokens/`; `qumulo.lib.identity_util` 7.10 for the spelling.
"""

import json
import re
from contextlib import suppress
from typing import Annotated, Final, Literal, Self, cast, get_args

import msgspec

from token_tools.cluster.normalization import IDENTITY, normalize
from token_tools.errors import Refusal
from token_tools.quoting import has_one_script, has_secret, is_visible, quote_untrusted

Domain = Literal[
    "LOCAL",
    "API_NULL_DOMAIN",
    "WORLD",
    "POSIX_USER",
    "POSIX_GROUP",
    "ACTIVE_DIRECTORY",
    "API_INVALID_DOMAIN",
    "API_RESERVED_DOMAIN",
    "API_INTERNAL_DOMAIN",
    "API_OPERATOR_DOMAIN",
    "API_CREATOR_DOMAIN",
]

SELF: Final = "self"
_LOCAL_DOMAIN: Final = "LOCAL"
_USER_FORMS: Final = r"self, local:NAME, ad:DOMAIN\NAME, ldap_user:NAME, uid:N, auth_id:N, sid:S-1-… or a bare NAME"
HOW_TO_WRITE_A_USER: Final = f"write {_USER_FORMS}"
MAX_SPELLING_CHARS: Final = 1024
"""A longer spelling is refused; no directory has such names, and a request could not carry them."""

MAX_SHOWN_NAME_CHARS: Final = 96
"""A longer name is replaced by the user's number, or truncated if the number is unknown."""

_PREFIX_BY_DOMAIN: Final = {domain: domain.lower() for domain in get_args(Domain)} | {
    "ACTIVE_DIRECTORY": "ad",
    "POSIX_USER": "ldap_user",
    "POSIX_GROUP": "ldap_group",
}
_DOMAIN_BY_PREFIX: Final = {domain.lower(): domain for domain in _PREFIX_BY_DOMAIN} | {
    p: d for d, p in _PREFIX_BY_DOMAIN.items()
}
FORMULA_STARTS: Final = (
    "=+-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u207c\u207a\u207b\u208c\u208a\u208b\u2212\ufb29"
)
"""The characters with which a formula of a spreadsheet may begin, in all their Unicode forms."""

_PLAIN_NAME: Final = re.compile(
    r"(?!\d+$|self$|s(?:-\d+)+$|local\\|.*@local$|(?:auth_id|uid|gid|sid)=(?:\d|s-)|.*\\\\"
    rf"|.*(?<!\w)[{re.escape(FORMULA_STARTS)}])[\w.@\\$+=,&-]+",
    re.IGNORECASE,
)
"""Names that need no quotes: they look like no other spelling of a user, and no part of them begins like a formula."""
_DOMAIN_ALTERNATIVES: Final = "|".join(_DOMAIN_BY_PREFIX)
_KEY_AND_VALUE: Final = re.compile(
    r"(auth_id|uid|gid|sid)(?: *[:=] *| +)(\d[\da-fx]*|s-[\d-]+)", re.ASCII | re.IGNORECASE
)
_OTHER_FORM: Final = re.compile(
    rf"self|\d+|s(?:-\d+)+|(?:{_DOMAIN_ALTERNATIVES}|auth_id|uid|gid|sid|name)\s*:.*|{_KEY_AND_VALUE.pattern}",
    re.IGNORECASE | re.DOTALL,
)
"""Spellings that do not mean a name, even in quotes. A name that looks like one is written after `name:`."""
_DOMAIN_BEFORE: Final = re.compile(rf"((?:{_DOMAIN_ALTERNATIVES})(?=/)|local(?=\\))[/\\](.+)", re.IGNORECASE)
_DOMAIN_BEHIND: Final = re.compile(rf"(.+?)(?:@(?=local$)| \((?=(?:{_DOMAIN_ALTERNATIVES})\)$))(\w+)\)?", re.IGNORECASE)
_UNKNOWN_PREFIX: Final = re.compile(r"(?:[^:=]*:|@)\s*(.*)", re.DOTALL)
_QUOTED_DOMAIN: Final = re.compile(r'("(?:[^"\\]|\\.)+"): *(.+)', re.DOTALL)
"""An unpublished domain, as a cluster writes it that is newer than this code, and what follows it."""

_QUOTED_PLAIN: Final = re.compile(r'"([^"]+)"')
_BACKSLASHES: Final = re.compile(r"\\{2,}")
_QUOTES: Final = "\"'`"
_MIN_INEXACT_INTEGER: Final = 2**53
"""Many JSON parsers round numbers from here on."""

_PROPOSABLE_NAME: Final = re.compile(rf'[^":{{}}<>]{{1,{MAX_SHOWN_NAME_CHARS}}}')
_WITH_AUTH_ID: Final = re.compile(r"(.+) \(auth_id (\d{1,20})\)", re.ASCII)
_SID: Final = re.compile(r"S(?:-\d{1,20}){2,17}", re.ASCII)


_Text = Annotated[str, msgspec.Meta(min_length=1)]
_PosixId = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class Identity(msgspec.Struct, frozen=True, gc=False):
    """A user or group as the endpoint describes it. Any field may be unknown (None).

    `auth_id` is the cluster's own key, a decimal number below 2**64 as text. `uid` and `gid` are POSIX numbers below
    2**32. `domain` is one of the eleven published ones, or another word from a cluster that is newer than this code.
    """

    domain: _Text | None = None
    auth_id: _Text | None = None
    uid: _PosixId | None = None
    gid: _PosixId | None = None
    sid: _Text | None = None
    name: _Text | None = None

    @classmethod
    def from_json(cls, fields: object) -> Self:
        """Return the identity for decoded JSON, in any form that a cluster is known to use.

        Raises:
            ValueError: If it is none.
        """
        return msgspec.convert(normalize(fields, IDENTITY), cls)

    @classmethod
    def parse(cls, spelling: str) -> Self:
        """Return the identity for a spelling.

        Raises:
            ValueError: If it is no spelling of one user. The text says what to write instead; it may propose spellings,
                but none with a secret in it.
        """
        if len(spelling) > MAX_SPELLING_CHARS:
            raise ValueError(f"is too long for a user, with more than {MAX_SPELLING_CHARS} characters")
        try:
            identity = cls.from_json(_parse_spelling(spelling.strip()))
        except msgspec.ValidationError:
            identity = cls()
        if not identity.is_identified:
            raise ValueError(f"is not a user: {HOW_TO_WRITE_A_USER}")
        return identity

    def __str__(self) -> str:
        """Return the spelling; `parse` of it means the same identity, unless a long name had to be cut."""
        prefix = (
            f"{_PREFIX_BY_DOMAIN.get(self.domain) or quote_untrusted(self.domain, max_chars=MAX_SHOWN_NAME_CHARS)}:"
            if self.domain
            else ""
        )
        if self.name and len(self.name) <= MAX_SHOWN_NAME_CHARS:
            is_ambiguous = not prefix and _OTHER_FORM.fullmatch(self.name)
            return f"{'name:' if is_ambiguous else prefix}{format_name(self.name)}"
        for key in ("auth_id", "uid", "gid", "sid"):
            if (value := getattr(self, key)) is not None:
                return f"{prefix}{key}:{format_sid(value) if key == 'sid' else value}"
        return prefix + format_name(self.name or "")

    @property
    def is_identified(self) -> bool:
        """Tell whether a field is known that identifies a user; a domain alone does not."""
        # An audit asks this of each token, and to look through `known_fields` takes ten times as long.
        return (
            self.auth_id is not None
            or self.name is not None
            or self.sid is not None
            or self.uid is not None
            or self.gid is not None
        )

    def as_request_body(self) -> dict[str, str | int]:
        """Return the identity for the body of a request, with all known fields.

        Raises:
            Refusal: If no known field identifies a user; it is unknown whom a cluster would take it for.
        """
        self._check_identified()
        return self.known_fields()

    def as_user_filter(self) -> str:
        """Return the identity for the endpoint's `user` filter, by the unambiguous `auth_id` if that is known.

        A name loses its domain, which the filter does not accept; check the users in the answer with `may_be`.

        Raises:
            Refusal: If no known field identifies a user.
        """
        self._check_identified()
        if self.auth_id is None and self.name is not None:
            return self.name
        if self.auth_id is None and self.uid is None and self.gid is None and self.sid is not None:
            return self.sid
        return str(Identity(auth_id=self.auth_id, uid=self.uid, gid=self.gid))

    def as_minimal_identity(self) -> "Identity":
        """Return an identity with nothing but the `auth_id`; the whole identity if that is unknown."""
        return self if self.auth_id is None else Identity(auth_id=self.auth_id)

    def may_be(self, other: "Identity") -> bool:
        """Tell whether `other`, a user in an answer of the cluster, can be the user that was asked for.

        All numbers that both have must agree. Without a common number, a domain that was asked for must be equal. Names
        are not compared, because a directory accepts several spellings of one name; the cluster has compared them.
        """
        own_fields, other_fields = self.known_fields(), other.known_fields()
        common = [key for key in ("auth_id", "uid", "gid", "sid") if key in own_fields and key in other_fields]
        if common:
            return all(own_fields[key] == other_fields[key] for key in common)
        return self.domain is None or self.domain == other.domain

    def merged_with(self, found: "Identity") -> "Identity | None":
        """Return this identity with the fields that a look-up has found, or None if the two contradict each other.

        Names are compared only in the local domain, because a directory accepts several spellings of one name.
        """
        own_fields, found_fields = self.known_fields(), found.known_fields()
        common = own_fields.keys() & found_fields.keys() - {"name"}
        if any(own_fields[key] != found_fields[key] for key in common):
            return None
        is_local = _LOCAL_DOMAIN in {self.domain, found.domain}
        if is_local and self.name and found.name and _local_name(self.name) != _local_name(found.name):
            return None
        return Identity.from_json(own_fields | found_fields)

    def shares_identifier_with(self, found: "Identity") -> bool:
        """Tell whether a look-up and this identity have a known field in common; the domain does not count."""
        return bool(self.known_fields().keys() & found.known_fields().keys() - {"domain"})

    def known_fields(self) -> dict[str, str | int]:
        """Return the fields that are not None."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}

    def _check_identified(self) -> None:
        if not self.is_identified:
            raise Refusal("Nothing is known of this user by which the cluster could be asked.")


def parse_user(spelling: object) -> "Identity | Literal['self']":
    """Return the user that a caller names: `"self"`, or the identity for any other spelling.

    Raises:
        ValueError: If it is no spelling of one user, or not a string, such as an object with the fields of an identity.
    """
    if not isinstance(spelling, str):
        raise ValueError("must be text")  # noqa: TRY004 - pydantic understands no other
    return SELF if spelling.strip().strip(_QUOTES).lower() == SELF else Identity.parse(spelling)


def propose_user(value: object) -> str:
    """Return spellings, to go on after the word `write`, for a value that was given as a user and is not a string."""
    match value:
        case int() if not isinstance(value, bool) and 0 <= value < _MIN_INEXACT_INTEGER:
            return _propose_name(str(value), source_text=str(value))
        case dict():
            return _format_object(cast("dict[str, object]", value)) or _USER_FORMS
        case _:
            return _USER_FORMS


def format_name(name: str) -> str:
    """Return a name as it is if it is one plain word, else quoted."""
    is_word = len(name) <= MAX_SHOWN_NAME_CHARS and _PLAIN_NAME.fullmatch(name)
    is_plain = is_word and is_visible(name) and has_one_script(name) and not has_secret(name)
    return name if is_plain else quote_untrusted(name, max_chars=MAX_SHOWN_NAME_CHARS)


def bare_name(name: str) -> str:
    r"""Return a name without a domain in it (`CORP\jane`, `jane@corp.example.com`), in small letters, to compare it."""
    return name.rpartition("\\")[2].partition("@")[0].casefold()


def _local_name(name: str) -> str:
    r"""Return a local name without the cluster's name before it (`CLUSTER\jane`), in small letters, to compare it."""
    return name.rpartition("\\")[2].casefold()


def format_sid(sid: str) -> str:
    """Return a SID as it is if it has the form of one, else quoted."""
    return sid if _SID.fullmatch(sid) else quote_untrusted(sid, max_chars=MAX_SHOWN_NAME_CHARS)


def _parse_spelling(text: str) -> dict[str, str]:
    if text[:1] == text[-1:] and text[:1] in {"'", "`"}:
        text = text[1:-1].strip()
    if numbered := _WITH_AUTH_ID.fullmatch(text):
        return _parse_spelling(numbered[1]) | {"auth_id": numbered[2]}
    if unpublished := _QUOTED_DOMAIN.fullmatch(text):
        domain = _parse_quoted(unpublished[1])
        return {"domain": _DOMAIN_BY_PREFIX.get(domain.lower(), domain)} | _parse_in_domain(unpublished[2])
    if text.startswith('"'):
        if text.endswith('"') and _OTHER_FORM.fullmatch(text[1:-1]) and not _is_printable_json(text):
            # It is not JSON, or its backslash was not meant as an escape: `"local:"Jane Doe""`, `"ad:CORP\tom"`.
            return _parse_spelling(text[1:-1])
        name = _parse_quoted(text)
        return _parse_spelling(name) if _OTHER_FORM.fullmatch(name) else {"name": name}
    if described := _format_json_object(text):
        raise ValueError(f"is an object: write {described}")
    if (found := _DOMAIN_BEFORE.fullmatch(text)) or (found := _DOMAIN_BEHIND.fullmatch(text)):
        raise ValueError(f"names its domain in a way that is not read: write {_propose_domain(found)}")
    prefix, colon, rest = text.partition(":")
    known = _DOMAIN_BY_PREFIX.get(prefix.strip().lower()) if colon else None
    return _parse_without_domain(text) if known is None else {"domain": known} | _parse_in_domain(rest.strip())


def _parse_in_domain(text: str) -> dict[str, str]:
    return _parse_prefixed(text) or _parse_value("name", text)


def _parse_without_domain(text: str) -> dict[str, str]:
    if known := _parse_prefixed(text):
        return known
    if keyed := _KEY_AND_VALUE.fullmatch(text):
        return _parse_value(keyed[1].lower(), keyed[2])
    # A distinguished name, which has an equals sign, may contain a colon. Source: `qumulo.lib.identity_util`.
    if unknown := _UNKNOWN_PREFIX.fullmatch(text):
        prefix = text.partition(":")[0]
        # A prefix in capitals can be the domain of a directory.
        name = rf"{prefix}\{unknown[1]}" if prefix.isupper() else unknown[1]
        raise ValueError(f"has a prefix that does not exist: write {_propose_name(name, source_text=text)}")
    if text.isdecimal():
        raise ValueError(
            f"is a bare number, which could be several users: write {_propose_name(text, source_text=text)}"
        )
    return _parse_value("name", text)


def _parse_prefixed(text: str) -> dict[str, str] | None:
    prefix, colon, rest = text.partition(":")
    key = prefix.strip().lower()
    if colon and key in Identity.__struct_fields__ and key != "domain":
        return _parse_value(key, rest.strip())
    return {"sid": text.upper()} if _SID.fullmatch(text.upper()) else None


def _parse_value(key: str, value: str) -> dict[str, str]:
    if value.startswith('"'):
        # In quotes, any value is accepted, so that whatever a cluster returns can be written.
        return {key: _parse_quoted(value)}
    if key == "name" and not (value and value.isprintable()):
        raise ValueError(f"has an empty or unprintable name: {HOW_TO_WRITE_A_USER}")
    if key == "sid" and not _SID.fullmatch(value.upper()):
        raise ValueError("has a malformed SID: write sid:S-1-… as the cluster lists it")
    # A model that copies a name from JSON without its quotes may keep the doubled backslashes.
    return {key: value.upper() if key == "sid" else _BACKSLASHES.sub(r"\\", value)}


def _parse_quoted(text: str) -> str:
    try:
        # A text that begins with a quote is a JSON string or no JSON. `Identity` refuses an empty or broken name.
        name: str = json.loads(text)
    except ValueError:
        if plain := _QUOTED_PLAIN.fullmatch(text):
            return plain[1]
        raise ValueError(
            "has a name whose double quotes do not close: write it as a JSON string, or without quotes"
        ) from None
    return name


def _is_printable_json(text: str) -> bool:
    try:
        return str(json.loads(text)).isprintable()
    except ValueError:
        return False


def _format_json_object(text: str) -> str | None:
    """Return the spelling of the user that an object in JSON describes, or None if the text is no such object."""
    with suppress(ValueError, RecursionError):
        fields: object = json.loads(text) if text.startswith("{") else None
        return _format_object(cast("dict[str, object]", fields)) if isinstance(fields, dict) else None
    return None


def _format_object(fields: dict[str, object]) -> str | None:
    domain = fields.get("domain")
    try:
        identity = Identity.from_json(fields | {"domain": _DOMAIN_BY_PREFIX.get(str(domain).lower(), domain)})
    except msgspec.ValidationError:
        return None
    return str(identity) if identity.is_identified else None


def _propose_domain(found: re.Match[str]) -> str:
    r"""Return the right spelling for a match such as `local/jane`, `local\jane`, `jane@local` or `jane (local)`."""
    domain, name = (found[1], found[2]) if found.re is _DOMAIN_BEFORE else (found[2], found[1])
    if has_secret(found[0]):
        return _USER_FORMS
    spelling = f"{domain.lower()}:{format_name(name)}"
    # A directory may have a domain with the name `local`.
    return f"{spelling} or ad:{format_name(found[0])}" if "/" not in found[0] and "(" not in found[0] else spelling


def _propose_name(name: str, *, source_text: str) -> str:
    """Return the spellings that a bare name can mean, or all forms if `source_text` may have a secret in it."""
    bare = name.rpartition("\\")[2]
    if has_secret(source_text) or not (bare and _PROPOSABLE_NAME.fullmatch(name)):
        return _USER_FORMS
    if name.isdecimal():
        return f"uid:{name}, auth_id:{name} or name:{name}"
    return f"local:{format_name(bare)}, ad:{format_name(name)} or ldap_user:{format_name(bare)}"
