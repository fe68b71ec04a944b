"""The before/after sheet: references, images of the untouched student, images of the concept at the same seeds."""

import math
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from opad_core.evaluation.verdict import Verdict

GAP, MARGIN, LABEL = 8, 28, 26
"""Pixels."""
PAPER, INK, FAINT = "#fbfaf7", "#1d1d1f", "#77767a"
COLORS = {"green": "#2b6a44", "amber": "#7c5a12", "red": "#a2362f"}
"""Dark enough to read on `PAPER`."""


@dataclass(frozen=True)
class Row:
    """Images of one prompt; both lists have the same seeds in the same order."""

    prompt: str
    untouched: list[Image.Image]
    personalised: list[Image.Image]


def draw_sheet(
    title: str,
    subtitle: str,
    references: list[Image.Image],
    rows: list[Row],
    *,
    tile: int = 160,
    ending: Verdict | None = None,
) -> Image.Image:
    """Draw the sheet with images of `tile` pixels. All rows must have equally many; references add no height."""
    count = len(rows[0].untouched)
    step = tile + GAP
    top = MARGIN + 100
    placed = _reference_tiles(references, len(rows), tile)
    right = MARGIN + max(x + reference.width for x, _, reference in placed)
    lefts = [MARGIN, right + GAP * 4, right + step * count + GAP * 7]
    width = lefts[2] + step * count - GAP + MARGIN
    bottom = top + (step + LABEL) * len(rows)
    height = bottom + MARGIN + (MARGIN if ending else 0)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 6), title, INK, ImageFont.load_default(30))
    pen.text((MARGIN, MARGIN + 34), subtitle, FAINT, ImageFont.load_default(17))
    for left, heading in zip(lefts, ("references", "before: the untouched student", "after: one step, your concept"),
                             strict=True):  # fmt: skip
        pen.text((left, top - 30), heading, INK, ImageFont.load_default(17))
    for x, y, reference in placed:
        sheet.paste(reference, (MARGIN + x, top + y))
    font = _fitting_font([row.prompt for row in rows], step * count - GAP)
    for i, row in enumerate(rows):
        y = top + i * (step + LABEL)
        for left, images in zip(lefts[1:], (row.untouched, row.personalised), strict=True):
            for j, image in enumerate(images):
                sheet.paste(_tile(image, tile), (left + j * step, y))
            pen.text((left, y + tile + 3), row.prompt, FAINT, font)
    if ending:
        pen.text((MARGIN, bottom + 6), ending.sentence, COLORS[ending.color], ImageFont.load_default(22))
    return sheet


def _fitting_font(texts: list[str], width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the largest font in which every text fits the width."""
    fonts = [ImageFont.load_default(size) for size in range(15, 8, -1)]
    longest = max(texts, key=fonts[0].getlength)
    return next((font for font in fonts if font.getlength(longest) <= width), fonts[-1])


def _reference_tiles(references: list[Image.Image], rows: int, tile: int) -> list[tuple[int, int, Image.Image]]:
    """Return left, top and tile of each reference, in reading order.

    Tiles are as large as the images if two columns hold them all. Otherwise they have half the size, and two of them
    fit beside each row.
    """
    halves = 1 if len(references) <= 2 * rows else 2
    side = (tile + GAP) // halves - GAP
    columns = math.ceil(len(references) / (rows * halves))
    places = [divmod(i, columns) for i in range(len(references))]
    return [
        (
            column * (side + GAP),
            row // halves * (tile + GAP + LABEL) + row % halves * (side + GAP),
            _tile(reference, side),
        )
        for (row, column), reference in zip(places, references, strict=True)
    ]


def _tile(image: Image.Image, side: int) -> Image.Image:
    """Return a square of `side` pixels that contains the whole image."""
    fitted = image.convert("RGB")
    scale = side / max(fitted.size)
    fitted = fitted.resize([max(1, round(length * scale)) for length in fitted.size], Image.Resampling.BICUBIC)
    tile = Image.new("RGB", (side, side), "white")
    tile.paste(fitted, ((side - fitted.width) // 2, (side - fitted.height) // 2))
    return tile
