"""Reads all pages of the list of tokens with the vendor's SDK, and prints the time and memory that it took, as JSON."""

import json
import os
import sys
import time

import psutil
from qumulo.lib.auth import Credentials  # pyright: ignore[reportMissingTypeStubs]
from qumulo.rest_client import RestClient  # pyright: ignore[reportMissingTypeStubs]


def main(limit: int) -> None:
    """Read everything, `limit` tokens a page, and only count the tokens."""
    process = psutil.Process()
    client = RestClient(
        os.environ["QUMULO_HOST"], int(os.environ["QUMULO_PORT"]), Credentials(os.environ["QUMULO_BEARER_TOKEN"])
    )
    idle = peak = process.memory_info().rss
    began = time.perf_counter()
    tokens = 0
    for page in client.access_tokens.list(limit=limit):
        tokens += len(page.entries)
        peak = max(peak, process.memory_info().rss)
    seconds = time.perf_counter() - began
    json.dump({"seconds": seconds, "tokens": tokens, "idle": idle, "peak": peak}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]))
