"""Drawings made by this project itself, RGBA."""

import numpy as np
from PIL import Image, ImageChops, ImageDraw


def draw_mug() -> Image.Image:
    """Draw a white mug with green and navy stripes, 128x128."""
    image = Image.new("RGBA", (512, 512))
    draw = ImageDraw.Draw(image)
    draw.ellipse((320, 150, 500, 390), fill=(236, 236, 228, 255))
    draw.ellipse((360, 196, 456, 344), fill=(0, 0, 0, 0))
    draw.rounded_rectangle((40, 70, 390, 490), 60, fill=(244, 244, 236, 255))
    for y, color in ((150, (36, 150, 92)), (240, (28, 52, 120)), (330, (36, 150, 92)), (420, (28, 52, 120))):
        draw.rectangle((40, y, 390, y + 42), fill=(*color, 255))
    draw.ellipse((40, 36, 390, 116), fill=(250, 250, 244, 255))
    draw.ellipse((64, 48, 366, 106), fill=(92, 58, 40, 255))
    return _lit(image)


def draw_robot() -> Image.Image:
    """Draw a robot with an orange body, turquoise eyes and gray limbs, 128x128."""
    image = Image.new("RGBA", (512, 512))
    draw = ImageDraw.Draw(image)
    gray, orange, dark = (130, 138, 150, 255), (244, 132, 36, 255), (52, 58, 74, 255)
    draw.line((256, 20, 256, 80), gray, 14)
    draw.ellipse((232, 0, 280, 48), (230, 50, 70, 255))
    for x in (80, 386):
        draw.rounded_rectangle((x, 250, x + 46, 400), 20, gray)
    for x in (160, 290):
        draw.rounded_rectangle((x, 420, x + 62, 510), 16, gray)
    draw.rounded_rectangle((120, 70, 392, 236), 46, orange)
    draw.rounded_rectangle((136, 246, 376, 436), 36, orange)
    draw.rounded_rectangle((150, 110, 362, 190), 34, dark)
    for x in (184, 282):
        draw.ellipse((x, 122, x + 54, 176), (64, 226, 220, 255))
    draw.rounded_rectangle((196, 290, 316, 380), 16, (250, 236, 200, 255))
    draw.ellipse((232, 312, 280, 360), (230, 50, 70, 255))
    return _lit(image)


def draw_teapot() -> Image.Image:
    """Draw a round turquoise teapot with a long spout, 128 pixels wide."""
    image = Image.new("RGBA", (512, 400))
    draw = ImageDraw.Draw(image)
    body, dark = (52, 170, 168, 255), (30, 116, 122, 255)
    draw.ellipse((10, 120, 170, 320), body)
    draw.ellipse((46, 160, 140, 284), (0, 0, 0, 0))
    draw.polygon([(360, 300), (440, 120), (502, 96), (500, 132), (470, 160), (400, 340)], body)
    draw.ellipse((100, 90, 420, 380), body)
    draw.rounded_rectangle((170, 366, 350, 398), 14, dark)
    draw.pieslice((160, 50, 360, 170), 180, 360, dark)
    draw.ellipse((240, 10, 280, 60), dark)
    draw.arc((120, 110, 400, 360), 200, 250, (190, 240, 236, 255), 18)
    return _lit(image)


def draw_backpack() -> Image.Image:
    """Draw an upright olive backpack with a flap and a pocket, 128 pixels high."""
    image = Image.new("RGBA", (420, 512))
    draw = ImageDraw.Draw(image)
    olive, dark, strap = (128, 140, 62, 255), (88, 98, 40, 255), (150, 96, 52, 255)
    draw.arc((150, 0, 270, 120), 180, 360, dark, 22)
    for x in (20, 360):
        draw.rounded_rectangle((x, 220, x + 40, 440), 18, dark)
    draw.rounded_rectangle((50, 50, 370, 504), 90, olive)
    draw.pieslice((50, 40, 370, 360), 180, 360, dark)
    draw.rounded_rectangle((96, 300, 324, 460), 34, dark)
    draw.rounded_rectangle((104, 308, 316, 372), 28, olive)
    for x in (130, 262):
        draw.rectangle((x, 190, x + 28, 330), strap)
        draw.rectangle((x, 250, x + 28, 276), (226, 206, 150, 255))
    return _lit(image)


def draw_beach_ball(turn: float) -> Image.Image:
    """Draw a ball of six colored segments, turned by `turn` radians and lit from the upper left, 128x128."""
    side = 256
    y, x = np.mgrid[0:side, 0:side] / (side / 2) - 1 + 1 / side
    inside = x**2 + y**2 <= 1
    z = np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))
    lean = 0.5  # radians that the axis leans towards the viewer
    up, towards = y * np.cos(lean) - z * np.sin(lean), y * np.sin(lean) + z * np.cos(lean)
    segment = np.floor((np.arctan2(x, towards) + turn) / (np.pi / 3)).astype(int) % 6
    colors = np.array([(226, 56, 52), (248, 244, 232), (44, 112, 196), (248, 206, 60), (248, 244, 232), (52, 158, 92)])
    image = np.where((up < -0.93)[..., None], (250, 250, 244), colors[segment]).astype(float)
    light = np.clip(-0.5 * x - 0.6 * y + 0.62 * z, 0, 1)
    highlight = np.clip(-0.32 * x - 0.38 * y + 0.87 * z, 0, 1) ** 40
    image = image * (0.42 + 0.62 * light)[..., None] + 150 * highlight[..., None]
    rgba = np.dstack([image.clip(0, 255), 255 * inside]).round().astype(np.uint8)
    return Image.fromarray(rgba, "RGBA").resize((128, 128), Image.Resampling.LANCZOS)


def _lit(image: Image.Image) -> Image.Image:
    """Light the drawing from the left and scale its longest side to 128 pixels."""
    ramp = Image.linear_gradient("L").rotate(90).resize(image.size).point(lambda value: 255 - value // 3)
    lit = ImageChops.multiply(image.convert("RGB"), Image.merge("RGB", (ramp, ramp, ramp)))
    lit.putalpha(image.getchannel("A"))
    scale = 128 / max(lit.size)
    return lit.resize((round(lit.width * scale), round(lit.height * scale)), Image.Resampling.LANCZOS)


OWN_DRAWINGS = {"mug": draw_mug, "robot": draw_robot, "teapot": draw_teapot, "backpack": draw_backpack}
