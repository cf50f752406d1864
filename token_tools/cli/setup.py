"""Sets this server up for a cluster, with a credential of its own: the command `setup`.

Everything that is asked can be given as an option. The token is created as any other is: recorded before and after, in
a place that was tried, and deleted again if it cannot be kept.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio

from token_tools.cli import doctor
from token_tools.cli.config_editing import written_table
from token_tools.cli.setting_options import add_setting_option
from token_tools.cli.setup_target import KEPT_SETTINGS, PLACE_SETTINGS, Answers, Target, parse_name, plan_target
from token_tools.cli.terminal import ask, ask_whether, print_line
from token_tools.cli.trust import Agreement, add_agreement_options, trust_cluster
from token_tools.cluster.client import connect
from token_tools.cluster.identity import parse_user
from token_tools.cluster.qq import Qq
from token_tools.cluster.responses import LOOKUP_PRIVILEGE, READ_PRIVILEGE, WRITE_PRIVILEGE
from token_tools.config_file import CLUSTERS
from token_tools.errors import ClusterError, NotFound, Refusal, SettingsError, TokenToolsError, UsageError
from token_tools.operations.create import CreatePlan, create_token, plan_create
from token_tools.operations.own_credential import OwnCredential, read_own_credential
from token_tools.operations.services import Services
from token_tools.server.app import SERVER_NAME, open_fleet
from token_tools.server.callers import describe_local_user
from token_tools.shutdown import deferring_signals
from token_tools.storage.credential_delivery import CredentialDelivery
from token_tools.times import utc_now
from token_tools.views.new_tokens import render_expiry
from token_tools.views.own_expiry import WARNED_WITHIN


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--name", type=parse_name, help="What config.toml calls the cluster (default: from its name)")
    parser.add_argument("--user", help="The service account whose token the server gets, such as local:mcp-service")
    parser.add_argument("--expiration-time", metavar="TIME", help="When that token expires (default: 90d)")
    parser.add_argument("--login", metavar="FILE", help="The administrator's login (default: that of qq)")
    add_agreement_options(parser, "Trust what answers, and create the token, unasked")
    usual = {
        "host": "asked",
        "read_only": "asked",
        "credentials_file": "credentials/NAME beside config.toml, and on Windows the keyring",
    }
    for name in ("host", "port", "read_only", *PLACE_SETTINGS, *KEPT_SETTINGS, "config", "state_dir"):
        add_setting_option(parser, name, default=usual.get(name))


def run(settings: Mapping[str, Any], **answers: Any) -> int:  # noqa: ANN401 - the fields of `Answers`
    """Ask what is not given, set up, check, and return the exit status: 1 if it was not done, or if something is wrong.

    Raises:
        SettingsError: If a setting is wrong, or if nobody can be asked.
    """
    return _check(settings, anyio.run(_set_up, settings, Answers(**answers)))


def _check(settings: Mapping[str, Any], name: str | None) -> int:
    """Check everything about a cluster that was set up, and return the exit status; it is 1 if none was."""
    if name is None:
        return 1
    files = {key: value for key, value in settings.items() if key in {"config", "state_dir"}}
    print_line("Now everything is checked.\n")
    return _tell_next_step(doctor.run(files, as_json=False, clusters=[name]))


def _tell_next_step(status: int) -> int:
    print_line(f"\nNext: `{SERVER_NAME} install --client all` tells the assistants on this machine.")
    return status


async def _set_up(settings: Mapping[str, Any], answers: Answers) -> str | None:
    """Return the name of the cluster that is set up now, None if none is."""
    target = plan_target(settings, answers)
    if not await trust_cluster(target.login, Agreement(answers.expect, answers.yes)):
        return None
    if _is_lasting(await _find_own(target)):
        with written_table(target.config, target.name, target.values):
            print_line(f"{target.place.location.render()} has a credential that works: no token is created.")
        print_line(f"[{CLUSTERS}.{target.name}] is in {target.config}.")
        return target.name
    user = answers.user or ask("Service account (such as local:mcp-service)", option="--user")
    result = await _make_credential(target, answers._replace(user=user))
    if isinstance(result, UsageError):
        raise result
    return target.name if result else None


async def _find_own(target: Target) -> OwnCredential | None:
    """Return what the credential is that is in its place already; None if there is none that works."""
    try:
        async with connect(target.own) as cluster:
            return await read_own_credential(cluster)
    except (ClusterError, SettingsError):
        return None


def _is_lasting(own: OwnCredential | None) -> bool:
    """Tell whether a credential works and is not about to expire."""
    left = None if own is None else own.find_time_left(now=utc_now())
    return own is not None and (left is None or left > WARNED_WITHIN)


async def _make_credential(target: Target, answers: Answers) -> bool | UsageError:
    """Create the server's own token, and write the table; tell whether that was done, or what was asked wrongly."""
    async with open_fleet([target.login]) as fleet:
        [opened] = fleet.members
        caller = describe_local_user(f"{SERVER_NAME} setup")
        services = replace(opened, delivery=CredentialDelivery(target.place), caller=caller)
        try:
            plan = await _agree_plan(services, target, answers)
            # What becomes of the token is told before the process ends.
            with deferring_signals():
                return await _create_token(services, target, plan)
        except UsageError as failure:
            return failure
        except TokenToolsError as failure:
            return _tell_failure(failure)


async def _agree_plan(services: Services, target: Target, answers: Answers) -> CreatePlan:
    """Return the plan to create the server's own token, if a person agrees.

    Raises:
        TokenToolsError: If it cannot be created, or if nobody agrees.
    """
    plan = await _plan_token(services, target, answers)
    if not answers.yes and not ask_whether(_render_question(target, plan), option="--yes"):
        raise Refusal("No token was created.")
    return plan


async def _create_token(services: Services, target: Target, plan: CreatePlan) -> bool:
    """Create the server's own token as planned, write the table, and tell whether that was done."""
    try:
        with written_table(target.config, target.name, target.values):
            # A person may have taken minutes to agree, and another process may have done it meanwhile.
            before = await _find_own(target)
            if _is_lasting(before):
                raise Refusal("No token was created, since another process has stored one: run this again.")
            created = (await create_token(services, plan)).created
    except TokenToolsError as failure:
        return _tell_failure(failure)
    told = f"Token {created.delivered.id} was created, and is in {target.place.location.render()}."
    print_line("\n".join(filter(None, [told, created.journal_error])))
    if before is not None and before.token is not None:
        print_line(f"Token {before.token.id} was there before. Delete it, unless something else uses it.")
    print_line(f"[{CLUSTERS}.{target.name}] is in {target.config}.")
    return True


def _tell_failure(failure: TokenToolsError) -> bool:
    print_line(f"Nothing is set up: {failure}")
    return False


async def _plan_token(services: Services, target: Target, answers: Answers) -> CreatePlan:
    asked = str(answers.user)
    await services.journal.check_ready()
    try:
        return await plan_create(services, parse_user(asked), answers.expiration_time)
    except ValueError as reason:
        raise UsageError(f"--user {reason}.") from None
    except NotFound as failure:
        commands = "\n".join(
            f"  {line}" for line in _list_account_commands(services.qq, asked, is_read_only=target.is_read_only)
        )
        raise NotFound(
            f"{failure}\nIf it is a local user, these commands make it; then run this again:\n{commands}"
        ) from None


def _list_account_commands(qq: Qq, user: str, *, is_read_only: bool) -> Sequence[str]:
    """Return the commands that create a service account which may do what this server is to do."""
    writing = [] if is_read_only else [WRITE_PRIVILEGE]
    return qq.create_account(user.removeprefix("local:"), [READ_PRIVILEGE, *writing, LOOKUP_PRIVILEGE])


def _render_question(target: Target, plan: CreatePlan) -> str:
    risks = "".join(f" Mind that {risk.reason}." for risk in plan.risks)
    return (
        f"Create an access token for {plan.create_request.user} on {target.login.label}, which {render_expiry(plan)}, "
        f"and keep it in {target.place.location.render()}?{risks}"
    )
