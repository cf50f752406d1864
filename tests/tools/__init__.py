"""One file for each tool, through an in-memory MCP client."""
