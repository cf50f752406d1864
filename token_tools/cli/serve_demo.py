"""The embedded cluster that `--demo` serves instead of a real one."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
from pydantic import SecretStr

from token_tools.configuration import Profile, load_settings
from token_tools.posix import IS_WINDOWS
from token_tools.sandbox.app import create_app
from token_tools.sandbox.demo import create_demo_cluster
from token_tools.server.app import SERVER_NAME
from token_tools.settings import CREDENTIAL_SETTINGS
from token_tools.times import utc_now

DEMO_HOST: Final = "demo-cluster"


@contextmanager
def open_demo_cluster(options: Mapping[str, Any]) -> Generator[tuple[Profile, httpx.AsyncBaseTransport]]:
    """Give an embedded cluster in this process; of the settings in `options`, those that name a cluster are ignored.

    The journal, the tokens and the reports are deleted at the end, so that a trial leaves no trace among what is real.
    """
    demo = create_demo_cluster(utc_now)
    with TemporaryDirectory(prefix=f"{SERVER_NAME}-demo-") as folder:
        # A keyring would keep what it got of a trial.
        place = {"delivery": "inline"} if IS_WINDOWS else {"delivery_dir": Path(folder, "tokens")}
        fixed = {
            "state_dir": Path(folder),
            "host": DEMO_HOST,
            "port": 8000,
            **dict.fromkeys(CREDENTIAL_SETTINGS),
            "bearer_token": SecretStr(demo.bearer_token),
            "ca_file": None,
            "fingerprint": None,
            "verify_tls": True,
        }
        settings = load_settings({**place, **options, **fixed})
        if settings.may_write_reports and "report_dir" not in options:
            settings = settings.model_copy(update={"report_dir": Path(folder, "reports")})
        yield Profile(settings), httpx.ASGITransport(create_app(demo.cluster))
