"""Test which risks a change has, so that a person has to consent."""

from datetime import datetime, timedelta

import pytest

from tests.support.harness import NOW
from tests.support.questions import ExamplePlan
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken, TokenState
from token_tools.operations.consent import (
    FOR_ADMIN,
    HAS_EXPIRED,
    IRREVERSIBLE,
    LIVES_LONGER,
    NEVER_EXPIRES,
    STOPS_SOONER,
    STOPS_USERS,
    WAS_DISABLED,
    Risk,
    find_create_risks,
    find_update_risks,
)
from token_tools.operations.update import UpdatePlan
from token_tools.settings import Confirm

ADMIN = Identity(auth_id="500")
JANE = Identity(auth_id="1001", name="jane")
YESTERDAY, TOMORROW, NEXT_WEEK = (NOW + timedelta(days=days) for days in (-1, 1, 7))


def build_token(*, enabled: bool = True, expires: datetime | None = None, user: Identity = JANE) -> AccessToken:
    return AccessToken(
        id="1",
        user=user,
        creation_time=(NOW - timedelta(days=30)).isoformat(),
        expiration_time=None if expires is None else expires.isoformat(),
        enabled=enabled,
    )


@pytest.mark.parametrize(
    ("user", "expires", "caveat", "risks"),
    [
        (JANE, TOMORROW, None, []),
        (JANE, None, None, [NEVER_EXPIRES]),
        (ADMIN, TOMORROW, None, [FOR_ADMIN]),
        (ADMIN, None, "it is not known who that is", [FOR_ADMIN, NEVER_EXPIRES]),
        (JANE, TOMORROW, "it is not known who that is", [Risk("it is not known who that is")]),
    ],
)
def test_a_new_token_is_a_risk_by_its_user_and_its_expiry(
    user: Identity, expires: datetime | None, caveat: str | None, risks: list[Risk]
) -> None:
    assert [*find_create_risks(user, expires, caveat=caveat)] == risks


@pytest.mark.parametrize(
    ("token", "wanted", "risks"),
    [
        (build_token(expires=TOMORROW), TokenState(enabled=True, expires=NEXT_WEEK), [LIVES_LONGER]),
        (build_token(expires=TOMORROW), TokenState(enabled=True, expires=None), [NEVER_EXPIRES]),
        (build_token(expires=YESTERDAY), TokenState(enabled=True, expires=NEXT_WEEK), [HAS_EXPIRED]),
        (build_token(expires=NEXT_WEEK), TokenState(enabled=True, expires=TOMORROW), [STOPS_SOONER]),
        (build_token(), TokenState(enabled=True, expires=TOMORROW), [STOPS_SOONER]),
        (build_token(), TokenState(enabled=False, expires=None), [STOPS_USERS]),
        (build_token(enabled=False), TokenState(enabled=True, expires=None), [WAS_DISABLED]),
        (build_token(enabled=False), TokenState(enabled=False, expires=TOMORROW), []),
        (build_token(user=ADMIN, enabled=False), TokenState(enabled=True, expires=None), [FOR_ADMIN, WAS_DISABLED]),
    ],
)
def test_a_change_is_a_risk_where_a_token_lives_longer_or_somebody_may_be_stopped(
    token: AccessToken, wanted: TokenState, risks: list[Risk]
) -> None:
    assert [*find_update_risks(token, wanted, now=NOW)] == risks


@pytest.mark.parametrize(
    ("confirm", "risks", "is_needed"),
    [
        ("risky", [IRREVERSIBLE], True),
        ("risky", [], False),
        ("all", [], True),
        ("none", [IRREVERSIBLE], False),
    ],
)
def test_the_operator_decides_what_needs_consent(confirm: Confirm, risks: list[Risk], *, is_needed: bool) -> None:
    assert ExamplePlan(time=NOW, confirm=confirm, risks=risks).needs_consent is is_needed


def test_a_change_that_changes_nothing_never_needs_consent() -> None:
    token = build_token()
    plan = UpdatePlan(time=NOW, confirm="all", risks=[], token=token, wanted=token.state)

    assert not plan.needs_consent
