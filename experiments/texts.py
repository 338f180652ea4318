"""Text that every database can hold. Pure."""


def text_fault(text: str) -> str | None:
    """Why a database would refuse a text, in a few words; None when none would."""
    if "\0" in text:
        return "holds a NUL, which PostgreSQL cannot store"
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return "holds a lone surrogate"
    return None
