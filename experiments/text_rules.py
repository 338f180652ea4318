"""What every database can store as text."""


def text_problem(text: str) -> str | None:
    """Return why a database would refuse a text, in a few words; None when every database stores it."""
    if "\0" in text:
        return "holds a NUL, which PostgreSQL cannot store"
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return "holds a lone surrogate"
    return None
