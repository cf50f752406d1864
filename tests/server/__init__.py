"""Tools, prompts and schemas, as an MCP client sees them."""
