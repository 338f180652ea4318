"""How a catalogue comes in: one importer per format, each a stream of product updates and refused rows."""

from streaming.feeds.reader import FORMATS, Feed, read_feed
from streaming.feeds.rows import BadRow, Row

__all__ = ["FORMATS", "BadRow", "Feed", "Row", "read_feed"]
