"""`python -m token_tools`: the same as the installed command."""

from token_tools.start import main

main()
