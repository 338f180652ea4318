"""One report, several faces: terminal, Markdown, JSON, and one self-contained HTML page. None computes anything."""
