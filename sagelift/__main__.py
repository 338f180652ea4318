"""`python -m sagelift` is the `sagelift` command."""

from sagelift.commands.cli import main

main()
