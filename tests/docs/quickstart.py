"""Run the shell blocks of a quickstart as a reader would, in one folder and from top to bottom."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.docs.pages import DOCS

_BLOCK = re.compile(r"^```sh(?P<attributes>[^\n]*)\n(?P<text>.*?)^```", re.M | re.S)
_FILE = re.compile(r'^```\w+ title="(?P<name>[\w.-]+\.\w+)"\n(?P<text>.*?)^```', re.M | re.S)
_READY_S = 120.0


def run_quickstart(page: str, folder: Path, *, timeout_s: float = 240.0) -> str:
    """Execute every `sh` block of a page; what they print, as one text.

    A block whose title is a file name is that file. A block titled "Terminal 1" runs in the background until the
    others are done; the next block starts once `sagelift status` reports a healthy stack. The other blocks run in one
    shell that stops at the first error.

    Args:
        page: Path below docs/.
        folder: Working directory, which is also the home of the state folder.
        timeout_s: Limit for all blocks together, in seconds.

    Raises:
        AssertionError: A block fails; the message holds what was printed.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SAGELIFT_")}
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "USER": "reader"}
    if "SAGELIFT_CACHE_DIR" in os.environ:
        environment["SAGELIFT_CACHE_DIR"] = os.environ["SAGELIFT_CACHE_DIR"]
    background: list[subprocess.Popen[bytes]] = []
    script = ["set -euo pipefail"]
    text = (DOCS / page).read_text("utf-8")
    for match in _FILE.finditer(text):
        (folder / match["name"]).write_text(match["text"], "utf-8")
    for match in _BLOCK.finditer(text):
        if "Terminal 1" in match["attributes"]:
            log = (folder / f"terminal-{len(background)}.log").open("wb")
            background.append(
                subprocess.Popen(
                    ["bash", "-c", f"exec {match['text'].strip()}"], cwd=folder, env=environment, stdout=log, stderr=log
                )
            )
            log.close()
            _wait_until_healthy(background[-1], folder, environment)
        else:
            script.append(match["text"])
    try:
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )
    finally:
        for process in background:
            process.send_signal(signal.SIGINT)
        for process in background:
            process.wait(60)
    assert done.returncode == 0, done.stdout
    return done.stdout


def _wait_until_healthy(process: subprocess.Popen[bytes], folder: Path, environment: dict[str, str]) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the first terminal ended"
        if subprocess.run(["sagelift", "status"], cwd=folder, env=environment, capture_output=True).returncode == 0:
            return
    raise AssertionError(f"the stack was not healthy within {_READY_S:.0f} s")
