"""The command line, the settings, the local stack and the demo that puts the rooms together."""
