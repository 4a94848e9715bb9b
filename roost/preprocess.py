"""Encoded bytes to uint8 pixels: the only image decoder in Roost.

Training, clustering and the gateway all decode here, so that an image gives the same pixels wherever it
is read. What the encoder needs after this, scaling to 0..1 and normalising, is inside the exported graph.
"""

import io
import re
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from roost.errors import BadImage, TooLarge

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
UPRIGHT = {  # EXIF 2.32, table 6: what undoes each orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PILLOW_FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@dataclass(frozen=True)
class Limits:
    """What an image may cost."""

    max_bytes: int = 10 * 1024 * 1024
    max_pixels: int = 50_000_000


DEFAULT_LIMITS = Limits()


def decode(data: bytes, *, size: int, resize: int, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """Decode one image the way a photographer would expect it, and cut out its centre.

    EXIF orientation is honoured, CMYK, grey, palette and 16-bit images become 8-bit RGB, transparency is
    laid over white, and of an animation the first frame is taken. The central square is scaled to `resize`
    with an antialiased bilinear filter, and its own central `size` by `size` square is kept.

    Args:
        data: A JPEG, PNG, WebP, BMP or GIF file's bytes.
        size: Side of the result, in pixels.
        resize: Side of the image's central square after scaling, in pixels; >= size.
        limits: Refuse images beyond these.

    Returns:
        uint8 array of shape (size, size, 3), RGB.

    Raises:
        BadImage: Empty, truncated, or not an image of those formats.
        TooLarge: Over the byte or the pixel limit.
    """
    image = _rgb(_open(data, limits), shortest=resize)
    side = min(image.size)
    if image.size != (resize, resize):
        # Only the central square is scaled: a strip one pixel high would otherwise grow without bound.
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        image = image.resize((resize, resize), Image.Resampling.BILINEAR, box=box)
    return centre(np.asarray(image), size)


def centre(pixels: np.ndarray, size: int) -> np.ndarray:
    """The central square of images, shape (..., height, width, 3) to (..., size, size, 3)."""
    height, width = pixels.shape[-3:-1]
    top, left = (height - size) // 2, (width - size) // 2
    return np.ascontiguousarray(pixels[..., top : top + size, left : left + size, :])


def _open(data: bytes, limits: Limits) -> Image.Image:
    if not data:
        raise BadImage("The image is empty: 0 bytes. Send the file's content.", bytes=0)
    if len(data) > limits.max_bytes:
        raise TooLarge(
            f"The image has {len(data)} bytes; the limit is {limits.max_bytes}. Send a smaller file.",
            bytes=len(data),
            max_bytes=limits.max_bytes,
        )
    _quiet_pillow()
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:  # past Pillow's own limit, which is looser by default
        raise TooLarge(
            f"The image has more pixels than can be decoded; the limit is {limits.max_pixels}. Send a smaller one.",
            max_pixels=limits.max_pixels,
        ) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise BadImage(f"The {len(data)} bytes are not an image of the formats {', '.join(FORMATS)}.") from error
    pixels = image.width * image.height
    if pixels > limits.max_pixels:
        raise TooLarge(
            f"The image has {image.width} x {image.height} pixels; the limit is {limits.max_pixels} in all. "
            "Send a smaller one.",
            pixels=pixels,
            max_pixels=limits.max_pixels,
        )
    return image


def _rgb(image: Image.Image, *, shortest: int) -> Image.Image:
    """Load an image's pixels as 8-bit RGB, upright."""
    kind = image.format
    try:
        if kind == "JPEG" and image.mode == "RGB":
            image.draft("RGB", (2 * shortest, 2 * shortest))  # decode large photographs at a fraction
        image.load()
    except (OSError, ValueError, SyntaxError, IndexError, MemoryError, EOFError, struct.error) as error:
        raise BadImage(f"The {kind} image is damaged or cut short. Send the whole file.", format=kind) from error
    image = _upright(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation asks; one whose EXIF cannot be read stays as it lies.

    `ImageOps.exif_transpose` also writes the EXIF anew, and fails on images that every viewer shows.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error):
        return image
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _quiet_pillow() -> None:
    """Silence Pillow's own modules: they warn of odd EXIF and palettes, which they read, and of bombs, judged here.

    `warnings.catch_warnings` would be undone in the wrong order where several threads decode.
    """
    if PILLOW_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module=PILLOW_FILTER[3].pattern)
