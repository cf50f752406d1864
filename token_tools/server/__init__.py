"""The MCP server: tools, prompts, schemas, and the wire that they are served over."""
