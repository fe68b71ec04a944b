import pytest
from PIL import Image, ImageDraw

from opad_core.evaluation.identity import identity_score


def shape_image(shape, color, size=64):
    """Draw a shape with smooth edges at any size, because jagged edges change the embedding."""
    image = Image.new("RGB", (1024, 1024), "white")
    getattr(ImageDraw.Draw(image), shape)([200, 200, 824, 824], fill=color)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def test_an_image_is_most_like_itself_at_any_size():
    ball = shape_image("ellipse", "red")
    assert identity_score([ball], [ball]) == pytest.approx(1, abs=1e-5)
    assert identity_score([ball], [shape_image("ellipse", "red", size=256)]) > 0.95
    assert identity_score([ball], [shape_image("rectangle", "blue")]) < 0.8


def test_the_score_is_the_mean_over_all_pairs():
    images = [shape_image("ellipse", "red"), shape_image("rectangle", "green")]
    references = [shape_image("ellipse", "orange"), shape_image("rectangle", "blue"), shape_image("ellipse", "black")]
    pairs = [identity_score([p], [r]) for p in images for r in references]
    assert identity_score(images, references) == pytest.approx(sum(pairs) / 6, abs=1e-5)
