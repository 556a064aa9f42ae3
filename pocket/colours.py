"""Hues by name: what colour a picture has, and the picture in another one."""

import numpy as np
from PIL import Image

HUES = {"red": 0, "orange": 28, "yellow": 52, "green": 120, "blue": 215, "purple": 275, "pink": 325}
"""Degrees."""
COLOURS = {*HUES, "black", "white", "brown", "grey", "gray", "light blue"}
TINTS = {*COLOURS, "gold"}
"""What a copy in another colour is not called in pairs."""


def hsv(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("HSV"), dtype=np.int32)


def dominant(image: Image.Image) -> float | None:
    """The hue, in degrees, that most of the coloured pixels are near; none of what is grey, dull or has no one colour."""
    hue, saturation, value = np.moveaxis(hsv(image), -1, 0)
    coloured = (saturation > 60) & (value > 60)
    weight = saturation * value / 255.0**2 * coloured
    if weight.sum() < 0.04 * weight.size or weight.sum() < 0.4 * coloured.sum():
        return None
    mean = (weight * np.exp(2j * np.pi * hue / 256)).sum() / weight.sum()
    return None if abs(mean) < 0.6 else float(np.degrees(np.angle(mean)) % 360)


def nearest(hue: float) -> str | None:
    """The colour that a hue would be called, unless it is between two."""
    apart = {name: abs((hue - at + 180) % 360 - 180) for name, at in HUES.items()}
    name = min(apart, key=apart.__getitem__)
    return name if apart[name] <= 18 else None


def turned(image: Image.Image, degrees: float) -> Image.Image:
    pixels = hsv(image)
    pixels[..., 0] = (pixels[..., 0] + round(degrees * 256 / 360)) % 256
    return Image.fromarray(pixels.astype(np.uint8), "HSV").convert("RGB")
