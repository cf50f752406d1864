"""The plugin for Claude Code and the extension for Gemini CLI: files beside the code, which both hosts fetch with it.

Both start the code that they have fetched, so what runs is what the version in their files says.
"""

from typing import Any, Final

from packages.project import DESCRIPTION, EXTRA, KEYWORDS, LICENSE, NAME, TITLE, URL, VERSION
from packages.questions import QUESTIONS, Question, list_user_config, list_variables
from token_tools.cli.hosts.entries import ENTRY_NAME, PROGRAM
from token_tools.setting_names import variable_name

_AUTHOR: Final = {"name": NAME, "url": URL}


def create_plugin() -> dict[str, Any]:
    """Return what Claude Code reads of the plugin.

    Its name is the short one of an entry: a tool's name has 64 characters at most, and begins with that of the plugin.
    """
    return {
        "name": ENTRY_NAME,
        "displayName": TITLE,
        "version": VERSION,
        "description": DESCRIPTION,
        "author": _AUTHOR,
        "homepage": URL,
        "repository": URL,
        "license": LICENSE,
        "keywords": KEYWORDS,
        "userConfig": list_user_config(),
        "mcpServers": {
            ENTRY_NAME: {
                **_start_from("${CLAUDE_PLUGIN_ROOT}"),
                "env": list_variables(),
            }
        },
    }


def create_marketplace() -> dict[str, Any]:
    """Return what Claude Code reads of this repository as a place that plugins come from."""
    return {
        "name": NAME,
        "description": DESCRIPTION,
        "owner": _AUTHOR,
        "plugins": [
            {
                "name": ENTRY_NAME,
                "description": DESCRIPTION,
                "source": "./",
                "category": "administration",
                "homepage": URL,
            }
        ],
    }


def create_gemini_extension() -> dict[str, Any]:
    """Return what Gemini CLI reads of the extension.

    It hands each setting to the server as a variable, but only one that was given: reading only is the default here.
    """
    return {
        "name": ENTRY_NAME,
        "version": VERSION,
        "description": DESCRIPTION,
        "mcpServers": {
            ENTRY_NAME: {
                **_start_from("${extensionPath}"),
                "env": {
                    variable_name(
                        question.setting
                    ): f"${{{variable_name(question.setting)}:-{_format_default(question)}}}"
                    for question in QUESTIONS
                    if question.default
                },
            }
        },
        "settings": [_describe_setting(question) for question in QUESTIONS],
    }


def _start_from(folder: str) -> dict[str, Any]:
    """Return how the code in a folder is started, without an entry's variables."""
    return {"command": "uvx", "args": ["--from", f"{folder}[{EXTRA}]", PROGRAM]}


def _describe_setting(question: Question) -> dict[str, Any]:
    if_empty = f" (if empty: {_format_default(question)})" if question.default else ""
    return {
        "name": question.title,
        "description": f"{question.description}{if_empty}",
        "envVar": variable_name(question.setting),
        "sensitive": question.is_secret,
    }


def _format_default(question: Question) -> str:
    return str(question.default).lower()
