"""MCP server for the access tokens of a Qumulo Core cluster."""

from importlib.metadata import version

__version__ = version("qumulo-token-tools")
