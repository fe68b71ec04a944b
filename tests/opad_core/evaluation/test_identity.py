import pytest
from PIL import Image, ImageDraw

from opad_core.evaluation.identity import identity_score


def drawn(shape, colour, size=64):
    """Smooth edges at any size: the network tells jagged ones apart."""
    picture = Image.new("RGB", (1024, 1024), "white")
    getattr(ImageDraw.Draw(picture), shape)([200, 200, 824, 824], fill=colour)
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def test_a_picture_is_most_like_itself_at_any_size():
    ball = drawn("ellipse", "red")
    assert identity_score([ball], [ball]) == pytest.approx(1, abs=1e-5)
    assert identity_score([ball], [drawn("ellipse", "red", size=256)]) > 0.95
    assert identity_score([ball], [drawn("rectangle", "blue")]) < 0.8


def test_the_score_is_the_mean_over_all_pairs():
    pictures = [drawn("ellipse", "red"), drawn("rectangle", "green")]
    references = [drawn("ellipse", "orange"), drawn("rectangle", "blue"), drawn("ellipse", "black")]
    pairs = [identity_score([p], [r]) for p in pictures for r in references]
    assert identity_score(pictures, references) == pytest.approx(sum(pairs) / 6, abs=1e-5)
