"""Conversion of a drawing to MNIST's form: bright on dark, 20 of 28 pixels, centered by mass.

The page is reduced to one plane of contrast, cropped to its sheet of paper, and searched for ink, whose
strokes are then brought to one size and width. `python -m benchmarks drawings` measures the accuracy in each
form that people send; `docs/decisions/drawings.md` has the reason for a rule.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

BOX_FRACTION = 20 / 28  # of the side of the image
BOX_TOLERANCE = 2.5  # pixels that resizing adds to the box of MNIST's images: 64 × 64 has up to 2.3
CENTER = 14.5 / 28  # of the side: the middle of the pixel with index 14
MAX_OFFSET = 0.65 / 28  # of the side; two of MNIST's 70,000 digits have 0.52, resized to 14 × 14 up to 0.62
MAX_SIDE = 448  # pixels; larger pages are reduced first, 16 pixels for each of 28 are enough
MIN_SIDE = 112  # pixels; smaller pages are enlarged first, so that a stroke is several pixels wide
DRAWING_SIDE = 160  # pixels of the longer side of a drawing while its strokes are measured
SMOOTHING = (1, 2, 4)  # pixels of the page as sent: the least is used that makes the drawing legible
MIN_CONTRAST = 16  # of 255; a drawing with less contrast is a blank page
MAX_GRAIN = 0.3  # of the contrast; weaker pixels are the paper's grain
MIN_SIGNAL = 12  # of the grain: noise alone reaches 9
MIN_SEPARATION = 0.75  # of the variance is between ink and paper: noise alone has 0.64
MIN_SHEET = 0.25  # of the page
MIN_PAPER = 0.6  # of a sheet; the boldest of 3,000 digits of MNIST leaves 0.62 of a frame
MIN_RECTANGULARITY = 0.88  # of the rectangle around a sheet is filled; an ellipse fills 0.79
MAX_SHEET_RING = 0.8  # of the page's ring of outer pixels; where a sheet covers more, it is the page
EDGE_WIDTH = 3  # pixels at the edge of a sheet that show its shadow
MAX_GAP = 0.05  # of the drawing; parts that are closer belong together
MAX_SPECK = 0.1  # of the largest component's ink; smaller ones are dirt. The dot of an i has more
DOT_SIDE = 2  # pixels of `DRAWING_SIDE`
MIN_STROKE = 0.12  # of the box; thinner strokes are thickened to this, about the width of MNIST's


def has_mnist_form(images: np.ndarray) -> np.ndarray:
    """Return for each image, uint8 (n, h, w), whether it is bright on dark, centered and in MNIST's box."""
    maxima = images.max(axis=(1, 2), keepdims=True)
    is_stroke = images > maxima // 10
    has_form: np.ndarray = maxima[:, 0, 0] >= MIN_CONTRAST
    for axis in (1, 2):
        lines, mass = is_stroke.any(axis=3 - axis), images.sum(axis=3 - axis, dtype=float)
        side = lines.shape[1]
        box = side - lines.argmax(axis=1) - lines[:, ::-1].argmax(axis=1)
        center = mass @ (np.arange(side) + 0.5) / mass.sum(axis=1).clip(1) / side
        has_form &= (box <= BOX_FRACTION * max(images.shape[1:]) + BOX_TOLERANCE) & (
            abs(center - CENTER) <= MAX_OFFSET
        )
    return has_form


def to_mnist_style(page: Image.Image, height: int, width: int) -> np.ndarray:
    """Convert a page of any size, mode L or RGB, to uint8 (height, width); zeros if nothing is legible."""
    pixel_size = float(np.clip(MIN_SIDE / max(page.size), 1, MIN_SIDE / 28))
    ink = _find_ink(_crop_to_sheet(_to_contrast(_scale_page(page))), pixel_size)
    if not ink.size:
        return np.zeros((height, width), np.uint8)
    drawing = crop_to_foreground(_thicken(_normalize(ink)))
    zoom = BOX_FRACTION * min(height / drawing.shape[0], width / drawing.shape[1])
    resized = resize(drawing, *(max(1, round(zoom * side)) for side in drawing.shape))
    return center_by_mass(resized / resized.max(), height, width)


def crop_to_foreground(foreground: np.ndarray) -> np.ndarray:
    """Crop to the bounding box of the nonzero pixels."""
    return foreground[_find_box(foreground)]


def resize(foreground: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize `foreground`, float 0 to 1, to `height` × `width`."""
    return _resize_float(foreground, height, width, Image.Resampling.LANCZOS).clip(0, 1)


def center_by_mass(foreground: np.ndarray, height: int, width: int) -> np.ndarray:
    """Center `foreground`, float 0 to 1, by its mass on a dark page; uint8 (height, width)."""
    canvas = np.zeros((height, width), np.uint8)
    center_of_mass = ndimage.center_of_mass(foreground)
    top, left = (
        int(np.clip(round(side / 2 - mass), 0, side - length))
        for side, mass, length in zip(canvas.shape, center_of_mass, foreground.shape, strict=True)
    )
    canvas[top : top + foreground.shape[0], left : left + foreground.shape[1]] = (255 * foreground).round()
    return canvas


def _scale_page(page: Image.Image) -> Image.Image:
    """Scale the longer side to `MIN_SIDE` to `MAX_SIDE` pixels."""
    side = max(page.size)
    factor = np.clip(side, MIN_SIDE, MAX_SIDE) / side
    if factor == 1:
        return page
    method = Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC
    return page.resize([max(1, round(factor * length)) for length in page.size], method)


def _to_contrast(page: Image.Image) -> np.ndarray:
    """Project colors on the axis along which they differ most; float32 (h, w), 0 to 255.

    Black on white differs in luminance, red on green of the same luminance in color.
    """
    pixels = np.asarray(page, np.float32)
    if pixels.ndim == 2:
        return pixels
    sample = pixels[::2, ::2].reshape(-1, 3)  # of all pixels, np.cov would take 10 MB
    axis = np.linalg.eigh(np.cov(sample, rowvar=False))[1][:, -1]
    contrast: np.ndarray = pixels @ (axis / abs(axis).sum()).astype(np.float32)
    contrast -= min(0, contrast.min())
    return contrast


def _crop_to_sheet(gray: np.ndarray) -> np.ndarray:
    """Crop to a sheet of paper on a table, or to the inside of a frame; any other page is kept.

    A sheet is a rectangle, at any angle, with a sharp edge and with ink on it.
    """
    bright = gray > _find_threshold(gray)
    contrast = abs(gray[bright].mean() - gray[~bright].mean()) if bright.any() else 0
    for mask in (bright, ~bright):
        components, count = ndimage.label(mask)
        if not count:
            continue
        paper = components == np.bincount(components.ravel())[1:].argmax() + 1
        is_framed = not _ring(paper).any()
        sheet = _fill_gaps(paper) if is_framed else ndimage.binary_fill_holes(paper)
        inside = ndimage.binary_erosion(sheet, iterations=EDGE_WIDTH)
        inner = sheet & ~ndimage.binary_erosion(sheet, iterations=EDGE_WIDTH, border_value=1)
        outer = ndimage.binary_dilation(sheet, iterations=EDGE_WIDTH) & ~sheet
        if (
            inside.any()
            and sheet.mean() >= MIN_SHEET
            and _ring(sheet).mean() <= MAX_SHEET_RING
            # An empty rectangle is a drawing, unless it fills the page: then the page is an empty frame.
            and ((sheet & ~paper).any() or sheet.mean() > MAX_SHEET_RING)
            and mask[sheet].mean() >= MIN_PAPER
            and _rectangularity(sheet) >= MIN_RECTANGULARITY
            and abs(np.median(gray[inner]) - np.median(gray[outer])) >= contrast / 2
        ):
            return np.where(inside, gray, np.median(gray[paper]))[_find_box(inside)]
    return gray


def _fill_gaps(mask: np.ndarray) -> np.ndarray:
    """Fill all that lies between two pixels of a row or of a column: holes, and ink that touches the edge."""
    filled = np.zeros_like(mask)
    for axis in (0, 1):
        before = np.maximum.accumulate(mask, axis)
        after = np.flip(np.maximum.accumulate(np.flip(mask, axis), axis), axis)
        filled |= before & after
    return filled


def _find_ink(gray: np.ndarray, pixel_size: float) -> np.ndarray:
    """Find the drawing and crop to it: difference from the paper, float (h, w); empty if nothing is legible.

    `pixel_size` is the side of a pixel of the page as sent, in pixels of `gray`.
    """
    ring = _ring(gray)
    # Ink may cover much of the edge or much of the page, seldom of both.
    paper = np.median(np.concatenate([ring, gray.ravel()[:: max(1, gray.size // ring.size)]]))
    if paper - gray.min() > gray.max() - paper:
        gray = 255 - gray  # dark pen on light paper
    window = max(gray.shape) // 2  # wider than any stroke, narrower than changes of the light
    for sigma in SMOOTHING:
        smooth = ndimage.gaussian_filter(gray, sigma * pixel_size)
        light = ndimage.uniform_filter(ndimage.minimum_filter(smooth, window), window)
        # The minimum is the darkest grain of the paper; add the median grain as well.
        background = light + max(0.0, float(np.median(_ring(smooth - light))))
        ink = smooth - background
        if ink.max() >= max(MIN_CONTRAST, MAX_GRAIN * np.ptp(light)) and _is_legible(ink):
            strokes = _remove_specks(np.where(ink > MAX_GRAIN * ink.max(), ink, 0)) > 0
            near = ndimage.binary_dilation(strokes, iterations=2)
            return np.where(near, gray - background, 0)[_find_box(near)]
    return np.zeros((0, 0))


def _is_legible(ink: np.ndarray) -> bool:
    """Return whether the strongest ink, or the two levels of ink and paper, are more than noise."""
    if ink.max() > MIN_SIGNAL * np.median(abs(ink - np.median(ink))):
        return True
    strokes = ink > _find_threshold(ink)
    share = strokes.mean()
    difference = ink[strokes].mean() - ink[~strokes].mean()
    return bool(share * (1 - share) * difference**2 > MIN_SEPARATION * ink.var())


def _remove_specks(ink: np.ndarray) -> np.ndarray:
    """Set parts with little ink to zero; parts at most `MAX_GAP` apart count as one broken stroke."""
    radius = max(1, round(MAX_GAP / 2 * max(crop_to_foreground(ink).shape)))
    components, _ = ndimage.label(ndimage.binary_dilation(ink > 0, iterations=radius))
    ink_by_component = np.bincount(components.ravel(), ink.ravel())
    return np.where(ink_by_component[components] < MAX_SPECK * ink_by_component.max(), 0, ink)


def _normalize(ink: np.ndarray) -> np.ndarray:
    """Scale a drawing to `DRAWING_SIDE` pixels and its ink to 0 to 1."""
    factor = DRAWING_SIDE / max(ink.shape)
    height, width = (max(1, round(factor * side)) for side in ink.shape)
    method = Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC
    scaled = _resize_float(ink, height, width, method)
    scaled = (scaled / np.median(scaled[scaled > scaled.max() / 2])).clip(0, 1)
    return crop_to_foreground(np.where(scaled < MAX_GRAIN, 0, scaled))


def _thicken(drawing: np.ndarray) -> np.ndarray:
    """Thicken strokes to MIN_STROKE; the mean depth within a stroke is a quarter of its width.

    Dots of paper within a stroke, which a dithered page has, do not make it thinner.
    """
    stroke_mask = ndimage.binary_closing(np.pad(drawing > 0.5, DOT_SIDE), iterations=DOT_SIDE)
    mean_depth = ndimage.distance_transform_edt(stroke_mask)[stroke_mask].mean() - 0.5
    extra_width = max(0, round(MIN_STROKE * max(drawing.shape) - 4 * mean_depth))
    thickened: np.ndarray = ndimage.maximum_filter(np.pad(drawing, extra_width), extra_width + 1)
    return thickened


def _find_box(foreground: np.ndarray) -> tuple[slice, slice]:
    """Find the bounding box of the nonzero pixels; empty if there are none."""
    rows, columns = (np.flatnonzero(foreground.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0), slice(0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _resize_float(image: np.ndarray, height: int, width: int, method: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(image.astype(np.float32)).resize((width, height), method))


def _ring(image: np.ndarray) -> np.ndarray:
    """Return the pixels at the edge."""
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])


def _find_threshold(gray: np.ndarray) -> float:
    """Find the gray level that separates two groups best: the largest variance between them (Otsu)."""
    counts, edges = np.histogram(gray, 64)
    levels = (edges[1:] + edges[:-1]) / 2
    below, sums = counts.cumsum()[:-1], (counts * levels).cumsum()[:-1]
    mean = (counts * levels).sum() / gray.size
    variance = (mean * below - sums) ** 2 / (below * (gray.size - below)).clip(1)
    return float(edges[1:-1][variance == variance.max()].mean())


def _rectangularity(mask: np.ndarray) -> float:
    """Return the area of `mask` as a fraction of the smallest rectangle around it, at any angle."""
    rows, columns = np.nonzero(mask & ~ndimage.binary_erosion(mask))
    angles = np.radians(np.arange(0, 90, 3))[:, None]
    lengths = np.ptp(rows * np.cos(angles) + columns * np.sin(angles), axis=1) + 1
    widths = np.ptp(columns * np.cos(angles) - rows * np.sin(angles), axis=1) + 1
    return float(mask.sum() / (lengths * widths).min())
