"""Test that linters find nothing in `deploy/`, and that its files say what the code does.

The linters are those that PyPI (extra `deploy`), Debian and npm carry; a test is skipped where its linter is missing.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import pytest
import trustme

from tests.support.chart import CHART, RenderedChart, read_yaml, render_chart
from tests.support.environment import set_environment
from tests.support.page_names import REPOSITORY
from tests.support.sandbox_process import run_process
from token_tools import __version__
from token_tools.configuration import load_http_settings, load_settings
from token_tools.http_settings import FIELDS, MCP_PATH, PICKUP_PATH, TcpAddress
from token_tools.server.http.access_log import LIVENESS_PATH, METADATA_PATH, READINESS_PATH
from token_tools.server.http.bounds import BOUNDS
from token_tools.setting_names import variable_name
from token_tools.settings import SECRET_SETTINGS, Settings
from token_tools.shutdown import CLEANUP_TIMEOUT
from token_tools.times import parse_duration

pytestmark = pytest.mark.slow

DEPLOY: Final = REPOSITORY / "deploy"
DOCKERFILE: Final = DEPLOY / "Dockerfile"
COMPOSE: Final = DEPLOY / "compose.yaml"
NGINX: Final = DEPLOY / "nginx"
UNIT: Final = DEPLOY / "systemd" / "qumulo-token-tools.service"
PICKUP: Final = UNIT.with_name("pickup.conf")
AUDIT: Final = UNIT.with_name("qumulo-token-audit.service")
WEBHOOK: Final = UNIT.with_name("webhook.conf")
SCHEMA: Final[dict[str, Any]] = json.loads((CHART / "values.schema.json").read_text())
FILES: Final = [file for file in sorted(DEPLOY.rglob("*")) if file.is_file()]

NPM_BIN: Final = os.environ.get("DEPLOY_BIN")
"""The folder of the linter from npm, if somebody has installed it."""

USER: Final = 65532
PORT: Final = 8080
PATHS: Final = [MCP_PATH, f"{METADATA_PATH}{MCP_PATH}", METADATA_PATH, LIVENESS_PATH]
"""What is open to everybody's requests; of it, all but the first answers who has no access token too."""

EXPOSURE: Final = "13"
"""The worst that systemd may say of a unit, in tenths of ten."""

ASKED_PATHS: Final = {
    "/pickup/the-id-of-a-page": 502,
    "/pickup/callback?code=the-code": 502,
    "/mcp?code=the-code": 400,
    "/pickup": 404,
}
"""What is asked of an nginx with nobody behind it, each with its answer."""

SMALL: Final[Mapping[str, Any]] = {
    "image": {"repository": "registry.example.com/qumulo-token-tools"},
    "existingSecret": "token-tools",
    "settings": {
        "QUMULO_HOST": "cluster.example.com",
        "QUMULO_HTTP_URL": "https://tokens.example.com",
        "QUMULO_HTTP_ISSUER": "https://login.example.com",
    },
}
LARGE: Final[Mapping[str, Any]] = {
    **SMALL,
    "image": {"repository": "registry.example.com/qumulo-token-tools", "digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "registry"}],
    "settings": SMALL["settings"] | {"QUMULO_HTTP_CLIENT_ID": "token-tools-pages"},
    "secretFiles": ["bearer-token", "keys.toml", "client-secret"],
    "ca": {"cluster": "cluster-ca", "issuer": "issuer-ca", "database": "database-ca"},
    "tlsSecret": "pod-tls",
    "timeoutSeconds": 60,
    "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tokens-tls"},
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]},
    "networkPolicy": {"enabled": True, "from": [{"podSelector": {}}], "egress": [{"ports": [{"port": 443}]}]},
    "podLabels": {"team": "storage"},
    "podAnnotations": {"team": "storage"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "priorityClassName": "high",
}
OTHER: Final[Mapping[str, Any]] = {**SMALL, "settings": SMALL["settings"] | {"QUMULO_READ_ONLY": True}}
REFUSED: Final[Mapping[str, Mapping[str, Any]]] = {
    "existingSecret": {"existingSecret": ""},
    "QUMULO_STATE_URL": {"settings": SMALL["settings"] | {"QUMULO_STATE_URL": "postgresql://u@h/d"}},
    "QUMULO_READONLY": {"settings": SMALL["settings"] | {"QUMULO_READONLY": True}},
    "QUMULO_HTTP_ISSUER": {"settings": {"QUMULO_HOST": "c", "QUMULO_HTTP_URL": "https://tokens.example.com"}},
    "QUMULO_HTTP_URL": {"settings": {"QUMULO_HOST": "c", "QUMULO_HTTP_ISSUER": "https://login.example.com"}},
    "bearer-token": {"secretFiles": ["keys.toml"]},
    "tlsSecret": {"ingress": {"enabled": True}},
}
"""Values with which no server would start, or nobody would reach it, each by what the refusal has to name."""

needs_helm = pytest.mark.skipif(find_spec("helm_python") is None, reason="helm-python-sdk is not installed")
values = pytest.mark.parametrize("values", [SMALL, LARGE], ids=["small", "large"])


@cache
def render_all() -> Sequence[RenderedChart | str]:
    return render_chart(SMALL, LARGE, OTHER, *({**SMALL, **changed} for changed in REFUSED.values()))


def render(values: Mapping[str, Any]) -> RenderedChart:
    """Return the chart with values of which Helm takes all."""
    known: Sequence[Mapping[str, Any]] = (SMALL, LARGE, OTHER)
    rendered = render_all()[known.index(values)]
    assert isinstance(rendered, RenderedChart), rendered
    return rendered


def lint(linter: str, *arguments: str | Path, folder: str | Path | None = Path(sys.executable).parent) -> None:
    """Run a linter, which has to find nothing; skip the test where there is none. No folder is that of the system."""
    found = shutil.which(linter, path=folder if folder is None else str(folder))
    if found is None:
        pytest.skip(f"{linter} is not installed")
    run = run_process(found, *map(str, arguments))
    assert run.returncode == 0, run.stdout + run.stderr


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    lint("hadolint", DOCKERFILE)


def test_the_compose_file_is_one_by_the_specification() -> None:
    lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


@pytest.mark.skipif(NPM_BIN is None, reason="DEPLOY_BIN names no folder with the linter from npm")
def test_dclint_finds_no_mistake_in_the_compose_file() -> None:
    # The port of nginx is for all interfaces: it is the one that others call.
    lint("dclint", COMPOSE, "--quiet", "--disable-rule", "no-unbound-port-interfaces", folder=NPM_BIN)


def test_yamllint_finds_nothing_in_the_yaml_files() -> None:
    rules = "{extends: default, rules: {line-length: {max: 120}, document-start: disable}}"

    lint("yamllint", "--strict", "--config-data", rules, COMPOSE, CHART / "values.yaml", CHART / "Chart.yaml")


@needs_helm
def test_helm_finds_nothing_in_the_chart() -> None:
    assert [*render(SMALL).findings, *render(LARGE).findings] == []


@needs_helm
def test_kubernetes_accepts_the_objects_of_the_chart(tmp_path: Path) -> None:
    for size, chart in {"small": render(SMALL), "large": render(LARGE)}.items():
        for name, manifest in chart.manifests.items():
            (tmp_path / f"{size}_{Path(name).name}").write_text(manifest)

    # No schema of a Gateway is in there, so an HTTPRoute is not looked at.
    lint("kubernetes-validate", "--strict", *tmp_path.iterdir())


@needs_helm
@pytest.mark.parametrize("named", REFUSED)
def test_helm_refuses_values_with_which_nobody_would_be_served(named: str) -> None:
    refusal = render_all()[3 + [*REFUSED].index(named)]

    assert isinstance(refusal, str)
    assert named in refusal


@pytest.mark.parametrize("main", ["nginx.conf", "one-machine.conf"])
def test_nginx_accepts_its_configuration(main: str, tmp_path: Path) -> None:
    lint("nginx", "-t", "-q", "-c", write_nginx(tmp_path, main), folder="/usr/sbin:/usr/local/sbin:/usr/bin")


def test_nginx_leads_people_to_the_pages_and_tells_its_logs_neither_page_nor_code() -> None:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    # The paths of sockets have to be short, and those of pytest's folders are not.
    with TemporaryDirectory(prefix="nginx-") as name:
        main, socket = write_nginx(Path(name), "nginx.conf"), Path(name, "front.sock")
        main.write_text(main.read_text().replace("8443", f"unix:{socket}").replace("stderr", f"{name}/error.log"))
        # Nobody is behind it. As a daemon, it returns once it listens.
        user = "user root;" if os.geteuid() == 0 else ""
        started = run_process(nginx, "-e", f"{name}/error.log", "-c", str(main), "-g", user)
        try:
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket), verify=False)) as client:
                answers = [client.get(f"https://tokens.example.com{path}").status_code for path in ASKED_PATHS]
        finally:
            run_process(nginx, "-c", str(main), "-s", "stop")
        logs = Path(name, "access.log").read_text(), Path(name, "error.log").read_text()

    assert started.returncode == 0, started.stderr
    assert answers == [*ASKED_PATHS.values()]
    assert re.findall(r'"path":"(.*?)"', logs[0]) == ["/pickup", "/pickup", "/mcp", "/pickup"]
    assert not [log for log in logs if "the-id-of-a-page" in log or "the-code" in log]


def test_gixy_finds_nothing_in_the_configuration_of_nginx(tmp_path: Path) -> None:
    # Addresses are looked up again by the reload that the page about deployment has. Events have to go on at once.
    lint("gixy", "--skips", "stale_dns_cache,proxy_buffering_off", write_nginx(tmp_path, "nginx.conf"))


def write_nginx(folder: Path, main: str) -> Path:
    """Write a configuration of nginx with what this machine has: a certificate, no other hosts, any user."""
    certificate = trustme.CA().issue_cert("tokens.example.com")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "tls.pem")
    shutil.copytree(NGINX, folder / "token-tools")
    text = (NGINX / main).read_text()
    for pattern, here in (
        (r"/tmp/", f"{folder}/"),  # noqa: S108 - it is what the container writes to
        (r"(/run/secrets|/etc/nginx/token-tools)/tls\.\w+", str(folder / "tls.pem")),
        (r"server-[ab]:", "127.0.0.1:"),
        (r"/dev/stdout|/var/log/nginx/[\w.-]+", str(folder / "access.log")),
    ):
        text = re.sub(pattern, here, text)
    if main == "nginx.conf":
        written = folder / "token-tools" / "main.conf"
    else:
        # It is included by the system's own file, which is in the folder above.
        text, written = f"error_log stderr; events {{}} http {{\n{text}\n}}", folder / "main.conf"
    written.write_text(text)
    return written


@pytest.mark.parametrize(("unit", "extension"), [(UNIT, PICKUP), (AUDIT, WEBHOOK)], ids=["server", "audit"])
def test_systemd_accepts_the_unit(unit: Path, extension: Path, tmp_path: Path) -> None:
    written, extending = tmp_path / unit.name, tmp_path / f"{unit.name}.d" / extension.name
    extending.parent.mkdir()
    # What is started has to be there, and so has the manual that is named.
    for source, place in ((unit, written), (extension, extending)):
        place.write_text(re.sub(r"/opt/qumulo-token-tools/(lib|bin/q)\S+", sys.executable, source.read_text()))
    timers = [shutil.copy(timer, tmp_path) for timer in unit.parent.glob(f"{unit.stem}.timer")]

    lint("systemd-analyze", "verify", "--man=no", written, *timers, folder=None)
    lint("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", written, folder=None)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(DEPLOY)))
def test_each_setting_in_a_file_is_one_of_the_program(file: Path) -> None:
    names = {*re.findall(r"QUMULO_[A-Z_]*[A-Z]", file.read_text())}

    assert names <= {variable_name(name) for name in FIELDS}


def test_no_file_has_a_secret_or_a_setting_that_lets_everybody_in() -> None:
    closed = {variable_name(name) for name in SECRET_SETTINGS} | {"QUMULO_HTTP_ANONYMOUS"}
    given = re.compile(rf"\b({'|'.join(sorted(closed))})[=:] *\S")

    assert [file.name for file in FILES if given.search(file.read_text())] == []


@needs_helm
def test_each_setting_can_be_set_in_the_chart_or_is_set_by_it() -> None:
    free = {*SCHEMA["properties"]["settings"]["properties"]}
    by_chart = {*render(LARGE).find("ConfigMap")["data"]} - {*LARGE["settings"]}
    by_secret = {entry["name"] for entry in find_container(render(LARGE))["env"]}
    by_image = {*re.findall(r"QUMULO_[A-Z_]+", DOCKERFILE.read_text())}
    without_tls = {"QUMULO_HTTP_TLS_IN_FRONT"}
    of_other_kinds = {
        "QUMULO_BEARER_TOKEN",
        "QUMULO_CREDENTIALS_FILE",
        "QUMULO_CREDENTIALS_COMMAND",
        "QUMULO_KEYRING",
        "QUMULO_CONFIG",
        "QUMULO_HTTP_ANONYMOUS",
    }
    parts = [free, by_chart, by_secret, by_image, without_tls, of_other_kinds]

    assert set().union(*parts) == {variable_name(name) for name in FIELDS}
    assert sum(map(len, parts)) == len(FIELDS)


@needs_helm
@values
def test_the_server_takes_the_settings_of_the_chart(
    values: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chart = render(values)
    secrets = {"QUMULO_STATE_URL": "postgresql://tokens@db.example.com/tokens", "QUMULO_HTTP_STATE_KEYS": "A" * 44}
    given = {name: place_files(value, tmp_path) for name, value in chart.find("ConfigMap")["data"].items()}
    set_environment(monkeypatch, read_image_settings() | given | secrets)

    settings = load_http_settings({})

    assert settings.offers_pickup == (values is LARGE)
    assert (settings.read_client_secret() is None) == (values is SMALL)
    assert str(settings.http_listen) == f"0.0.0.0:{PORT}"
    assert load_settings({}).host == "cluster.example.com"


def test_the_server_takes_the_settings_of_compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = read_yaml(COMPOSE.read_text())["services"]["server-a"]["environment"]
    # The page about deployment says what is in this file.
    config = tmp_path / "config.toml"
    config.write_text(f'state_url = "postgresql://tokens:s3cret@database/tokens"\nhttp_state_keys = ["{"A" * 44}"]\n')
    config.chmod(0o600)
    given = {name: place_files(value, tmp_path) for name, value in environment.items()}
    set_environment(monkeypatch, read_image_settings() | read_example() | given)

    assert load_http_settings({}).http_state_keys is not None
    assert load_settings({}).host == "cluster.example.com"


def test_the_server_takes_the_settings_of_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, read_example() | read_unit_settings(UNIT, tmp_path))

    assert load_http_settings({}).http_listen == TcpAddress("127.0.0.1", PORT)
    assert load_settings({}).host == "cluster.example.com"


def test_the_server_takes_the_settings_of_pick_up_beside_those_of_the_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'http_state_keys = ["{"A" * 44}"]\n')
    config.chmod(0o400)
    given = read_unit_settings(UNIT, tmp_path) | read_unit_settings(PICKUP, tmp_path)
    set_environment(monkeypatch, read_example() | given | {"QUMULO_HTTP_CLIENT_ID": "token-tools-pages"})

    settings = load_http_settings({})

    assert settings.redirect_uri == "https://tokens.example.com/pickup/callback"
    assert settings.read_client_secret() is not None


def read_unit_settings(unit: Path, folder: Path) -> dict[str, str]:
    environment: list[tuple[str, str]] = re.findall(r"^Environment=(\w+)=(.*)$", unit.read_text(), re.MULTILINE)
    return {name: place_files(re.sub("%[dS]", "/run/secrets", value), folder) for name, value in environment}


def place_files(value: str, folder: Path) -> str:
    """Return a path of a deployment as one of this machine, where a file is; any other value as it is."""
    if not value.startswith("/"):
        return value
    place = folder / Path(value).name
    if place.suffix == ".pem":
        trustme.CA().cert_pem.write_to_path(place)
    elif not place.exists():
        place.write_text("access-v1:SECRETSECRET")
        place.chmod(0o400)
    return str(place)


def read_image_settings() -> dict[str, str]:
    return {name: value for name, value in read_docker_words("ENV") if name.startswith("QUMULO_")}


def read_docker_words(instruction: str) -> list[tuple[str, str]]:
    [words] = re.findall(rf"^{instruction} ((?:.*\\\n)*.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    return re.findall(r"(\w+)=(\S+)", words)


def read_example() -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / "server.env.example").read_text(), re.MULTILINE))


@needs_helm
def test_probes_ask_what_the_server_answers() -> None:
    container = find_container(render(SMALL))
    asked = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}

    assert asked == {"startup": LIVENESS_PATH, "liveness": LIVENESS_PATH, "readiness": READINESS_PATH}
    assert f"'{LIVENESS_PATH}'" in DOCKERFILE.read_text()


@needs_helm
@values
def test_a_pod_has_more_time_to_end_than_its_server_takes(values: Mapping[str, Any]) -> None:
    chart = render(values)
    pod = chart.find("Deployment")["spec"]["template"]["spec"]
    waited = timedelta(seconds=find_container(chart)["lifecycle"]["preStop"]["sleep"]["seconds"])
    timeout = parse_duration(chart.find("ConfigMap")["data"]["QUMULO_TIMEOUT"])

    assert timedelta(seconds=pod["terminationGracePeriodSeconds"]) > waited + timeout + CLEANUP_TIMEOUT


def test_containers_and_the_unit_have_more_time_to_end_than_their_server_takes() -> None:
    [of_unit] = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    of_container = parse_duration(read_yaml(COMPOSE.read_text())["services"]["server-a"]["stop_grace_period"])

    assert (
        min(timedelta(seconds=int(of_unit)), of_container) > Settings.model_fields["timeout"].default + CLEANUP_TIMEOUT
    )


@needs_helm
def test_what_is_in_front_waits_for_a_call_and_opens_nothing_but_the_paths_of_clients() -> None:
    nginx = (NGINX / "server.conf").read_text()
    chart = render(LARGE)
    [route] = chart.find("HTTPRoute")["spec"]["rules"]
    annotation = chart.find("Ingress")["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"]
    [of_nginx] = re.findall(r"proxy_read_timeout (\w+);", nginx)
    [mebibytes] = re.findall(r"client_max_body_size (\d+)m;", nginx)

    assert min(map(parse_duration, [of_nginx, f"{annotation}s", route["timeouts"]["request"]])) > BOUNDS.call_timeout
    assert int(mebibytes) << 20 == BOUNDS.body_bytes
    assert re.findall(r"location = (\S+)", nginx) == PATHS
    assert re.findall(r"location ~ (\S+)", nginx) == [f"^{PICKUP_PATH}/"]
    assert list_open_paths(render(LARGE)) == [[*PATHS, PICKUP_PATH]] * 2


@needs_helm
def test_without_a_client_for_them_the_chart_opens_no_pages() -> None:
    values = {**LARGE, "settings": SMALL["settings"]}
    [chart] = render_chart(values)

    assert isinstance(chart, RenderedChart)
    assert list_open_paths(chart) == [PATHS] * 2


def list_open_paths(chart: RenderedChart) -> list[list[str]]:
    """Return the paths that the Ingress and the HTTPRoute of a chart pass on."""
    [rule], [route] = chart.find("Ingress")["spec"]["rules"], chart.find("HTTPRoute")["spec"]["rules"]
    return [
        [path["path"] for path in rule["http"]["paths"]],
        [match["path"]["value"] for match in route["matches"]],
    ]


def test_nginx_tells_its_log_no_header_and_changes_no_host() -> None:
    logged = {*re.findall(r"\$(\w+)", (NGINX / "http.conf").read_text().partition("log_format")[2])}

    assert not {name for name in logged if name.startswith(("http_", "sent_http", "cookie", "arg", "request_uri"))}
    assert logged.isdisjoint({"request", "args", "query_string", "request_body"})
    assert "proxy_set_header Host $host;" in (NGINX / "server.conf").read_text()


@needs_helm
def test_the_user_and_the_port_are_the_same_everywhere() -> None:
    chart = render(SMALL)
    pod = chart.find("Deployment")["spec"]["template"]["spec"]
    compose = read_yaml(COMPOSE.read_text())["services"]
    [container_port] = find_container(chart)["ports"]
    upstream = re.findall(
        r"server [\w.-]+:(\d+)", (NGINX / "nginx.conf").read_text() + (NGINX / "one-machine.conf").read_text()
    )

    assert f"USER {USER}:{USER}" in DOCKERFILE.read_text()
    assert compose["server-a"]["user"] == f"{USER}:{USER}"
    assert pod["securityContext"].items() >= {"runAsUser": USER, "runAsGroup": USER, "runAsNonRoot": True}.items()
    assert f"EXPOSE {PORT}" in DOCKERFILE.read_text()
    assert f"'127.0.0.1', {PORT}" in DOCKERFILE.read_text()
    assert container_port["containerPort"] == PORT
    assert {*upstream} == {str(PORT)}


def test_each_container_of_compose_is_confined() -> None:
    for service in read_yaml(COMPOSE.read_text())["services"].values():
        user, _, group = service["user"].partition(":")
        assert user.isdecimal()
        assert group.isdecimal()
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


@needs_helm
def test_each_container_of_the_chart_is_confined() -> None:
    chart = render(LARGE)
    for pod in (chart.find("Deployment")["spec"]["template"]["spec"], chart.find("Pod")["spec"]):
        [container] = pod["containers"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@needs_helm
def test_other_settings_make_other_pods() -> None:
    before, after = (render(values).find("Deployment")["spec"]["template"]["metadata"] for values in (SMALL, OTHER))

    assert before["annotations"] != after["annotations"]


def test_only_what_the_image_needs_is_sent_to_the_builder() -> None:
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()

    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == {*" ".join(copied).split()}


def test_the_version_is_that_of_the_package() -> None:
    chart = read_yaml((CHART / "Chart.yaml").read_text())
    services = read_yaml(COMPOSE.read_text())["services"]

    assert chart["version"] == chart["appVersion"] == __version__
    assert services["server-a"]["image"] == services["server-b"]["image"] == f"qumulo-token-tools:{__version__}"


def find_container(chart: RenderedChart) -> dict[str, Any]:
    containers: list[dict[str, Any]] = chart.find("Deployment")["spec"]["template"]["spec"]["containers"]
    [container] = containers
    return container
