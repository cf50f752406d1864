"""What happens, in which order, through an in-memory MCP client."""
