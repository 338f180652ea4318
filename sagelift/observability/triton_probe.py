"""The stack's probe of Triton: inferences with known answers.

Triton reports ready even if a model's process is frozen or corrupts its tensors. Only an inference with a known answer
detects this. The probe runs in the background, so the supervisor never waits for it, and with a long timeout: a server
that encodes a catalogue is slow, not dead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

_GOOD_ANSWERS = 8  # in a row, that prove the recovery of a model with a dead process


class KnownAnswerProbe:
    """A probe for `StackOptions.triton_probe`: returns False once after a failed round of inferences.

    Args:
        answers: Runs one round with the server at an address; returns whether all answers are correct.
        every_s: Seconds between two rounds.
    """

    def __init__(self, answers: Callable[[str], bool], *, every_s: float = 15.0) -> None:
        self._answers, self._every_s = answers, every_s
        self._lock = threading.Lock()
        self._failed = False
        self._asking = False
        self._next = time.monotonic() + every_s  # no probe just after the start

    def __call__(self, address: str) -> bool:
        """Return whether the last round succeeded; start the next round if it is due."""
        with self._lock:
            if not self._asking and time.monotonic() >= self._next:
                self._asking = True
                threading.Thread(target=self._ask, args=(address,), name="triton-probe", daemon=True).start()
            failed, self._failed = self._failed, False  # reported once: the supervisor restarts the server
            return not failed

    def _ask(self, address: str) -> None:
        try:
            failed = not self._answers(address)
        finally:
            with self._lock:
                self._asking = False
                self._next = time.monotonic() + self._every_s
        with self._lock:
            self._failed = failed


def answers_correctly(address: str, repository: Path, patience_s: float = 30.0) -> bool:
    """Return whether the models of the repository give their known answers.

    Args:
        address: host:port of Triton.
        repository: Model repository, with the probes of the visual encoder and the live release.
        patience_s: Seconds that an answer, or the recovery of a model, may take.
    """
    from inference.errors import ArtifactError, ServingError
    from inference.releases.repository import ITEMSAGE, VISUAL_ENCODER, live_version
    from inference.triton.client import TritonClient

    dead: list[str] = []  # only recorded here: consumers and the supervisor recover models
    live = live_version(repository)
    folders = [(repository / VISUAL_ENCODER / "1", "")]
    if live is not None:
        folders.append((repository / ITEMSAGE / live, live))
    try:
        with TritonClient(address, deadline_s=patience_s, max_elapsed_s=patience_s, heal=dead.append) as client:
            for folder, version in folders:
                if folder.is_dir():
                    client.probe(folder, version)
                    if dead and not _recovers(partial(client.probe, folder, version), dead, patience_s):
                        return False
    except ServingError:
        return False
    except ArtifactError:  # a release that is being written is no fault of the server
        return True
    return True


def _recovers(ask: Callable[[], object], dead: list[str], patience_s: float) -> bool:
    """Return whether all processes of a model answer again within the patience, after one of them did not.

    Triton uses any free instance, so one good answer does not test the other instances.
    """
    end = time.monotonic() + patience_s
    good = 0
    while good < _GOOD_ANSWERS:
        if time.monotonic() > end:
            return False
        dead.clear()
        ask()
        good = 0 if dead else good + 1
    return True
