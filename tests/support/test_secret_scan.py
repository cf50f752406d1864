"""The search for secrets finds what it should."""

from tests.support.secret_scan import find_secrets


def test_the_search_for_secrets_finds_them_whole_in_parts_and_decoded() -> None:
    secret = "access-v1:" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="

    assert find_secrets(b"nothing", [secret]) == []
    for leak in (secret.encode(), secret[14:22].encode(), b"ABCDEFGHIJ", b"x" + secret[-10:].encode()):
        assert find_secrets(b"some " + leak + b" text", [secret]) == [secret]
