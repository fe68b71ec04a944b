import pytest
from PIL import Image, ImageColor

from opad_core.evaluation.sheet import COLORS, Row, draw_sheet
from opad_core.evaluation.verdict import Verdict

RED, GREEN, BLUE = (255, 0, 0), (0, 128, 0), (0, 0, 255)


@pytest.mark.parametrize(("count", "side"), [(1, 160), (4, 160), (5, 76), (30, 76), (100, 76)])
def test_the_sheet_holds_every_image(count, side):
    """Two rows hold four references as large as the images (160); more references have (160 - 8) / 2 = 76."""
    sheet = sheet_of(count)
    pixels = {color: n for n, color in sheet.getcolors(1 << 20)}
    assert [pixels[RED], pixels[GREEN], pixels[BLUE]] == [6 * 160**2, 6 * 160**2, count * side**2]


def test_references_make_the_sheet_wider_and_never_taller():
    sizes = [sheet_of(count).size for count in (1, 3, 30)]
    # three need a second column of 160 + 8; thirty need eight columns of 76 + 8 instead of two of 168
    assert [width - sizes[0][0] for width, _ in sizes] == [0, 168, 504]
    assert len({height for _, height in sizes}) == 1


def test_one_image_per_prompt_can_be_large():
    row = Row("a <concept> on the beach", [Image.new("RGB", (64, 64), RED)], [Image.new("RGB", (64, 64), GREEN)])
    sheet = draw_sheet("title", "subtitle", [Image.new("RGB", (64, 64), BLUE)], [row] * 2, tile=256)
    pixels = {color: n for n, color in sheet.getcolors(1 << 20)}
    assert [pixels[RED], pixels[GREEN], pixels[BLUE]] == [2 * 256**2, 2 * 256**2, 256**2]


def sheet_of(references: int) -> Image.Image:
    before, after, reference = (Image.new("RGB", (64, 64), color) for color in (RED, GREEN, BLUE))
    rows = [Row("a <concept> on the beach", [before] * 3, [after] * 3)] * 2
    return draw_sheet("title", "subtitle", [reference] * references, rows)


def test_a_long_prompt_stays_in_its_column():
    """The prompt of 50 letters is 370 pixels wide in the usual size; the column has 256."""
    long = Row("a <concept> with a mountain range in the background", *[[Image.new("RGB", (64, 64), RED)]] * 2)
    sheet = draw_sheet("title", "subtitle", [Image.new("RGB", (64, 64), BLUE)], [long], tile=256)
    between = sheet.crop((sheet.width - 28 - 256 - 24, 400, sheet.width - 28 - 256 - 2, sheet.height))
    right = sheet.crop((sheet.width - 28 + 2, 400, sheet.width, sheet.height))
    assert len(between.getcolors()) == len(right.getcolors()) == 1


@pytest.mark.parametrize("color", ["green", "amber", "red"])
def test_the_sheet_ends_in_the_verdict_in_its_color(color):
    row = Row("a <concept>", [Image.new("RGB", (64, 64))] * 4, [Image.new("RGB", (64, 64))] * 4)
    verdict = Verdict("scenes_lost", color, "Scenes lost: 25% of the images show the scene of their prompt.")
    plain, ended = (draw_sheet("t", "s", [Image.new("RGB", (9, 9))], [row], ending=one) for one in (None, verdict))
    below = ended.crop((0, plain.height - 28, *ended.size))
    assert ImageColor.getrgb(COLORS[color]) in {pixel for _, pixel in below.getcolors(1 << 20)}
    assert (
        ended.crop((0, 0, plain.width, plain.height - 28)).tobytes()
        == plain.crop((0, 0, plain.width, plain.height - 28)).tobytes()
    )
