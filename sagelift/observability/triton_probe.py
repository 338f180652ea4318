"""The stack's question to Triton: not whether it says it is well, but whether it still answers, and answers right.

Triton reports ready while a model's process is frozen or garbles its tensors; only an inference whose answer is known
tells. It runs in the background, so that the supervisor never waits for it, and with patience: a server that is busy
encoding a catalogue is slow, not dead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

_GOOD_ANSWERS = 8  # in a row, after one of a model's processes was found dead


class KnownAnswerProbe:
    """Called with Triton's address once a second; false once a known answer came out wrong or not at all.

    Args:
        repository: the model repository; the visual encoder's and the live release's probes are asked.
        every_s: pause between two rounds of questions.
        patience_s: how long an answer may take.
    """

    def __init__(self, repository: Path, *, every_s: float = 15.0, patience_s: float = 30.0) -> None:
        self._repository, self._every_s, self._patience_s = repository, every_s, patience_s
        self._lock = threading.Lock()
        self._failed = False
        self._asking = False
        self._next = time.monotonic() + every_s  # a server that has just started is left alone for a moment

    def __call__(self, address: str) -> bool:
        """Whether the last round of questions was answered; starts the next round when it is due."""
        with self._lock:
            if not self._asking and time.monotonic() >= self._next:
                self._asking = True
                threading.Thread(target=self._ask, args=(address,), name="triton-probe", daemon=True).start()
            failed, self._failed = self._failed, False  # told once: the supervisor restarts, then all begins anew
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

    def _answers(self, address: str) -> bool:
        from inference.client import TritonClient
        from inference.errors import ArtifactError, ServingError
        from inference.repository import ITEMSAGE, VISUAL_ENCODER, live_version

        dead: list[str] = []  # healing is the consumers' and the supervisor's part
        live = live_version(self._repository)
        folders = [(self._repository / VISUAL_ENCODER / "1", "")]
        if live is not None:
            folders.append((self._repository / ITEMSAGE / live, live))
        patience = self._patience_s
        try:
            with TritonClient(address, deadline_s=patience, max_elapsed_s=patience, heal=dead.append) as client:
                for folder, version in folders:
                    if folder.is_dir():
                        client.probe(folder, version)
                        if dead and not self._recovers(partial(client.probe, folder, version), dead):
                            return False
        except ServingError:
            return False
        except ArtifactError:  # a release in the making is no fault of the server
            return True
        return True

    def _recovers(self, ask: Callable[[], object], dead: list[str]) -> bool:
        """Whether a model that answered though one of its processes did not has them all again before long.

        Triton asks whichever instance is free, so one good answer says nothing of the others.
        """
        end = time.monotonic() + self._patience_s
        good = 0
        while good < _GOOD_ANSWERS:
            if time.monotonic() > end:
                return False
            dead.clear()
            ask()
            good = 0 if dead else good + 1
        return True
