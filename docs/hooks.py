"""MkDocs hooks: the offline plugin names a script on the web; the site brings its own instead."""

from __future__ import annotations

import re
from typing import Any

_SHIM = re.compile(r'<script src="https://unpkg\.com/iframe-worker/[^"]*"></script>')


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Replace the script by `assets/search-from-disk.js`, relative to the page."""
    root = "../" * page.url.count("/")
    return _SHIM.sub(f'<script src="{root}assets/search-from-disk.js"></script>', output)


def on_post_template(output_content: str, *, template_name: str, **_: Any) -> str:
    """Do the same for pages without Markdown, such as 404.html."""
    return _SHIM.sub('<script src="/assets/search-from-disk.js"></script>', output_content)
