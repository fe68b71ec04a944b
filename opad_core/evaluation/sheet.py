"""The before/after sheet: references | the untouched student | the personalised student, same seeds."""

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

TILE, GAP, MARGIN, LABEL = 160, 8, 28, 26
"""Pixels."""
PAPER, INK, FAINT = "#fbfaf7", "#1d1d1f", "#77767a"


@dataclass(frozen=True)
class Row:
    """Pictures of one prompt; both lists have the same seeds in the same order."""

    prompt: str
    untouched: list[Image.Image]
    personalised: list[Image.Image]


def draw_sheet(title: str, subtitle: str, references: list[Image.Image], rows: list[Row]) -> Image.Image:
    """All rows must have equally many pictures; the references stand in a column beside them."""
    count = len(rows[0].untouched)
    step = TILE + GAP
    lefts = [MARGIN, MARGIN + step + GAP * 3, MARGIN + step * (1 + count) + GAP * 6]
    top = MARGIN + 100
    width = lefts[2] + step * count - GAP + MARGIN
    height = top + (step + LABEL) * max(len(rows), len(references)) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 6), title, INK, ImageFont.load_default(30))
    pen.text((MARGIN, MARGIN + 34), subtitle, FAINT, ImageFont.load_default(17))
    for left, heading in zip(lefts, ("references", "before: the untouched student", "after: one step, your concept"),
                             strict=True):  # fmt: skip
        pen.text((left, top - 30), heading, INK, ImageFont.load_default(17))
    for i, reference in enumerate(references):
        sheet.paste(_tile(reference), (lefts[0], top + i * (step + LABEL)))
    for i, row in enumerate(rows):
        y = top + i * (step + LABEL)
        for left, pictures in zip(lefts[1:], (row.untouched, row.personalised), strict=True):
            for j, picture in enumerate(pictures):
                sheet.paste(_tile(picture), (left + j * step, y))
            pen.text((left, y + TILE + 3), row.prompt, FAINT, ImageFont.load_default(15))
    return sheet


def _tile(picture: Image.Image) -> Image.Image:
    """A square of TILE pixels, the whole picture in it."""
    fitted = picture.convert("RGB")
    scale = TILE / max(fitted.size)
    fitted = fitted.resize((round(fitted.width * scale), round(fitted.height * scale)), Image.Resampling.BICUBIC)
    tile = Image.new("RGB", (TILE, TILE), "white")
    tile.paste(fitted, ((TILE - fitted.width) // 2, (TILE - fitted.height) // 2))
    return tile
