"""Errors of the local stack. Every message is a sentence for the user at the terminal.

StackError
+-- MissingComponentError (FileNotFoundError)   a server's files are missing in the cache, or not built for this machine
+-- DownloadError (OSError)                     a server's files could not be downloaded, or did not match their hashes
+-- PortError (OSError)                         a configured port is in use
+-- StartError (RuntimeError)                   a server ended, or was not ready in time, while starting
|   `-- StartCancelled                          the stack was stopped while it was starting
+-- UnreachableError (ConnectionError)          an external service does not answer
+-- ModelError (RuntimeError)                   Triton refused to load or unload a model
`-- AlreadyRunningError (RuntimeError)          another supervisor works on the same state folder
"""


class StackError(Exception):
    """Base class of the local stack's errors."""

    def __str__(self) -> str:
        # OSError and its subclasses add "[Errno ..]" or print a tuple for several arguments; we pass one message.
        return str(self.args[0]) if self.args else type(self).__name__


class MissingComponentError(StackError, FileNotFoundError):
    """A server's files are missing in the cache folder, or not built for this machine."""


class DownloadError(StackError, OSError):
    """A server's files could not be downloaded, or did not match their hashes."""


class PortError(StackError, OSError):
    """A configured port is in use."""


class StartError(StackError, RuntimeError):
    """A server ended, or was not ready in time, while starting."""


class StartCancelled(StartError):
    """The stack was stopped while it was starting."""


class UnreachableError(StackError, ConnectionError):
    """An external service does not answer at its address."""


class ModelError(StackError, RuntimeError):
    """Triton refused to load or unload a model."""


class AlreadyRunningError(StackError, RuntimeError):
    """Another supervisor works on the same state folder."""
