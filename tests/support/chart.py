"""The Helm chart, rendered by Helm's own engine, in a process of its own, since that has handlers for signals.

Run by itself, this module prints for a chart and values what Helm says of it, as JSON.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from ruamel.yaml import YAML

from tests.support.page_names import REPOSITORY

CHART = REPOSITORY / "deploy" / "helm" / "qumulo-token-tools"
TIMEOUT_SECONDS = 60
WARNING = 2
"""The severity of a finding of Helm's linter from which on it counts."""


class _Yaml(Protocol):
    """What is used of `YAML`, with types."""

    def load(self, stream: str) -> dict[str, Any] | None:
        """Return what a document says, None if it is empty."""


@dataclass(frozen=True)
class RenderedChart:
    """What Helm makes of the chart with some values: `findings` of its linter, and `manifests` as text by template."""

    findings: Sequence[str]
    manifests: Mapping[str, str]

    def find(self, kind: str) -> dict[str, Any]:
        """Return the one object of this kind."""
        objects = [_open_yaml().load(manifest) for manifest in self.manifests.values()]
        [found] = [item for item in objects if item is not None and item["kind"] == kind]
        return found


def read_yaml(text: str) -> dict[str, Any]:
    """Return what a YAML document says, which has to say something."""
    content = _open_yaml().load(text)
    assert content is not None
    return content


def _open_yaml() -> _Yaml:
    return YAML(typ="safe")


def render_chart(*values: Mapping[str, Any]) -> Sequence[RenderedChart | str]:
    """Render the chart with each of these values; return why not, where Helm refuses them."""
    command = [sys.executable, "-m", "tests.support.chart", str(CHART), json.dumps(values)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True, cwd=REPOSITORY)
    return [answer if isinstance(answer, str) else RenderedChart(**answer) for answer in json.loads(run.stdout)]


def _describe(chart: str, values: Mapping[str, Any]) -> Mapping[str, Any] | str:
    helm = import_module("helm_python")
    try:
        with helm.Chart.load(chart) as loaded:
            loaded.validate_schema(values)
            rendered = loaded.render(values, name="tokens", namespace="token-tools")
    except helm.HelmError as refusal:
        return str(refusal)
    report = helm.lint(chart, values=values)
    findings = [message["error"] for message in report["messages"] if message["severity"] >= WARNING]
    return {
        "findings": [*findings, *report["errors"]],
        "manifests": {name: text for name, text in rendered.items() if name.endswith(".yaml") and text.strip()},
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps([_describe(sys.argv[1], values) for values in json.loads(sys.argv[2])]))
