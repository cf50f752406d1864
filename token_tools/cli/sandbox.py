"""Serves an embedded cluster over HTTPS, so that other clients can be tried on it: the command `sandbox`."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import SecretStr

from token_tools.credentials import encode_store
from token_tools.sandbox.app import create_app
from token_tools.sandbox.demo import create_demo_cluster
from token_tools.sandbox.faults import Faults, parse_faults
from token_tools.sandbox.https import Address, serve_https
from token_tools.server.app import SERVER_NAME
from token_tools.settings import MAX_PORT
from token_tools.times import utc_now


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--port",
        dest="sandbox_port",
        metavar="PORT",
        type=_parse_port,
        default=0,
        help="Loopback port (default: any free one)",
    )
    parser.add_argument(
        "--fault",
        dest="faults",
        action="append",
        default=[],
        metavar="ENDPOINT=FAULT",
        help="Fail there in that way, such as create=cut-after or list=html; may be repeated",
    )


def run(_settings: Mapping[str, Any], *, sandbox_port: int, faults: Sequence[str]) -> int:
    """Serve until SIGINT or SIGTERM, and return the exit status.

    Raises:
        UsageError: If a fault does not exist, or the port cannot be served.
    """
    serve_sandbox(port=sandbox_port, faults=faults)
    return 0


def serve_sandbox(*, port: int, faults: Sequence[str]) -> None:
    """Serve until SIGINT or SIGTERM, and print what a client needs; `port` 0 takes any free one.

    Each of `faults` is written `ENDPOINT=FAULT`.

    Raises:
        UsageError: If a fault does not exist, or the port cannot be served.
    """
    demo = create_demo_cluster(utc_now)
    app = Faults(create_app(demo.cluster), parse_faults(faults))
    with TemporaryDirectory(prefix=f"{SERVER_NAME}-sandbox-") as folder:
        credentials_file = Path(folder, "credentials")
        credentials_file.touch(mode=0o600)
        credentials_file.write_bytes(encode_store(SecretStr(demo.admin_bearer_token)))

        def announce(address: Address) -> None:
            _print_lines(
                "An embedded cluster with invented data, until Ctrl-C. For a shell:\n",
                f"export QUMULO_HOST={address.host}",
                f"export QUMULO_PORT={address.port}",
                f"export QUMULO_CA_FILE={address.ca_file}",
                f"export QUMULO_BEARER_TOKEN={demo.admin_bearer_token}",
                f"\n# The administrator's password, for `qq login --username admin`: {demo.admin_password}",
                f"\nqq --host {address.host} --port {address.port} --credentials-store {credentials_file} who_am_i",
            )

        serve_https(app, port=port, folder=Path(folder), on_started=announce)


def _print_lines(*lines: str) -> None:
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()


def _parse_port(text: str) -> int:
    port = int(text) if text.isdecimal() else -1
    if not 0 <= port <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {MAX_PORT}")
    return port
