"""Export all tokens of the cluster to a file for people, with what an audit finds about each."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from secrets import token_hex

import anyio.to_thread

from token_tools.cluster.models import AccessToken
from token_tools.operations.audit import Audit, AuditRequest, AuditResult, ProgressCallback, examine_tokens
from token_tools.operations.audit_users import UserKey, user_key_of
from token_tools.operations.export_file import ExportFormat, ExportHeader, TokenRow, open_export
from token_tools.operations.findings import find_status
from token_tools.operations.selection import DEFAULT_EXPIRING_WITHIN
from token_tools.operations.services import Services


@dataclass(frozen=True)
class Export:
    """A file that was written, and the audit whose findings it has."""

    path: Path
    audit_result: AuditResult


async def export_tokens(
    services: Services,
    file_format: ExportFormat,
    *,
    on_progress: ProgressCallback,
) -> Export:
    """Write every token of the cluster to a new file in the folder of reports.

    What is new since the last audit stands beside each token; an export is no audit, so the next one is compared with
    that same one. `on_progress` is awaited after each page with the number of tokens seen so far.

    Raises:
        ClusterError: If the cluster cannot be asked.
        DeliveryError: If the file cannot be written.
    """
    with open_export(services.report_folder, _name_file(services), file_format) as writer:

        async def write(audit: Audit, tokens: Sequence[tuple[AccessToken, Sequence[str]]]) -> None:
            now = audit.scope.now
            rows = [
                (_to_row(services, token, found, audit.drift.describe(token), now=now), user_key_of(token.user))
                for token, found in tokens
            ]
            await anyio.to_thread.run_sync(writer.add, rows)

        result = await examine_tokens(
            services, AuditRequest(DEFAULT_EXPIRING_WITHIN), on_progress=on_progress, on_page=write
        )
        scope = result.audit.scope
        header = ExportHeader(scope.now, [services.address], scope.expiring_within, result.not_known)

        def find_all(row: TokenRow, user: UserKey) -> Sequence[str]:
            return result.audit.complete_findings(user, row.findings)

        return Export(await anyio.to_thread.run_sync(writer.finish, header, find_all), result)


def _name_file(services: Services) -> str:
    cluster = re.sub("[^A-Za-z0-9.-]+", "_", services.address).strip("_")
    return f"access_tokens_{cluster}_{services.clock():%Y%m%dT%H%M%SZ}_{token_hex(2)}"


def _to_row(
    services: Services, token: AccessToken, found: Sequence[str], since_last_audit: str, *, now: datetime
) -> TokenRow:
    return TokenRow(
        cluster=services.address,
        id=token.id,
        user=str(token.user),
        creator=None if token.creator is None else str(token.creator),
        creation_time=token.creation_time,
        expiration_time=token.expiration_time,
        enabled=not token.is_disabled,
        state=find_status(token, now),
        findings=found,
        since_last_audit=since_last_audit,
    )
