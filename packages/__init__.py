"""How do hosts and registries get this server? What they read is made here, from the settings and the tools.

`python -m packages` writes the files of the repository, `python -m packages bundle` the bundle for Claude Desktop.
"""
