"""Can this server keep what it has to keep? The journal, new bearer tokens and exported files are tried in earnest."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import anyio.to_thread

from token_tools.cli.checks.check import Check, report_failure
from token_tools.cluster.qq import Qq
from token_tools.configuration import Profile
from token_tools.errors import DeliveryError, JournalError, Refusal, SettingsError
from token_tools.http_settings import HttpSettings
from token_tools.operations.export_file import open_export
from token_tools.server.app import SERVER_NAME
from token_tools.storage.delivery import CommandDelivery, Delivery, FileDelivery, choose_delivery
from token_tools.storage.journal import Journal, Limits
from token_tools.storage.state import open_state
from token_tools.times import Clock, format_duration

_JOURNAL_COMMAND = "`qumulo-token-tools journal --unfinished` tells more"


async def check_storage(profile: Profile, service: HttpSettings | None, clock: Clock) -> AsyncIterator[Check]:
    """Yield what is the case with the journal, what it has unfinished, the delivery, and the folder of reports.

    `service` is how the cluster is served over HTTP, None if it is not.
    """
    settings = profile.settings
    try:
        connections = open_state(settings, clock)
    except SettingsError as failure:
        yield report_failure("journal", failure)
        return
    async with AsyncExitStack() as cleanup:
        cleanup.callback(connections.close)
        limits = Limits(settings.keep_record, settings.max_changes)
        journal = Journal(connections, cluster=settings.address, clock=clock, limits=limits)
        yield await _check_journal(journal, connections.database.where)
        yield await _check_unfinished(journal)
    if settings.may_create_tokens and settings.delivery == "pickup":
        yield _check_pickup(profile, service)
    elif settings.may_create_tokens:
        delivery = choose_delivery(settings, Qq(settings.host, settings.port))
        yield await _check_delivery(delivery, profile)
    elif service is not None and not settings.read_only:
        mend = "docs/pickup.md has how people get them; set QUMULO_READ_ONLY if none is to be created"
        yield Check("delivery", "skipped", "new bearer tokens have no place, so nothing can create a token", mend)
    if settings.may_write_reports:
        yield await anyio.to_thread.run_sync(_check_reports, profile)


async def _check_journal(journal: Journal, where: object) -> Check:
    try:
        await journal.check_ready()
    except JournalError as failure:
        return report_failure("journal", failure)
    except Refusal as refusal:
        return Check("journal", "warning", str(refusal), "wait, or raise QUMULO_MAX_CHANGES")
    return Check("journal", "ok", f"{where} can be written")


async def _check_unfinished(journal: Journal) -> Check:
    try:
        unfinished = [attempt for attempt in await journal.list_attempts() if attempt.is_unfinished]
    except JournalError as failure:
        return report_failure("unfinished", failure)
    if not unfinished:
        return Check("unfinished", "ok", "nothing that was begun is left without an end")
    details = [f"{attempt.operation} for {attempt.user}" for attempt in unfinished[:5]]
    return Check("unfinished", "warning", f"{len(unfinished)} left without a known end", _JOURNAL_COMMAND, details)


def _check_pickup(profile: Profile, service: HttpSettings | None) -> Check:
    """Tell where new bearer tokens wait. Whether they can is told by the checks of the journal and of the client."""
    if service is None:
        mend = (
            f"set QUMULO_HTTP_ISSUER, QUMULO_HTTP_CLIENT_ID and QUMULO_HTTP_STATE_KEYS for `{SERVER_NAME} http`; "
            "for other clients, set QUMULO_DELIVERY to file, keyring or command"
        )
        return Check("delivery", "failed", "QUMULO_DELIVERY=pickup needs pages, which are served over HTTP alone", mend)
    waiting = format_duration(profile.settings.pickup_time)
    return Check(
        "delivery", "ok", f"new bearer tokens wait in the journal, sealed, for {waiting}: {service.pickup_url}"
    )


async def _check_delivery(delivery: Delivery, profile: Profile) -> Check:
    settings = profile.settings
    try:
        await (await delivery.reserve()).release()
    except DeliveryError as failure:
        return report_failure("delivery", failure)
    if settings.delivery == "inline":
        mend = "set QUMULO_DELIVERY to command, file or keyring, unless that is meant"
        return Check("delivery", "warning", "new bearer tokens go into the answer, and so to the model", mend)
    return Check("delivery", "ok", f"new bearer tokens {_render_place(delivery)}")


def _render_place(delivery: Delivery) -> str:
    """Return where new bearer tokens go once that was reserved, and what this has proved of it."""
    match delivery:
        case FileDelivery():
            return f"go to {delivery.folder}, which was tried"
        case CommandDelivery(check=None):
            return f"are handed to {delivery.render_name()}, which can be executed; no QUMULO_DELIVERY_CHECK is set"
        case CommandDelivery():
            return f"are handed to {delivery.render_name()}; QUMULO_DELIVERY_CHECK ended with 0"
        case _:
            return "go to the system's keyring, which was tried"


def _check_reports(profile: Profile) -> Check:
    folder = profile.settings.report_dir
    try:
        with open_export(folder, "doctor", "csv") as export:
            export.try_room()
    except DeliveryError as failure:
        return report_failure("reports", failure)
    return Check("reports", "ok", f"exported files go to {folder}, which was tried")
