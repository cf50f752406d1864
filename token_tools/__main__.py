"""`python -m token_tools`: the same as the installed command."""

from token_tools.cli.main import main

main()
