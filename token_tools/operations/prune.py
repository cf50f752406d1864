"""Which files with bearer tokens are of no use any more? Each is looked at, and asked about, before one is removed.

A bearer token can be lost for ever and is never told again, so every doubt keeps its file. Its token is gone only if a
cluster that knows all tokens has none of that id, and does not take the bearer token either. A change that is under way
may be about any file of a user, so no file that it may have made is touched.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

import anyio

from token_tools.cluster.client import ClusterClient
from token_tools.cluster.clock import ClusterClock
from token_tools.cluster.responses import READ_PRIVILEGE
from token_tools.errors import ClusterError, NotFound, Unauthenticated
from token_tools.operations.own_credential import read_own_credential
from token_tools.storage.attempts import Attempt
from token_tools.storage.delivery.base import DELIVERY_TIMEOUT, run_with_timeout
from token_tools.storage.delivery.delivered_files import (
    DeliveredFile,
    OtherFile,
    list_delivered_files,
    remove_delivered_file,
)

State = Literal[
    "gone", "expired", "disabled", "working", "other token", "at work", "other cluster", "unidentified", "unclear",
    "pending", "foreign",
]  # fmt: skip
"""What is known of the token of a file.

It is `gone` if no cluster has it, and `expired`, `disabled` or `working` if one has. `other token` says that a cluster
takes the bearer token in the file, and has none of the id in its name. It is `at work` if a change is under way that
may be about it. No cluster that was asked is that of an `other cluster`. The name of an `unidentified` file does not
tell whose it is. It is `unclear` if a cluster gave no clear answer. `pending` is a file of a change that is under way
or was cut off; whatever is `foreign` was not made by a server, as far as is known.
"""

_PLACE: Final = "The folder of new bearer tokens"
_BY_LIVELINESS: Final[Sequence[State]] = ("working", "disabled", "other token", "unclear", "expired", "gone")
"""What counts if several clusters could be that of a file, the first of them before the others."""


@dataclass(frozen=True)
class AskedCluster:
    """A cluster that is asked about files: where it is, its client, and its time."""

    host: str
    port: int
    address: str
    client: ClusterClient
    clock: ClusterClock


@dataclass(frozen=True)
class ExaminedFile:
    """A file, and what is known of its token.

    `cluster` is the address of the cluster that said so; empty if none did. `detail` is the reason why something is
    `unclear` or `foreign`. `file` is None for what cannot be removed.
    """

    path: Path
    state: State
    cluster: str = ""
    detail: str = ""
    file: DeliveredFile | None = None

    @property
    def token_id(self) -> str:
        """The id of its token, as its name tells it; empty if it does not."""
        return (self.file and self.file.token_id) or ""


async def list_files(folders: Iterable[Path]) -> Sequence[DeliveredFile | OtherFile]:
    """Return what lies in the folders of new bearer tokens.

    Raises:
        DeliveryError: If one of them cannot be searched, or is not private.
    """
    found = [
        await run_with_timeout(partial(list_delivered_files, folder), DELIVERY_TIMEOUT, place=_PLACE)
        for folder in dict.fromkeys(folders)
    ]
    return [file for files in found for file in files]


async def examine_files(
    files: Sequence[DeliveredFile | OtherFile], clusters: Sequence[AskedCluster], attempts: Sequence[Attempt]
) -> Sequence[ExaminedFile]:
    """Return what is known of the token of each file, in their order.

    `attempts` are the entries of the record, of all clusters. Only the clusters that may be that of a file are asked.
    """
    ids = {file.token_id for file in files if isinstance(file, DeliveredFile) and file.token_id}
    record = _read_record(attempts, ids)
    asked = [each for each in clusters if any(_may_be_of(file, each, record) for file in files)]
    doubts = {cluster.address: await _find_doubt(cluster) for cluster in asked}
    look = _Look(clusters, record, doubts)
    examined: dict[int, ExaminedFile] = {}

    async def examine(number: int, file: DeliveredFile) -> None:
        examined[number] = await look.examine(file)

    async with anyio.create_task_group() as tasks:
        for number, file in enumerate(files):
            if isinstance(file, OtherFile):
                examined[number] = ExaminedFile(file.path, file.kind, detail=file.reason)
            else:
                tasks.start_soon(examine, number, file)
    return [examined[number] for number in sorted(examined)]


async def remove_file(file: DeliveredFile) -> bool:
    """Remove a file that is what it was when it was listed, and return whether it was still there.

    Raises:
        DeliveryError: If it cannot be removed, or is not what it was.
    """
    return await run_with_timeout(partial(remove_delivered_file, file), DELIVERY_TIMEOUT, place=_PLACE)


@dataclass(frozen=True)
class _Record:
    """What the record knows: the addresses of the clusters of each token, and which tokens are worked on.

    `is_creating` says that a token is being created whose id is not known yet.
    """

    clusters: Mapping[str, frozenset[str]]
    ids_at_work: frozenset[str]
    is_creating: bool

    def find_clusters(self, file: DeliveredFile) -> frozenset[str]:
        return self.clusters.get(file.token_id or "", frozenset())


def _read_record(attempts: Sequence[Attempt], token_ids: set[str]) -> _Record:
    named = [(each, {each.token_id, each.replaces} & token_ids) for each in attempts if each.is_tried]
    return _Record(
        {
            token_id: frozenset(each.cluster for each, ids in named if token_id in ids)
            for token_id in {token_id for _, ids in named for token_id in ids if token_id}
        },
        frozenset(token_id for each, ids in named if each.is_in_flight for token_id in ids if token_id),
        is_creating=any(each.is_in_flight and each.is_creating and each.token_id is None for each in attempts),
    )


def _may_be_of(file: DeliveredFile | OtherFile, cluster: AskedCluster, record: _Record) -> bool:
    return isinstance(file, DeliveredFile) and (
        file.is_named_after(cluster.host, cluster.port) or cluster.address in record.find_clusters(file)
    )


async def _find_doubt(cluster: AskedCluster) -> str:
    """Return why a cluster that says that there is no such token may be wrong; empty if it is right."""
    try:
        own = await read_own_credential(cluster.client)
    except ClusterError as failure:
        return str(failure)
    if own.failure is not None:
        return f"It does not show the access token that this program itself runs on: {own.failure}"
    if own.principal.privileges is not None and READ_PRIVILEGE not in own.principal.privileges:
        return f"The credential lacks {READ_PRIVILEGE}, so it may not see all tokens."
    return ""


@dataclass(frozen=True)
class _Look:
    """One look at files. `doubts` say, by address, why what a cluster says of a token does not count."""

    clusters: Sequence[AskedCluster]
    record: _Record
    doubts: Mapping[str, str]

    async def examine(self, file: DeliveredFile) -> ExaminedFile:
        """Return what is known of the token of a file."""
        possible = [cluster for cluster in self.clusters if _may_be_of(file, cluster, self.record)]
        others = self.record.find_clusters(file) - {cluster.address for cluster in possible}
        if file.token_id is None:
            return ExaminedFile(file.path, "unidentified")
        if self.record.is_creating or file.token_id in self.record.ids_at_work:
            return ExaminedFile(file.path, "at work")
        if others or not possible:
            state: State = "unidentified" if file.is_recovered and not others else "other cluster"
            return ExaminedFile(file.path, state, cluster=", ".join(sorted(others)))
        answers = [await self._ask(cluster, file, file.token_id) for cluster in possible]
        return min(answers, key=lambda answer: _BY_LIVELINESS.index(answer.state))

    async def _ask(self, cluster: AskedCluster, file: DeliveredFile, token_id: str) -> ExaminedFile:
        """Ask a cluster about the token of a file."""
        if doubt := self.doubts[cluster.address]:
            return ExaminedFile(file.path, "unclear", cluster.address, doubt)
        try:
            token = await cluster.client.get_token(token_id)
        except NotFound:
            return await _try_bearer_token(cluster, file)
        except ClusterError as failure:
            return ExaminedFile(file.path, "unclear", cluster.address, str(failure))
        if token.is_expired(now=cluster.clock()):
            return ExaminedFile(file.path, "expired", cluster.address, file=file)
        return ExaminedFile(file.path, "disabled" if token.is_disabled else "working", cluster.address)


async def _try_bearer_token(cluster: AskedCluster, file: DeliveredFile) -> ExaminedFile:
    """Ask a cluster that has no token of that id whether it takes the bearer token all the same."""
    try:
        await cluster.client.verify_bearer(file.bearer_token)
    except Unauthenticated:
        return ExaminedFile(file.path, "gone", cluster.address, file=file)
    except ClusterError as failure:
        return ExaminedFile(file.path, "unclear", cluster.address, str(failure))
    return ExaminedFile(file.path, "other token", cluster.address)
