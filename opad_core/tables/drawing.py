"""What people would rather look at: contact sheets of the rows, and identity against text fit."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from opad_core.tables.markdown import Results

TILE, LABEL, GAP = 128, 300, 8


def contact_sheet(references: Sequence[Image.Image], strips: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Draw the photos of a concept, and below them a row of images for each label; each strip holds square images."""
    count = max([strip.width // strip.height for _, strip in strips], default=1)
    photos = [photo.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS) for photo in references[:count]]
    sheet = Image.new("RGB", (LABEL + count * (TILE + GAP), (1 + len(strips)) * (TILE + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    rows = [("photos", photos)]
    for label, strip in strips:
        side = strip.height
        tiles = [strip.crop((x, 0, x + side, side)) for x in range(0, strip.width, side)]
        rows.append((label, [tile.resize((TILE, TILE), Image.Resampling.LANCZOS) for tile in tiles]))
    for number, (label, tiles) in enumerate(rows):
        top = number * (TILE + GAP)
        draw.multiline_text((GAP, top + TILE // 2 - 12), _wrapped(label, font), font=font, fill="black")
        for place, tile in enumerate(tiles):
            sheet.paste(tile, (LABEL + place * (TILE + GAP), top))
    return sheet


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > LABEL - 2 * GAP and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def draw_plot(results: Results, file: Path) -> None:
    """Plot identity against text fit in one step: a numbered point with intervals for each row of table 5."""
    from matplotlib.figure import Figure  # here because it takes 0.4 s

    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.add_subplot()
    rows = [row for row in results.rows if "5" in row.tables]
    found = [(row, results.mean(row.name, "text_fit"), results.mean(row.name, "identity")) for row in rows]
    points = [(row, x, y) for row, x, y in found if x is not None and y is not None]
    for number, (row, x, y) in enumerate(points, 1):
        axes.errorbar(
            x.mean, y.mean, xerr=[[x.mean - x.low], [x.high - x.mean]], yerr=[[y.mean - y.low], [y.high - y.mean]],
            fmt="o", color="tab:red" if row.name == "opad" else "tab:blue", elinewidth=0.5, markersize=13,
        )  # fmt: skip
        axes.annotate(str(number), (x.mean, y.mean), ha="center", va="center_baseline", fontsize=8, color="white")
        axes.plot([], [], " ", label=f"{number}  {row.label}")
    axes.set_xlabel("text fit (the base's CLIP, which also trains)")
    axes.set_ylabel("identity (EfficientNet-Lite0, which does not)")
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, handlelength=0, fontsize=9)
    figure.savefig(file, dpi=110)
