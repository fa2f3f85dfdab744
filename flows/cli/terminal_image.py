"""Images in a terminal: two pixels a character, one above the other."""

import numpy as np
from rich.console import Console
from rich.text import Text

SHADES = " ░▒▓█"  # where there are no colours, a character is as dark or bright as its pixels in the mean


def half_blocks(console: Console, image: np.ndarray, columns: int) -> Text:
    """uint8 (channels, height, width) in at most `columns` characters across, half as many lines."""
    from relearn.model.images.decode import resize_batch

    channels, height, width = image.shape
    factor = min(1.0, columns / width)
    tall = max(2, 2 * round(height * factor / 2))
    small = resize_batch(image[None], (channels, tall, max(1, round(width * factor))))[0]
    coloured = np.broadcast_to(small, (3, *small.shape[1:])).transpose(1, 2, 0)
    if console.color_system is None:
        return _shaded(coloured.mean(axis=2))
    text = Text(no_wrap=True)
    for above, below in zip(coloured[::2], coloured[1::2], strict=True):
        for upper, lower in zip(above, below, strict=True):
            text.append("▀", f"rgb({_rgb(upper)}) on rgb({_rgb(lower)})")
        text.append("\n")
    text.rstrip()
    return text


def _shaded(grey: np.ndarray) -> Text:
    rows = (grey[::2] + grey[1::2]) / 2
    numbers = (rows / 256 * len(SHADES)).astype(int)
    return Text("\n".join("".join(SHADES[number] for number in row) for row in numbers), no_wrap=True)


def _rgb(pixel: np.ndarray) -> str:
    return ",".join(map(str, pixel.tolist()))
