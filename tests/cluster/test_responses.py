"""Test that each response of the cluster is decoded to a value or becomes one of our errors."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from tests.support.harness import TIMEOUT_SECONDS
from token_tools.cluster import responses as wire
from token_tools.cluster.models import TokenPage
from token_tools.errors import BadAnswer, ClusterError, Forbidden, NotFound, Rejected, Unauthenticated, Unavailable
from token_tools.redaction import remember_secret

DECODERS: list[Callable[[wire.Answer], object]] = [
    wire.decode_page,
    wire.decode_token,
    wire.decode_updated_token,
    wire.decode_new_token,
    wire.decode_principal,
    wire.decode_identity,
    wire.check_deletion,
]
TOKEN_ENTRY: dict[str, Any] = {
    "id": "1" * 23,
    "user": {"auth_id": "500"},
    "creation_time": "2026-10-01T10:00:00.123456789Z",
}
EMPTY_PAGE: dict[str, Any] = {"entries": []}
OTHER_SHAPES: list[object] = [
    b"",
    b"<html>Bearer access-v1:own</html>",
    b'{"entries": [{"id',
    [],
    "entries",
    7,
    None,
    {},
    {"entries": None},
    {"entries": {}},
    {"entries": [[]]},
    {"entries": [TOKEN_ENTRY | {"id": "../admin"}]},
    {"entries": [TOKEN_ENTRY | {"creation_time": "yesterday"}]},
    {"entries": [TOKEN_ENTRY | {"user": {"auth_id": "x"}}]},
    EMPTY_PAGE | {"paging": []},
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([TOKEN_ENTRY, "2026-10-01T10:00Z"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["entries", "paging", "next"]), inner),
    max_leaves=8,
)
BODIES = st.binary() | JSON.map(lambda value: json.dumps(value).encode())


def create_answer(status: int = 200, body: object = None, **headers: str) -> wire.Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return wire.Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


@pytest.mark.parametrize("read", DECODERS)
@given(
    status=st.integers(100, 599) | st.just(200),
    body=BODIES,
    headers=st.dictionaries(st.sampled_from(["retry-after", "date", "content-type"]), st.text()),
)
def test_any_answer_is_a_value_or_one_of_our_errors(
    read: Callable[[wire.Answer], object], status: int, body: bytes, headers: dict[str, str]
) -> None:
    try:
        read(wire.Answer(status, headers, body))
    except ClusterError as failure:
        answer = str(failure)
    else:
        return
    assert answer.isprintable()
    assert len(answer) < 2_500


@pytest.mark.parametrize(
    ("paging", "after"),
    [
        pytest.param({}, None, id="absent"),
        pytest.param({"paging": None}, None, id="null"),
        pytest.param({"paging": {}}, None, id="empty"),
        pytest.param({"paging": {"next": None}}, None, id="null-next"),
        pytest.param({"paging": {"next": ""}}, None, id="empty-next"),
        pytest.param({"paging": {"next": "/v1/auth/access-tokens/?after=a%2Fb&limit=1"}}, "a/b", id="relative"),
        pytest.param({"paging": {"next": "https://evil:1/x?limit=1&after=k"}}, "k", id="foreign-host"),
        pytest.param({"paging": {"next": "?after=" + "k" * 1024}}, "k" * 1024, id="longest-key"),
    ],
)
def test_of_a_link_only_its_key_is_taken(paging: dict[str, Any], after: str | None) -> None:
    assert wire.decode_page(create_answer(body=EMPTY_PAGE | paging)) == TokenPage((), after)


@pytest.mark.parametrize(
    "link",
    [
        "/v1/auth/access-tokens/?limit=1",
        "?after=",
        "?after=1&after=2",
        "?after=a&b",
        "https://[",
        "/",
        "?after=" + "k" * 1025,
    ],
    ids=["no-key", "empty-key", "two-keys", "not-escaped", "no-url", "no-query", "long-key"],
)
def test_a_link_without_a_usable_key_is_a_bad_answer(link: str) -> None:
    with pytest.raises(BadAnswer) as failure:
        wire.decode_page(create_answer(body={"entries": [], "paging": {"next": link}}))

    assert str(failure.value) == (
        "The answer's `paging.next` has no usable `after` key, so the next page cannot be asked for."
    )


def test_an_entry_keeps_what_the_cluster_wrote() -> None:
    identity = {"domain": None, "auth_id": "500", "uid": None, "gid": None, "sid": None, "name": None}
    entry = TOKEN_ENTRY | {"user": identity, "creator": identity, "expiration_time": "", "enabled": None, "future": 1}

    [token] = wire.decode_page(create_answer(body={"entries": [entry]})).entries

    assert (token.id, token.creation_time) == ("1" * 23, "2026-10-01T10:00:00.123456789Z")
    assert token.user.known_fields() == {"auth_id": "500"}
    assert (token.expires, token.is_disabled) == (None, False)


def test_an_id_need_not_be_a_number() -> None:
    assert wire.decode_token(create_answer(body=TOKEN_ENTRY | {"id": "an-id_7"})).id == "an-id_7"


def test_numbers_for_text_and_numbers_as_text_are_tolerated_where_they_lose_nothing() -> None:
    entry = TOKEN_ENTRY | {"id": 12345678901234567890123, "user": {"auth_id": 500, "uid": "7", "gid": 8.0}}

    token = wire.decode_token(create_answer(body=entry))

    assert token.id == "12345678901234567890123"
    assert token.user.known_fields() == {"auth_id": "500", "uid": 7, "gid": 8}


@pytest.mark.parametrize(
    ("user", "known"),
    [
        pytest.param(None, {}, id="null"),
        pytest.param({}, {}, id="empty"),
        pytest.param({"auth_id": "7", "uid": "", "gid": "", "sid": "", "name": ""}, {"auth_id": "7"}, id="empty-texts"),
        pytest.param({"auth_id": "", "name": "jane"}, {"name": "jane"}, id="empty-key"),
        pytest.param({"auth_id": "7", "uid": 2**32, "gid": -1}, {"auth_id": "7"}, id="out-of-range"),
        pytest.param({"auth_id": "7", "uid": True, "gid": "x"}, {"auth_id": "7"}, id="no-numbers"),
    ],
)
def test_what_a_cluster_does_not_tell_of_a_user_does_not_hide_the_token(
    user: dict[str, Any] | None, known: dict[str, Any]
) -> None:
    [token] = wire.decode_page(create_answer(body={"entries": [TOKEN_ENTRY | {"user": user}]})).entries

    assert token.user.known_fields() == known


ODD_VALUES: dict[str, list[object]] = {
    "id": [7, "an-id_7", "007", "5\n6", "", "9" * 65, "\u0667", "1.5", True, {}],
    "auth_id": [7, "007", "0", "0x1f4", "5\n6", "", "none", "\u0667", "1.5", -1, None, 2**64 - 1, "9" * 20],
    "creation_time": [
        "2026-10-01t10:00:00z",
        "2026-10-01 10:00:00+05:30",
        "2026-10-01T10:00Z",
        "2026-10-01T10:00:00",
        "2026-10-01T10:00:00.Z",
        "2026.-10-01T10:00:00Z",
        "20261001T100000.123Z",
        "2026-W40-4T10:00:00Z",
        "2026-02-30T10:00:00Z",
        "2026-10-01T24:00:00Z",
        "2026-10-01T10:00:00Z\n",
        f"2026-10-01T10:00:00.{'1' * 30}Z",
        f"2026-10-01T10:00:00.{'1' * 31}Z",
        "",
        None,
        0,
    ],
    "enabled": [None, 0, "yes", "FALSE", 2, "maybe"],
    "uid": [7, "7", 7.0, -1, 2**32, True, "x", []],
    "name": ["", "jane\n", 5],
}


def decode_or_explain(decode: Callable[[wire.Answer], object], body: object) -> object:
    try:
        return decode(create_answer(body=body))
    except BadAnswer as misfit:
        return str(misfit).replace("a list of access tokens", "an access token").replace("entries.1.", "")


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in ODD_VALUES.items() for value in values], ids=repr
)
def test_a_page_tells_of_a_token_what_the_token_alone_tells(field: str, value: object) -> None:
    usual = TOKEN_ENTRY | {"expiration_time": "2027-10-01T10:00:00Z", "creator": {"auth_id": "500"}}
    identities = [{role: {"auth_id": "7"} | {field: value}} for role in ("user", "creator")]
    changes = identities if field in {"auth_id", "uid", "name"} else [{field: value}]

    for change in changes:
        alone = decode_or_explain(wire.decode_token, usual | change)
        paged = decode_or_explain(wire.decode_page, {"entries": [usual, usual | change]})

        assert (paged.entries[1] if isinstance(paged, TokenPage) else paged) == alone


@pytest.mark.parametrize("expiration_time", ["9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00+05:00"])
def test_a_time_beyond_the_calendar_does_not_hide_the_token(expiration_time: str) -> None:
    [token] = wire.decode_page(
        create_answer(body={"entries": [TOKEN_ENTRY | {"expiration_time": expiration_time}]})
    ).entries

    assert token.expiration_time == expiration_time
    assert token.expires is not None


@pytest.mark.parametrize("auth_id", ["abc", "", "-1", "1_0", 1.5, None], ids=repr)
def test_a_caller_without_an_auth_id_is_a_bad_answer(auth_id: object) -> None:
    with pytest.raises(BadAnswer, match="The answer is not who-am-i"):
        wire.decode_principal(create_answer(body={"id": auth_id}))


def test_a_caller_whose_token_has_an_empty_id_came_with_one_that_is_not_known() -> None:
    principal = wire.decode_principal(
        replace(create_answer(body={"id": "500", "access_token_id": ""}), credential=SecretStr("access-v1:QUJD"))
    )

    assert principal.is_unidentified_token


@pytest.mark.parametrize(
    ("credential", "is_token"),
    [("access-v1:QUJD", True), ("session-v1:QUJD", False), ("", False)],
    ids=["access-token", "login", "none"],
)
def test_a_credential_is_an_access_token_by_its_looks(credential: str, is_token: bool) -> None:
    principal = wire.decode_principal(replace(create_answer(body={"id": "500"}), credential=SecretStr(credential)))

    assert principal.is_token is is_token


@pytest.mark.parametrize(
    ("read", "body", "expected"),
    [
        pytest.param(wire.decode_page, b"", "a list of access tokens, nor any JSON object", id="list"),
        pytest.param(
            wire.decode_page,
            {"entries": [TOKEN_ENTRY, TOKEN_ENTRY | {"id": ""}]},
            'a list of access tokens (it does not fit at "entries.1.id")',
            id="entry",
        ),
        pytest.param(
            wire.decode_page,
            {"entries": [TOKEN_ENTRY | {"user": {"auth_id": "none"}}]},
            'a list of access tokens (it does not fit at "entries.0.user.auth_id")',
            id="one-of-several-forms",
        ),
        pytest.param(
            wire.decode_page,
            b'{"entries":[' + b"9" * 5000 + b"]}",
            "a list of access tokens, nor any JSON object",
            id="number-beyond-any-type",
        ),
        pytest.param(wire.decode_token, [], "an access token, nor any JSON object", id="token"),
        pytest.param(wire.decode_updated_token, [], "an access token, nor any JSON object", id="changed-token"),
        pytest.param(
            wire.decode_new_token,
            [],
            "the id and the bearer token of a new access token, nor any JSON object",
            id="new",
        ),
        pytest.param(wire.decode_principal, [], "who-am-i, nor any JSON object", id="principal"),
        pytest.param(wire.decode_identity, [], "an identity, nor any JSON object", id="identity"),
    ],
)
def test_a_bad_answer_says_what_was_expected_and_where_it_is_not(
    read: Callable[[wire.Answer], object], body: object, expected: str
) -> None:
    with pytest.raises(BadAnswer) as failure:
        read(create_answer(body=body))

    assert str(failure.value) == (
        f"The answer is not {expected}. Do QUMULO_HOST and QUMULO_PORT name the REST address of a Qumulo cluster?"
    )


@pytest.mark.parametrize("body", OTHER_SHAPES, ids=str)
def test_another_shape_is_a_bad_answer_that_repeats_nothing_of_it(body: object) -> None:
    with pytest.raises(BadAnswer, match="The answer is not a list of access tokens") as failure:
        wire.decode_page(create_answer(body=body))

    assert "own" not in str(failure.value)


@pytest.mark.parametrize("bearer_token", ["", " ", None, "two words", "zürich"], ids=str)
def test_a_new_token_without_a_usable_secret_is_a_bad_answer(bearer_token: str | None) -> None:
    with pytest.raises(BadAnswer, match="not the id and the bearer token of a new access token"):
        wire.decode_new_token(create_answer(body={"id": "1", "bearer_token": bearer_token}))


def test_a_new_token_hides_its_secret() -> None:
    new = wire.decode_new_token(create_answer(body={"id": "1", "bearer_token": "access-v1:AAAA"}))

    assert new.bearer_token.get_secret_value() == "access-v1:AAAA"
    assert "AAAA" not in f"{new} {new!r}"


@pytest.mark.parametrize(
    ("status", "failure", "expected"),
    [
        pytest.param(
            300,
            BadAnswer,
            "The answer is a redirect or nothing known (status 300); it was not followed, since it could carry the "
            "credential elsewhere. Do QUMULO_HOST and QUMULO_PORT name the cluster's REST address?",
            id="redirect",
        ),
        pytest.param(400, Rejected, "The cluster declined (400 some_error).", id="400"),
        pytest.param(
            401,
            Unauthenticated,
            "The cluster does not accept this server's own credential (401 some_error): it has expired, was disabled "
            "or deleted, or is mistyped. The operator has to renew it.",
            id="401",
        ),
        pytest.param(404, NotFound, "The cluster knows no such thing (404 some_error).", id="404"),
        pytest.param(409, Rejected, "The cluster declined (409 some_error).", id="409"),
        pytest.param(429, Unavailable, "The cluster cannot answer now (429 some_error).", id="429"),
        pytest.param(500, Unavailable, "The cluster cannot answer now (500 some_error).", id="500"),
    ],
)
def test_each_status_is_an_error_that_says_who_must_act(
    status: int, failure: type[ClusterError], expected: str
) -> None:
    with pytest.raises(failure) as raised:
        wire.decode_page(create_answer(status, {"error_class": "some_error"}))

    assert str(raised.value) == expected


ANSWERS_WITHOUT_ENVELOPE: list[object] = [
    b"",
    b"<html><h1>Forbidden</h1></html>",
    b"null",
    b"[]",
    b'"error_class"',
    b'{"error_class": "x_err',
    {"message": "Forbidden"},
    {"error": {"code": 404, "message": "no route"}},
    {"error_class": "", "description": "x"},
    {"error_class": None, "description": "x"},
    {"error_class": ["x_error"]},
    {"code": "900901", "description": "Invalid Credentials"},
]


@pytest.mark.parametrize("body", ANSWERS_WITHOUT_ENVELOPE, ids=repr)
@pytest.mark.parametrize("status", [400, 403, 404, 405, 407, 409, 413, 418, 421, 431, 451])
@pytest.mark.parametrize("read", DECODERS, ids=lambda read: read.__name__)
def test_a_refusal_without_the_vendor_s_envelope_is_no_answer_of_a_cluster(
    read: Callable[[wire.Answer], object], status: int, body: object
) -> None:
    with pytest.raises(BadAnswer) as failure:
        read(create_answer(status, body))

    assert f"The answer (status {status}) is not in the form of a Qumulo cluster's." in str(failure.value)
    assert "QUMULO_HOST and QUMULO_PORT" in str(failure.value)


def test_a_401_without_a_body_is_the_cluster_s_where_nothing_was_to_be_changed() -> None:
    with pytest.raises(Unauthenticated):
        wire.decode_page(create_answer(401, b""))
    for read in (wire.decode_new_token, wire.decode_updated_token, wire.check_deletion):
        with pytest.raises(BadAnswer):
            read(create_answer(401, b""))
    with pytest.raises(BadAnswer):
        wire.decode_page(create_answer(401, b"<h1>Login</h1>"))


SELF_SERVICE_HINT = " Without it, from Core 7.3 on, what concerns the credential's own tokens still works: user `self`."


@pytest.mark.parametrize(
    ("read", "privilege", "still"),
    [
        pytest.param(wire.decode_page, "PRIVILEGE_ACCESS_TOKENS_READ", SELF_SERVICE_HINT, id="list"),
        pytest.param(wire.decode_token, "PRIVILEGE_ACCESS_TOKENS_READ", SELF_SERVICE_HINT, id="token"),
        pytest.param(wire.decode_updated_token, "PRIVILEGE_ACCESS_TOKENS_WRITE", SELF_SERVICE_HINT, id="change"),
        pytest.param(wire.decode_new_token, "PRIVILEGE_ACCESS_TOKENS_WRITE", SELF_SERVICE_HINT, id="new-token"),
        pytest.param(wire.check_deletion, "PRIVILEGE_ACCESS_TOKENS_WRITE", SELF_SERVICE_HINT, id="deletion"),
        pytest.param(wire.decode_identity, "PRIVILEGE_IDENTITY_READ", "", id="identity"),
        pytest.param(wire.decode_principal, "whatever who-am-i needs there", "", id="principal"),
    ],
)
def test_a_missing_privilege_is_the_one_for_what_was_asked(
    read: Callable[[wire.Answer], object], privilege: str, still: str
) -> None:
    with pytest.raises(Forbidden) as failure:
        read(create_answer(403, {"error_class": "some_error"}))

    assert str(failure.value) == (
        "This server's credential lacks a privilege (403 some_error). An administrator can grant "
        f"{privilege} through a role.{still}"
    )


@pytest.mark.parametrize(
    ("status", "is_transient"),
    [(408, True), (429, True), (499, False), (502, True), (503, True), (504, True), (500, False)],
)
def test_only_some_failures_are_worth_a_second_try(status: int, is_transient: bool) -> None:
    with pytest.raises(Unavailable) as failure:
        wire.decode_page(create_answer(status))

    assert failure.value.is_transient is is_transient


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        pytest.param({"retry_after": "7"}, timedelta(seconds=7), id="seconds"),
        pytest.param(
            {"retry_after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:27:00 GMT"},
            timedelta(minutes=1),
            id="date",
        ),
        pytest.param(
            {"retry_after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:29:00 GMT"}, None, id="past"
        ),
        pytest.param({"retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None, id="date-without-date"),
        pytest.param({"retry_after": "0"}, None, id="none-at-all"),
        pytest.param({"retry_after": "86399999999999"}, timedelta(days=365), id="longer-than-can-be-told"),
        pytest.param(
            {"retry_after": "Wed, 21 Oct 9999 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:29:00 GMT"},
            timedelta(days=365),
            id="date-far-away",
        ),
        pytest.param({"retry_after": "soon"}, None, id="word"),
        pytest.param({"retry_after": "9" * 30}, None, id="eternity"),
        pytest.param({"retry_after": "-1"}, None, id="negative"),
        pytest.param({}, None, id="none"),
    ],
)
def test_a_wait_that_the_cluster_asks_for_is_understood(headers: dict[str, str], wait: timedelta | None) -> None:
    with pytest.raises(Unavailable) as failure:
        wire.decode_page(create_answer(503, **headers))

    assert failure.value.retry_after == wait


def test_a_wait_is_told_in_words() -> None:
    with pytest.raises(Unavailable, match=r"cannot answer now \(503\)\. It asks to wait 7 seconds\.$"):
        wire.decode_page(create_answer(503, retry_after="7"))


@pytest.mark.parametrize(
    ("error_class", "description", "expected"),
    [
        pytest.param("a_b_error", "x", '(400 a_b_error: "x")', id="envelope"),
        pytest.param("A b!", "x", '(400: "x")', id="strange-class"),
        pytest.param("a_b_error", "\nline\u202e", '(400 a_b_error: "\\nline\\u202e")', id="controls"),
        pytest.param("a_b_error", "is access-v1:QUJD", '(400 a_b_error: "is access-v1 [redacted]")', id="secret"),
        pytest.param("a_b_error", "x" * 999, '(400 a_b_error: "' + "x" * 239 + '…")', id="long"),
        pytest.param("a" * 41, "x", '(400: "x")', id="long-class"),
        pytest.param("a_b_error", ["x"], "(400 a_b_error)", id="other-shape"),
        pytest.param("a_b_error", None, "(400 a_b_error)", id="class-alone"),
    ],
)
def test_of_an_error_only_the_vendor_s_envelope_is_told_and_as_data(
    error_class: str, description: object, expected: str
) -> None:
    with pytest.raises(Rejected) as failure:
        wire.decode_page(create_answer(400, {"error_class": error_class, "description": description}))

    assert str(failure.value) == f"The cluster declined {expected}."


@pytest.mark.parametrize(
    "read", [wire.decode_new_token, wire.decode_verified_principal], ids=lambda read: read.__name__
)
def test_where_the_cluster_knows_a_secret_that_nobody_else_does_yet_only_the_class_is_told(
    read: Callable[[wire.Answer], object],
) -> None:
    with pytest.raises(Rejected, match=r"The cluster declined \(400 cred_invalid_sid_error\)\.$"):
        read(create_answer(400, {"error_class": "cred_invalid_sid_error", "description": "any sentence"}))


@pytest.mark.parametrize(
    "read", [wire.decode_new_token, wire.decode_verified_principal], ids=lambda read: read.__name__
)
def test_there_no_class_is_told_whose_words_could_be_parts_of_the_secret(
    read: Callable[[wire.Answer], object],
) -> None:
    with pytest.raises(Rejected, match=r"The cluster declined \(400\)\.$"):
        read(create_answer(400, {"error_class": "gpnusqcxakb6_worftxttsfyj0_error", "description": "any sentence"}))


@pytest.mark.parametrize(
    ("description", "why"),
    [
        ("Bearer QUJDREVGR0hJSktM is wrong", "they repeat something of a credential"),
        ("made Zq7mKp2xVt9LsWd4RbNc8HyJfGu3Ea6T", "something in them looks like a credential"),
    ],
    ids=["of-the-request", "of-its-look"],
)
def test_an_error_that_repeats_a_credential_is_told_without_its_words(description: str, why: str) -> None:
    remember_secret(SecretStr("access-v1:QUJDREVGR0hJSktM"))

    with pytest.raises(Rejected) as failure:
        wire.decode_page(create_answer(400, {"error_class": "a_b_error", "description": description}))

    assert str(failure.value) == f"The cluster declined (400 a_b_error: its words are withheld, since {why})."


def test_of_a_description_without_an_end_only_the_beginning_is_searched() -> None:
    credential = "access-v1:" + "QUJD" * 20

    with pytest.raises(Rejected, match="x…") as failure:
        wire.decode_page(create_answer(400, {"error_class": "a_b_error", "description": "x" * 4096 + credential}))

    assert credential not in str(failure.value)


def test_a_time_with_digits_without_end_is_a_bad_answer() -> None:
    with pytest.raises(BadAnswer):
        wire.decode_token(create_answer(body=TOKEN_ENTRY | {"creation_time": f"2026-10-01T10:00:00.{'1' * 31}Z"}))


def test_the_answer_to_a_deletion_is_empty() -> None:
    wire.check_deletion(create_answer(200, b""))
    wire.check_deletion(create_answer(200, b"\r\n"))
    with pytest.raises(NotFound):
        wire.check_deletion(create_answer(404, {"error_class": "some_error"}))


@pytest.mark.parametrize("body", [b"<html>", b"null", b"{}", b"ok", TOKEN_ENTRY], ids=repr)
def test_another_answer_to_a_deletion_is_none_of_a_cluster(body: object) -> None:
    with pytest.raises(BadAnswer, match="The answer to the deletion is not empty"):
        wire.check_deletion(create_answer(200, body))


@pytest.mark.parametrize("token_id", [" 7", "07", "0x7", 7.0, "7.0", "", True, None, [], "\u0667"], ids=repr)
def test_a_caller_s_token_that_is_not_plain_digits_counts_as_not_told(token_id: object) -> None:
    principal = wire.decode_principal(create_answer(body={"id": "500", "access_token_id": token_id}))

    assert principal.access_token_id is None
    assert principal.is_unidentified_token


def test_a_page_of_more_tokens_than_any_cluster_gives_is_not_read() -> None:
    with pytest.raises(BadAnswer, match="more than 20,000 access tokens at once"):
        wire.decode_page(create_answer(body={"entries": [TOKEN_ENTRY] * 20_001}))


@pytest.mark.parametrize("link", ["?after=" + "k" * (28 << 20), "/?after=" + "k" * 1025], ids=["28-MB", "long-key"])
def test_a_link_that_is_too_long_is_not_looked_into(link: str) -> None:
    with pytest.raises(BadAnswer, match="no usable `after` key"):
        wire.decode_page(create_answer(body=EMPTY_PAGE | {"paging": {"next": link}}))


@pytest.mark.parametrize(
    ("date", "at"),
    [
        ("Tue, 24 Nov 2026 09:00:00 GMT", datetime(2026, 11, 24, 9, tzinfo=UTC)),
        ("Tue, 24 Nov 2026 10:00:00 +0100", datetime(2026, 11, 24, 9, tzinfo=UTC)),
        ("yesterday", None),
        ("", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", None),
        ("x" * (1 << 20), None),
    ],
)
def test_the_date_of_an_answer_is_one_or_is_not_told(date: str, at: datetime | None) -> None:
    assert wire.Answer(200, {"date": date}, b"").date == at


def test_the_representation_of_an_answer_tells_no_secret() -> None:
    assert "SECRET" not in repr(wire.Answer(200, {"x-echo": "SECRET"}, b'{"bearer_token": "SECRET"}'))


@pytest.mark.parametrize("entry", [b"[]", b"{}", b"1"])
def test_of_a_page_that_is_none_the_first_entry_is_enough(entry: bytes) -> None:
    page = wire.Answer(200, {}, b'{"entries":[' + b",".join([entry] * 1_000_000) + b"]}")

    before = time.perf_counter()
    with pytest.raises(BadAnswer, match=r"it does not fit at \"entries\.0"):
        wire.decode_page(page)

    assert time.perf_counter() - before < TIMEOUT_SECONDS  # the limit of a call; the decoding once took minutes


def test_the_bound_of_a_page_holds_however_its_names_are_written() -> None:
    entry = rb'{"id":"1","user":null,"creation\u005ftime":"2026-01-01T00:00:00Z"}'

    with pytest.raises(BadAnswer, match='it does not fit at "entries"'):
        wire.decode_page(wire.Answer(200, {}, b'{"entries":[' + b",".join([entry] * 20_001) + b"]}"))


@pytest.mark.parametrize("told", [True, None, 1, "yes", []], ids=str)
def test_a_login_is_no_token_whatever_the_cluster_says(told: object) -> None:
    principal = wire.decode_principal(
        replace(
            create_answer(body={"id": "500", "is_token": told, "may_be_token": told}), credential=SecretStr("1:QUJD")
        )
    )

    assert not principal.is_unidentified_token
