"""Test a whole server whose own credential comes from each place, on a cluster that is trusted by its fingerprint."""

import hashlib
import json
import ssl
from pathlib import Path

import pytest

from tests.support.file_keyring import FileKeyring
from tests.support.json_rpc import create_call
from tests.support.server_process import ServedCluster, running_server, served_cluster
from token_tools.sandbox.https import LOOPBACK

REPOSITORY = Path(__file__).parents[2]


def name_source(cluster: ServedCluster, setting: str) -> dict[str, str]:
    """Put the server's credential where a setting names it, and return the variables that say so."""
    path = cluster.folder / "own-token"
    path.write_text(cluster.own_bearer_token)
    path.chmod(0o600)
    (cluster.folder / "keyring.json").write_text(json.dumps({"qumulo/mcp": cluster.own_bearer_token}))
    values = {
        "QUMULO_BEARER_TOKEN_FILE": str(path),
        "QUMULO_CREDENTIALS_COMMAND": f'sh -c \'echo "token $1" >&2; cat "$0"\' {path}',
        "QUMULO_KEYRING": "qumulo/mcp",
    }
    return {
        "QUMULO_BEARER_TOKEN": "",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHON_KEYRING_BACKEND": f"{FileKeyring.__module__}.{FileKeyring.__name__}",
        "FILE_KEYRING": str(cluster.folder / "keyring.json"),
        setting: values[setting],
    }


@pytest.mark.parametrize("setting", ["QUMULO_BEARER_TOKEN_FILE", "QUMULO_CREDENTIALS_COMMAND", "QUMULO_KEYRING"])
def test_a_server_works_with_a_credential_from_anywhere_and_tells_nothing_of_it(tmp_path: Path, setting: str) -> None:
    with served_cluster(tmp_path) as cluster:
        certificate = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((LOOPBACK, cluster.port)))
        trust = {"QUMULO_VERIFY_TLS": "", "QUMULO_FINGERPRINT": hashlib.sha256(certificate).hexdigest()}
        with running_server(cluster, streams="pipes", **name_source(cluster, setting), **trust) as server:
            server.send(create_call(2, "create_access_token", user="local:jane"))
            answer = server.read_line().decode()
            server.close(server.stdin_fd)

            assert '"isError":true' not in answer
            assert len(cluster.read_delivered()) == 1
            assert cluster.own_bearer_token[10:] not in answer
            assert server.wait_for_exit() == (0, "")


def test_a_server_that_is_shown_another_certificate_sends_nothing(tmp_path: Path) -> None:
    with served_cluster(tmp_path) as cluster:
        trust = {"QUMULO_VERIFY_TLS": "", "QUMULO_FINGERPRINT": "0" * 64}
        with running_server(cluster, streams="pipes", **trust) as server:
            server.send(create_call(2, "create_access_token", user="local:jane"))
            answer = server.read_line().decode()

        assert "Nothing was done. " in answer
        assert f"QUMULO_FINGERPRINT is {':'.join(['00'] * 32)}." in answer
        assert cluster.requests.empty()
