"""Run the `sagelift` command as `python -m sagelift`."""

from sagelift.commands.cli import main

main()
