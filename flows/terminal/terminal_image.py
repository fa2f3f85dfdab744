"""Images in a terminal: each character shows two pixels, one above the other."""

import numpy as np
from rich.console import Console
from rich.text import Text

SHADES = " ░▒▓█"  # without colors: mean brightness of the two pixels, dark to bright


def render_half_blocks(console: Console, image: np.ndarray, columns: int) -> Text:
    """Render an image, uint8 (channels, height, width), at most `columns` characters wide, half as high."""
    from relearn.model.images.resize import resize_batch

    channels, height, width = image.shape
    factor = min(1.0, columns / width)
    target_height = max(2, 2 * round(height * factor / 2))
    resized = resize_batch(image[None], (channels, target_height, max(1, round(width * factor))))[0]
    rgb_image = np.broadcast_to(resized, (3, *resized.shape[1:])).transpose(1, 2, 0)
    if console.color_system is None:
        return _render_shades(rgb_image.mean(axis=2))
    text = Text(no_wrap=True)
    for upper_row, lower_row in zip(rgb_image[::2], rgb_image[1::2], strict=True):
        for upper, lower in zip(upper_row, lower_row, strict=True):
            text.append("▀", f"rgb({_format_rgb(upper)}) on rgb({_format_rgb(lower)})")
        text.append("\n")
    text.rstrip()
    return text


def _render_shades(gray: np.ndarray) -> Text:
    rows = (gray[::2] + gray[1::2]) / 2
    levels = (rows / 256 * len(SHADES)).astype(int)
    return Text("\n".join("".join(SHADES[level] for level in row) for row in levels), no_wrap=True)


def _format_rgb(pixel: np.ndarray) -> str:
    return ",".join(map(str, pixel.tolist()))
