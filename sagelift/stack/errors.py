"""What can go wrong with the local stack. Every message is a sentence for the person at the terminal.

StackError
+-- MissingComponentError (FileNotFoundError)   a server's files are not in the cache folder, or not for this machine
+-- DownloadError (OSError)                     a server's files could not be fetched, or did not match their hashes
+-- PortError (OSError)                         a port that was asked for is taken
+-- StartError (RuntimeError)                   a server ended, or did not get ready, while starting
|   `-- StartCancelled                          the stack was told to stop while it was starting
+-- UnreachableError (ConnectionError)          a service given by address does not answer
+-- ModelError (RuntimeError)                   Triton refused to load or unload a model
`-- AlreadyRunningError (RuntimeError)          another supervisor works on the same state folder
"""


class StackError(Exception):
    """Base class of the local stack's errors."""

    def __str__(self) -> str:
        # OSError and its kin print as "[Errno ..] ..." or as a tuple when they get more than one argument; we pass one.
        return str(self.args[0]) if self.args else type(self).__name__


class MissingComponentError(StackError, FileNotFoundError):
    """A server's files are not in the cache folder, or do not exist for this machine."""


class DownloadError(StackError, OSError):
    """A server's files could not be fetched, or did not match their hashes."""


class PortError(StackError, OSError):
    """A port that was asked for is taken."""


class StartError(StackError, RuntimeError):
    """A server ended, or did not get ready, while starting."""


class StartCancelled(StartError):
    """The stack was told to stop while it was starting."""


class UnreachableError(StackError, ConnectionError):
    """A service given by address does not answer."""


class ModelError(StackError, RuntimeError):
    """Triton refused to load or unload a model."""


class AlreadyRunningError(StackError, RuntimeError):
    """Another supervisor works on the same state folder."""
