"""Run the command `qumulo-token-tools` as `python -m token_tools`."""

from token_tools.cli.main import main

main()
