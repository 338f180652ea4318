"""`python -m sagelift` is the `sagelift` command."""

from sagelift.cli import main

main()
