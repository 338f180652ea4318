"""Errors of the command line, the settings and the demo.

SageliftError
+-- SettingsError (ValueError)   a setting is wrong; the message names the setting, its rule and its source
`-- DemoError (RuntimeError)     a stage of the demo failed
"""


class SageliftError(Exception):
    """Base class of the errors that this package raises on purpose. The message is written for the user."""


class SettingsError(SageliftError, ValueError):
    """A setting is wrong."""


class DemoError(SageliftError, RuntimeError):
    """A stage of the demo failed."""
