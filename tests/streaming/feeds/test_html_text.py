"""The visible text of HTML."""

import pytest

from streaming.feeds.html_text import text_of_html


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One</p><p>two<br>three</p>", "One two three"),
        ("a<b>b</b>c", "abc"),
        ("<script>alert(1)</script><style>p{}</style>Text", "Text"),
        ("5 &lt; 6 &amp; &eacute;&#233;", "5 < 6 & éé"),
        ("<p>unclosed <b>tags", "unclosed tags"),
        ("1 < 2", "1 < 2"),
        ("<!-- hidden -->shown", "shown"),
        ("", ""),
    ],
)
def test_html_becomes_the_text_a_reader_sees(html: str, text: str) -> None:
    assert text_of_html(html) == text
