"""The drawings: every kind can be drawn, and the picture shows the product's colour."""

from random import Random

import pytest

from sagelift.demo import drawings, outlines, samples


@pytest.mark.parametrize("kind", sorted(outlines.OUTLINES))
def test_every_kind_can_be_drawn(kind: str) -> None:
    """Several views of the same product differ."""
    views = drawings.draw_views(Random(1), kind, (56, 108, 196), "striped", "wood", 2)
    assert {(view.size, view.mode) for view in views} == {((224, 224), "RGB")}
    assert views[0].tobytes() != views[1].tobytes()


def test_a_products_colour_is_what_its_picture_shows() -> None:
    """The middle of a plain cushion has the hue of its colour."""
    red, blue = (samples.COLORS[name][0] for name in ("red", "blue"))
    for color, strongest in ((red, 0), (blue, 2)):
        picture = drawings.draw_views(Random(1), "cushion", color, "plain", "cotton", 1)[0]
        pixel = picture.getpixel((90, 112))
        assert isinstance(pixel, tuple)
        assert max(range(3), key=pixel.__getitem__) == strongest
