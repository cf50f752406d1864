"""Each host once: its file, the form of an entry in it, its own command, and what its user does afterwards.

Sources: the documentation of each host as of November 2026, and what the commands of four of them write.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from token_tools.cli.hosts.entries import CALL_TIMEOUT_SECONDS, ENTRY_NAME, START_TIMEOUT_SECONDS, Form
from token_tools.paths import find_host_folders

Scope = Literal["user", "project"]
FileFormat = Literal["json", "toml", "yaml"]

_MS_PER_SECOND: Final = 1000
_PLAIN: Final = Form()
_RESTART: Final = "Restart it, or reload its list of MCP servers."


@dataclass(frozen=True)
class Host:
    """A program that can start this server.

    `files` are templates of paths for each scope, the one to be created first; an existing one of them is used.
    `program` is the host's own command. An installed host is known by it, or by one of the paths in `marks`: without
    them, by the folder of its file.
    """

    name: str
    title: str
    files: Mapping[Scope, Sequence[str]]
    root: str = "mcpServers"
    form: Form = _PLAIN
    file_format: FileFormat = "json"
    program: str | None = None
    marks: Sequence[str] = field(default=())
    afterwards: str = _RESTART

    def find_file(self, scope: Scope) -> Path:
        """Return the path of the host's file in a scope that it has, whether the file is there or not."""
        paths = [_expand(template) for template in self.files[scope]]
        return next((path for path in paths if path.exists()), paths[0])

    def list_scopes(self) -> Sequence[Scope]:
        """Return the scopes with a file of their own: in the home folder, that of a project is the user's."""
        own = os.path.realpath(self.find_file("user"))
        return [scope for scope in self.files if scope == "user" or os.path.realpath(self.find_file(scope)) != own]

    def is_found(self) -> bool:
        """Tell whether this host seems to be installed for this user."""
        marks = [*map(_expand, self.marks)] or [_expand(template).parent for template in self.files["user"]]
        return any(mark.exists() for mark in marks) or bool(self.program and shutil.which(self.program))


def _expand(template: str) -> Path:
    return Path(template.format_map(find_host_folders()))


HOSTS: Final[Mapping[str, Host]] = {
    host.name: host
    for host in (
        Host(
            "claude-desktop",
            "Claude Desktop",
            {"user": ["{application}/Claude/claude_desktop_config.json"]},
            afterwards="Quit Claude Desktop fully, not only its window, and start it again.",
        ),
        Host(
            "claude-code",
            "Claude Code",
            {"user": ["{claude}/.claude.json"], "project": ["{project}/.mcp.json"]},
            program="claude",
            marks=["{claude}/.claude.json", "{home}/.claude"],
            afterwards="Start a new session; `/mcp` shows the server.",
        ),
        Host(
            "vscode",
            "VS Code",
            {"user": ["{application}/Code/User/mcp.json"], "project": ["{project}/.vscode/mcp.json"]},
            root="servers",
            form=_PLAIN.with_constants(type="stdio"),
            program="code",
            afterwards="`MCP: List Servers` in the command palette starts it and shows its output.",
        ),
        Host(
            "cursor",
            "Cursor",
            {"user": ["{home}/.cursor/mcp.json"], "project": ["{project}/.cursor/mcp.json"]},
            afterwards="Enable the server in Cursor's settings, under MCP.",
        ),
        Host(
            "codex",
            "Codex",
            {"user": ["{codex}/config.toml"], "project": ["{project}/.codex/config.toml"]},
            root="mcp_servers",
            # Without them Codex waits 10 and 60 seconds.
            form=_PLAIN.with_constants(
                startup_timeout_sec=START_TIMEOUT_SECONDS, tool_timeout_sec=CALL_TIMEOUT_SECONDS
            ),
            file_format="toml",
            program="codex",
            afterwards="Start a new session; `/mcp` shows the server.",
        ),
        Host(
            "gemini",
            "Gemini CLI",
            {"user": ["{gemini}/.gemini/settings.json"], "project": ["{project}/.gemini/settings.json"]},
            program="gemini",
            afterwards="Start a new session; `/mcp list` shows the server.",
        ),
        Host(
            "copilot",
            "Copilot CLI",
            {"user": ["{copilot}/mcp-config.json"]},
            form=_PLAIN.with_constants(type="local", tools=["*"], timeout=CALL_TIMEOUT_SECONDS * _MS_PER_SECOND),
            program="copilot",
            afterwards="Start a new session; `/mcp show` shows the server.",
        ),
        Host(
            "zed",
            "Zed",
            {"user": ["{config}/zed/settings.json"], "project": ["{project}/.zed/settings.json"]},
            root="context_servers",
            # Without it Zed waits 60 seconds.
            form=_PLAIN.with_constants(source="custom", timeout=CALL_TIMEOUT_SECONDS),
            afterwards="Zed reads the file again by itself; the agent panel's settings show the server.",
        ),
        Host(
            "goose",
            "Goose",
            {"user": ["{config}/goose/config.yaml"]},
            root="extensions",
            form=Form(
                command="cmd",
                env="envs",
                constants={"type": "stdio", "name": ENTRY_NAME, "enabled": True, "timeout": CALL_TIMEOUT_SECONDS},
            ),
            file_format="yaml",
            afterwards="Start a new session.",
        ),
        Host(
            "lmstudio",
            "LM Studio",
            {"user": ["{home}/.lmstudio/mcp.json"]},
            afterwards="Switch the server on in the chat's list of integrations.",
        ),
        Host(
            "kiro",
            "Kiro",
            {"user": ["{home}/.kiro/settings/mcp.json"], "project": ["{project}/.kiro/settings/mcp.json"]},
            marks=["{home}/.kiro"],
            afterwards="Kiro reads the file again by itself; its MCP panel shows the server.",
        ),
        Host(
            "opencode",
            "OpenCode",
            {
                "user": ["{config}/opencode/opencode.json", "{config}/opencode/opencode.jsonc"],
                "project": ["{project}/opencode.json", "{project}/opencode.jsonc"],
            },
            root="mcp",
            form=Form(
                env="environment",
                style="list",
                constants={"type": "local", "enabled": True, "timeout": CALL_TIMEOUT_SECONDS * _MS_PER_SECOND},
            ),
        ),
        Host(
            "devin",
            "Devin Desktop",
            {"user": ["{config}/devin/mcp_config.json", "{home}/.codeium/windsurf/mcp_config.json"]},
        ),
    )
}
"""The hosts by the name that `--client` takes."""
