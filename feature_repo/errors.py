"""What this package raises. The message of each is meant for the person at the terminal.

FeatureRepoError
├── InvalidFeatureError (ValueError)     a value that was to be written or asked for breaks a rule
├── UnknownModelVersionError (LookupError)  the model version has no embedding view
├── StoreBusyError (TimeoutError)        another process held the store's write lock for too long
├── StoreStateError (RuntimeError)       the store is missing, closed, or of another program
├── AlreadyRunningError (RuntimeError)   another process is doing the same job
└── HistoryError (OSError)               a part of the history cannot be written or read
"""

from __future__ import annotations


class FeatureRepoError(Exception):
    """Base of all errors of the feature store."""


class InvalidFeatureError(FeatureRepoError, ValueError):
    """A value to write or to ask for breaks a rule. Nothing was written."""


class UnknownModelVersionError(FeatureRepoError, LookupError):
    """The model version has no embedding view."""


class StoreBusyError(FeatureRepoError, TimeoutError):
    """Another process held the store's write lock for longer than the configured time. Retryable."""


class StoreStateError(FeatureRepoError, RuntimeError):
    """The store's files or tables are missing, closed, or made by another program."""


class AlreadyRunningError(FeatureRepoError, RuntimeError):
    """Another process is doing the same job; this one has done nothing."""


class HistoryError(FeatureRepoError, OSError):
    """A part of the history cannot be written or read."""
