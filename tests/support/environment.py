"""The environment variables that settings are read from."""

from collections.abc import Mapping

import pytest

SECRET = "access-v1:SECRETSECRET"
REQUIRED_ENVIRONMENT = {"QUMULO_HOST": "c", "QUMULO_BEARER_TOKEN": SECRET}


def set_environment(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    """Set environment variables for one test."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


BEARER_TOKEN = "access-v1:" + "c2VjcmV0IG9mIHRoZSB0ZXN0czogbm9ib2R5J3M5NzQ2NTQ="
