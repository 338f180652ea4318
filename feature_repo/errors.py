"""What this package raises. The message of each is meant for the person at the terminal.

FeatureRepoError
├── InvalidFeatureError (ValueError)     a value that was to be written or asked for breaks a rule
├── UnknownModelVersionError (LookupError)  no embedding view has been made for this model version
├── StoreBusyError (TimeoutError)        another process held the store's write lock for too long
├── StoreStateError (RuntimeError)       the store's files or tables are missing, closed, or not ours
├── AlreadyRunningError (RuntimeError)   another process does the same job right now
└── HistoryError (OSError)               a part of the history cannot be written or read
"""

from __future__ import annotations


class FeatureRepoError(Exception):
    """Base of all errors of the feature store."""


class InvalidFeatureError(FeatureRepoError, ValueError):
    """A value that was to be written or asked for breaks a rule; nothing was written."""


class UnknownModelVersionError(FeatureRepoError, LookupError):
    """No embedding view has been made for this model version."""


class StoreBusyError(FeatureRepoError, TimeoutError):
    """Another process held the store's write lock for longer than we wait."""


class StoreStateError(FeatureRepoError, RuntimeError):
    """The store's files or tables are missing, closed, or were made by something else."""


class AlreadyRunningError(FeatureRepoError, RuntimeError):
    """Another process does the same job right now; this one has done nothing."""


class HistoryError(FeatureRepoError, OSError):
    """A part of the history cannot be written or read."""
