"""Run the command line for `python -m token_tools`."""

from token_tools.cli.main import main

main()
