"""nginx in front of replicas: each request goes to the next of them, whoever sends it."""

import os
import subprocess
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import which
from typing import Final

import anyio
import pytest

from tests.support.http_server import PAUSE_SECONDS, REPLICA_HEADER, TIMEOUT_SECONDS, Place

NGINX: Final = which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))

needs_nginx: Final = pytest.mark.skipif(NGINX is None, reason="nginx is missing: `apt-get install nginx`")

_CONFIGURATION: Final = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream replicas {{ {servers} }}
  server {{
    listen unix:{folder}/front.sock;
    location / {{
      proxy_pass http://replicas;
      proxy_http_version 1.1;
      proxy_buffering off;
      proxy_set_header Host $host;
      proxy_set_header Connection "";
      add_header {header} $upstream_addr always;
    }}
  }}
}}
"""


@asynccontextmanager
async def running_nginx(folder: Path, replicas: Sequence[Path]) -> AsyncGenerator[Place]:
    """Serve what these sockets serve, in turn, at a socket in a folder of its own."""
    assert NGINX is not None
    # Root's workers would be another user, who may not use the sockets of the replicas.
    user = "user root;" if os.geteuid() == 0 else ""
    # With a count of failures, a replica that was started again would get nothing for a while.
    servers = " ".join(f"server unix:{replica} max_fails=0;" for replica in replicas)
    configuration = folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(user=user, folder=folder, servers=servers, header=REPLICA_HEADER))
    errors = folder / "error.log"
    with subprocess.Popen([NGINX, "-e", str(errors), "-c", str(configuration), "-p", str(folder)]) as process:
        try:
            with anyio.fail_after(TIMEOUT_SECONDS):
                while not (folder / "front.sock").exists():
                    assert process.poll() is None, errors.read_text()
                    await anyio.sleep(PAUSE_SECONDS)
            yield Place("http://localhost", folder / "front.sock")
        finally:
            process.terminate()
            assert process.wait(TIMEOUT_SECONDS) == 0
