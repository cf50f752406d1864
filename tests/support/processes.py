"""Processes of this machine that a test has started by way of others."""

import uuid

import psutil


def make_argument() -> str:
    """Return an argument for `sleep` by which the processes of one test are found."""
    return f"99{uuid.uuid4().int % 10**9}"


def find_processes(argument: str) -> list[psutil.Process]:
    """Return the processes with this argument, but no dead one that nobody has taken leave of."""
    found = [p for p in psutil.process_iter(["cmdline", "status"]) if argument in (p.info["cmdline"] or ())]
    return [p for p in found if p.info["status"] != psutil.STATUS_ZOMBIE]
