"""Which settings are there for service over HTTP, and which of their values are refused?

Nothing is open by accident: who may call has to be decided, and an address that others reach needs TLS.
"""

import base64
import binascii
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, NamedTuple, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic.fields import FieldInfo

from token_tools.errors import SettingsError
from token_tools.file_reading import decode_text, open_checked, read_whole
from token_tools.operator_input import MAX_INPUT_CHARS, check_expanded, format_input, strip_invisible
from token_tools.paths import AbsolutePath, parse_path, validate_path
from token_tools.posix import IS_WINDOWS
from token_tools.redaction import has_labelled_token, remember_secret_permanently
from token_tools.settings import MAX_PORT, CleanSettings, Settings

MCP_PATH: Final = "/mcp"
PICKUP_PATH: Final = "/pickup"
MIN_KEY_BYTES: Final = 32
_LOOPBACK_NAMES: Final = frozenset({"localhost"})
_SOCKET_PREFIX: Final = "unix:"
WORD_LISTS: Final = frozenset({"scope", "scp"})
"""Claims whose text is a list of words. Source: RFC 9068, section 2.2.3; the access tokens of Entra ID have `scp`."""

_HEADER_WORD: Final = re.compile(r"[!#-\[\]-~]+", re.ASCII)
"""What a quoted text in a header may be made of, as scopes are. Source: RFC 6749, section 3.3."""


@dataclass(frozen=True)
class TcpAddress:
    """An address and a port to listen on; port 0 is any free one."""

    host: str
    port: int

    @property
    def is_private(self) -> bool:
        """Tell whether only this machine reaches it."""
        return _is_loopback(self.host)

    def __str__(self) -> str:
        """Return it as people write it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class SocketAddress:
    """The path of a Unix socket to listen on, which only the user of the server may use."""

    path: Path

    @property
    def is_private(self) -> bool:
        """Tell that only this machine reaches it."""
        return True

    def __str__(self) -> str:
        """Return it as the setting has it."""
        return f"{_SOCKET_PREFIX}{self.path}"


class ClaimRule(NamedTuple):
    """A claim of a token of the issuer, with the value that it has to have or to have among its values."""

    claim: str
    value: str


def _coerce_address(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.startswith(_SOCKET_PREFIX) and IS_WINDOWS:
        raise ValueError("names a Unix socket, which Windows has not as this server needs it: name ADDRESS:PORT")
    if value.startswith(_SOCKET_PREFIX):
        return SocketAddress(validate_path(parse_path(value.removeprefix(_SOCKET_PREFIX))))
    host, colon, port = value.rpartition(":")
    if not (host and colon and port.isascii() and port.isdecimal() and int(port) <= MAX_PORT):
        raise ValueError(f"must be ADDRESS:PORT, or {_SOCKET_PREFIX}PATH")
    return TcpAddress(host.strip("[]"), int(port))


def _coerce_words(value: object) -> object:
    """Return a list as it is, and the words into which a shell would split one text."""
    if not isinstance(value, str):
        return value
    try:
        return shlex.split(value)
    except ValueError:
        raise ValueError("has a quote in it without an end") from None


def _parse_rule(word: str) -> ClaimRule:
    claim, equals, value = word.partition("=")
    if not (claim and equals and value):
        raise ValueError("must be CLAIM=VALUE, or several of these, such as scope=tokens:read groups=storage")
    if claim in WORD_LISTS and not _HEADER_WORD.fullmatch(value):
        raise ValueError(f"must have one scope in each {claim}=SCOPE, of ASCII characters without blanks")
    return ClaimRule(claim, value)


def _validate_client_id(client_id: str) -> str:
    check_expanded(client_id)
    if not _HEADER_WORD.fullmatch(client_id) or has_labelled_token(client_id):
        raise ValueError("must be the identifier of a client, as the issuer shows it: ASCII characters without blanks")
    return client_id


def _validate_keys(keys: Sequence[SecretStr]) -> Sequence[SecretStr]:
    for key in keys:
        check_expanded(key.get_secret_value())
        remember_secret_permanently(key)
    if not 0 < len({*map(decode_state_key, keys)}) == len(keys):
        raise ValueError("must have one key at least, and each key once")
    return keys


def decode_state_key(key: SecretStr) -> bytes:
    """Return the bytes of a key.

    Raises:
        ValueError: If it is no base64, or shorter than `MIN_KEY_BYTES`.
    """
    try:
        decoded = base64.b64decode(key.get_secret_value(), altchars=b"-_", validate=False)
    except binascii.Error:
        decoded = b""
    if len(decoded) < MIN_KEY_BYTES:
        raise ValueError(
            f"must have keys of {MIN_KEY_BYTES} random bytes at least, in base64: `openssl rand -base64 32`"
        )
    return decoded


def _validate_url(url: str) -> str:
    parts = _split_url(url)
    if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
        raise ValueError("must begin with https://, unless it names this machine itself")
    if parts.path.rstrip("/").endswith(MCP_PATH):
        raise ValueError(f"must end before {MCP_PATH}, which is added to it")
    return url.rstrip("/")


def format_origin(url: str) -> str:
    """Return the origin of a URL to the letter as browsers tell it: in small letters, and without the usual port."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    port = "" if parts.port in {None, usual} else f":{parts.port}"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def _validate_issuer(url: str) -> str:
    if _split_url(url).scheme != "https":
        raise ValueError("must begin with https://")
    return url


def _split_url(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or "@" in url:
        raise ValueError("must be a URL, without a user, a query or a fragment")
    if not _HEADER_WORD.fullmatch(url):
        raise ValueError("must be in ASCII: a name in other letters is written as xn--…, another path with %")
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in _LOOPBACK_NAMES


def _read_word(path: Path) -> str:
    with open_checked(path) as file_fd:
        word = strip_invisible(decode_text(read_whole(file_fd, max_bytes=MAX_INPUT_CHARS)))
    if not word:
        raise ValueError("is empty")
    return word


def _is_reached_at(address: "Address") -> bool:
    """Tell whether a browser on this machine can call an address as it is written."""
    return isinstance(address, TcpAddress) and address.is_private


def parse_rules(words: Sequence[str]) -> Sequence[ClaimRule]:
    """Return the rules that a setting has."""
    return [*map(_parse_rule, words)]


def _find_own_url(values: Mapping[str, object]) -> str:
    match values["http_listen"]:
        case TcpAddress() as address:
            scheme = "http" if values["http_tls_certificate"] is None else "https"
            return f"{scheme}://{address}"
        case _:
            return "http://localhost"


def _list_own_hosts(values: Mapping[str, object]) -> tuple[str, ...]:
    """Return the host of the public URL, with and without a port, and the names of this machine for itself."""
    public = urlsplit(str(values["http_url"])).hostname or ""
    names = [f"[{public}]" if ":" in public else public]
    match values["http_listen"]:
        case TcpAddress() as address if not address.is_private:
            pass
        case _:
            names += ["localhost", "127.0.0.1", "[::1]"]
    return tuple(host for name in dict.fromkeys(names) for host in (name, f"{name}:*"))


def _list_own_origins(values: Mapping[str, object]) -> tuple[str, ...]:
    """Return the origins of pages that this server itself would have, at its public URL and on this machine."""
    origins = [format_origin(str(values["http_url"]))]
    match values["http_listen"]:
        case TcpAddress() as address if address.is_private:
            own = _find_own_url(values)
            origins += [own, f"{urlsplit(own).scheme}://localhost:{address.port}"]
        case _:
            pass
    return tuple(dict.fromkeys(origins))


def _validate_hosts(words: Sequence[str]) -> Sequence[str]:
    if any("/" in word for word in words):
        raise ValueError("must be HOST or HOST:PORT, or several of these, without https:// and without a path")
    return words


def _validate_origins(words: Sequence[str]) -> Sequence[str]:
    for word in words:
        parts = urlsplit(word)
        if (
            parts.scheme not in {"http", "https"}
            or word != f"{parts.scheme}://{parts.netloc}"
            or not parts.hostname
            or "*" in word
        ):
            raise ValueError("must be SCHEME://HOST or SCHEME://HOST:PORT, or several of these, with nothing after it")
    return words


def _validate_rules(words: Sequence[str]) -> Sequence[str]:
    parse_rules(words)
    return words


Address = TcpAddress | SocketAddress
Hosts = Annotated[tuple[str, ...], BeforeValidator(_coerce_words), AfterValidator(_validate_hosts)]
Origins = Annotated[tuple[str, ...], BeforeValidator(_coerce_words), AfterValidator(_validate_origins)]
Rules = Annotated[tuple[str, ...], BeforeValidator(_coerce_words), AfterValidator(_validate_rules)]
StateKeys = Annotated[tuple[SecretStr, ...], BeforeValidator(_coerce_words), AfterValidator(_validate_keys)]


class HttpSettings(CleanSettings):
    """The decisions of the operator about service over HTTP. `configuration` loads them."""

    http_listen: Annotated[Address, BeforeValidator(_coerce_address)] = Field(
        default=TcpAddress("127.0.0.1", 8080),
        description=f"Where to listen: ADDRESS:PORT, or {_SOCKET_PREFIX}PATH for a socket that only this user may use",
    )
    http_tls_certificate: AbsolutePath | None = Field(
        default=None, description="PEM file of this server's certificate with its chain; read again when it changes"
    )
    http_tls_key: AbsolutePath | None = Field(default=None, description="PEM file of the key of that certificate")
    http_tls_in_front: bool = Field(
        default=False, description="true: TLS ends in a proxy in front, and nobody else reaches this server"
    )
    http_url: Annotated[str, AfterValidator(_validate_url)] = Field(
        default_factory=_find_own_url,
        description=f"Public URL of this server, such as https://tokens.example.com; clients call {MCP_PATH} below it",
    )
    http_allowed_hosts: Hosts = Field(
        default_factory=_list_own_hosts,
        description="Names under which this server may be called, as the header Host has them",
    )
    http_allowed_origins: Origins = Field(
        default_factory=_list_own_origins,
        description="Web pages that may call this server from a browser, such as https://chat.example.com",
    )
    http_anonymous: bool = Field(
        default=False,
        description="true: whoever reaches the address may do everything; for loopback and Unix sockets alone",
    )
    http_issuer: Annotated[str, AfterValidator(_validate_issuer)] | None = Field(
        default=None, description="Identity provider whose access tokens (JWTs) let people in: its issuer URL"
    )
    http_issuer_ca_file: AbsolutePath | None = Field(
        default=None, description="PEM file of certificates to trust for the issuer, besides the system's trust store"
    )
    http_client_id: Annotated[str, AfterValidator(_validate_client_id)] | None = Field(
        default=None,
        description="Client of the issuer with which people sign in at this server's own pages, to pick up a new "
        "bearer token",
    )
    http_client_secret_file: AbsolutePath | None = Field(
        default=None,
        description="File with the secret of that client, which a public client has not; read at each sign-in",
    )
    http_audience: str = Field(
        default_factory=lambda values: f"{values['http_url']}{MCP_PATH}",
        description="Audience that access tokens must be for",
    )
    http_readers: Rules = Field(
        default=("scope=tokens:read",),
        description="Who may read: claims of their access token, CLAIM=VALUE each, of which one has to hold",
    )
    http_writers: Rules = Field(
        default=("scope=tokens:write",), description="Who may read and change tokens, in the notation of the readers"
    )
    http_self: str | None = Field(
        default=None,
        description=r"Claim that spells the caller's user on the cluster, such as ad:CORP\jane; `self` means them",
    )
    http_keys_file: AbsolutePath | None = Field(
        default=None,
        description="TOML file of keys for machines: [keys.NAME] with sha256 and role, read or write; read again when "
        "it changes",
    )
    http_state_keys: StateKeys | None = Field(
        default=None,
        description="Keys in base64 that replicas share, of which the first seals what waits, such as questions and "
        "bearer tokens, and all open it; required with QUMULO_STATE_URL and QUMULO_HTTP_CLIENT_ID",
    )

    @model_validator(mode="after")
    def _validate_consistency(self) -> Self:
        if (self.http_tls_certificate is None) != (self.http_tls_key is None):
            raise ValueError("{http_tls_certificate} and {http_tls_key} belong together: set both")
        has_tls = self.http_tls_certificate is not None
        if has_tls and self.http_tls_in_front:
            raise ValueError("{http_tls_certificate} and {http_tls_in_front} contradict each other: keep one")
        if not (self.http_listen.is_private or has_tls or self.http_tls_in_front):
            raise ValueError(
                f"{{http_listen}} {self.http_listen} can be reached by others, and without TLS anyone on the way could "
                "read what is said: set {http_tls_certificate} and {http_tls_key}, or {http_tls_in_front}=true if a "
                "proxy in front does that"
            )
        self._check_admission()
        self._check_pickup()
        return self

    def _check_pickup(self) -> None:
        """Check that people can sign in at the pages of this server, if they are to.

        Raises:
            ValueError: If something is missing for that.
        """
        if self.http_client_id is None:
            if self.http_client_secret_file is not None:
                raise ValueError("{http_client_secret_file} is of the client that {http_client_id} names: set that too")
        elif self.http_issuer is None:
            raise ValueError("{http_client_id} is a client of an identity provider: set {http_issuer} too")
        elif self.http_state_keys is None:
            raise ValueError(
                "{http_client_id} lets people pick up bearer tokens, which wait sealed with {http_state_keys}: set "
                "that too, to what `openssl rand -base64 32` prints"
            )
        elif not _is_reached_at(self.http_listen) and "http_url" not in self.model_fields_set:
            raise ValueError(
                "{http_client_id} lets people pick up bearer tokens at pages of this server, whose address has to be "
                "told to them: set {http_url} too"
            )

    def _check_admission(self) -> None:
        """Check that it is decided who may call.

        Raises:
            ValueError: If it is not, or contradictory.
        """
        if not self.http_anonymous:
            if self.http_issuer is None and self.http_keys_file is None:
                raise ValueError(
                    "it is not decided who may call: {http_issuer} names the identity provider of people, "
                    "{http_keys_file} has the keys of machines, and {http_anonymous}=true lets in whoever reaches a "
                    "loopback address or a Unix socket"
                )
        elif self.http_issuer is not None or self.http_keys_file is not None:
            raise ValueError("{http_anonymous} and a sign-in contradict each other: keep one")
        elif self.http_tls_in_front or not self.http_listen.is_private:
            raise ValueError("{http_anonymous} is for an address that only this machine reaches, without a proxy")
        elif not _is_loopback(urlsplit(self.http_url).hostname or ""):
            raise ValueError(
                "{http_anonymous} is for callers on this machine, and {http_url} is for others: remove one of them"
            )

    def at_address(self, address: Address) -> Self:
        """Return these settings for listening at another address, with what follows from that."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return self.model_validate(given | {"http_listen": address})

    @property
    def offers_pickup(self) -> bool:
        """Whether people can sign in at pages of this server to pick up what waits for them."""
        return self.http_client_id is not None

    @property
    def pickup_url(self) -> str:
        """The URL above the pages at which bearer tokens wait."""
        return f"{self.http_url}{PICKUP_PATH}"

    @property
    def redirect_uri(self) -> str:
        """The URL to which the issuer sends people back, which its client has to allow."""
        return f"{self.pickup_url}/callback"

    def read_client_secret(self) -> SecretStr | None:
        """Return the secret of the client as its file has it now, None if no file is set. No text repeats it.

        Raises:
            SettingsError: If the file is unusable, or if nothing is in it.
        """
        path = self.http_client_secret_file
        if path is None:
            return None
        try:
            secret = SecretStr(_read_word(path))
        except ValueError as reason:
            raise SettingsError(
                f"QUMULO_HTTP_CLIENT_SECRET_FILE names {format_input(str(path))}, which {reason}."
            ) from None
        remember_secret_permanently(secret)
        return secret

    @property
    def resource(self) -> str:
        """The URL that clients call, by which access tokens name this server. Source: RFC 9728, RFC 8707."""
        return f"{self.http_url}{MCP_PATH}"


FIELDS: Final[Mapping[str, FieldInfo]] = {**Settings.model_fields, **HttpSettings.model_fields}
"""Every setting, by its name."""
