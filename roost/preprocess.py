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
SIDEWAYS = {UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}
FROM_THE_END = {UPRIGHT[orientation] for orientation in (3, 4, 7, 8)}
"""What makes the last rows, or columns, the first."""
BAND_PIXELS = 1 << 20
"""A larger image is turned, made RGB and narrowed in bands of so many pixels: each copy of it may take 200 MB."""
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
    image = _load(_open(data, limits), shortest=resize)
    turn = _turn(image)
    if image.width * image.height <= BAND_PIXELS:
        scaled = _scaled(_rgb(image if turn is None else image.transpose(turn)), resize)
    else:
        scaled = _scaled_in_bands(image, turn, resize)
    return centre(np.asarray(scaled), size)


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


def _load(image: Image.Image, *, shortest: int) -> Image.Image:
    """Read an image's pixels."""
    kind = image.format
    try:
        if kind == "JPEG" and image.mode == "RGB":
            image.draft("RGB", (2 * shortest, 2 * shortest))  # decode large photographs at a fraction
        image.load()
    except (OSError, ValueError, SyntaxError, IndexError, MemoryError, EOFError, struct.error) as error:
        raise BadImage(f"The {kind} image is damaged or cut short. Send the whole file.", format=kind) from error
    return image


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes an image upright, as its EXIF says; one whose EXIF cannot be read stays as it lies.

    `ImageOps.exif_transpose` also writes the EXIF anew, and fails on images that every viewer shows.
    """
    try:
        return UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error):
        return None


def _rgb(image: Image.Image) -> Image.Image:
    """An image as 8-bit RGB, laid over white."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _scaled(image: Image.Image, resize: int) -> Image.Image:
    """The central square of an RGB image; a strip one pixel high would grow without bound if all of it were scaled."""
    if image.size == (resize, resize):
        return image
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((resize, resize), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def _scaled_in_bands(image: Image.Image, turn: Image.Transpose | None, resize: int) -> Image.Image:
    """What `_scaled` makes of an image once it is upright and RGB, bit by bit, without several copies of its size.

    Of an image that is no higher than wide, Pillow narrows the rows, rounds, and then shortens the columns, so that the
    first can be done for some rows at a time. Of others it may begin with the columns; those need one copy.
    """
    width, height = image.size[::-1] if turn in SIDEWAYS else image.size
    wide = width >= height
    if wide and width > BAND_PIXELS:
        image = _without_ends(image, resize)
        width = image.height if turn in SIDEWAYS else image.width
    left = (width - height) / 2
    whole = Image.new("RGB", (resize if wide else width, height))
    step = max(1, BAND_PIXELS // width)
    for first in range(0, height, step):
        rows = min(step, height - first)
        band = _rgb(_band(image, turn, first, first + rows))
        if wide:
            band = band.resize((resize, rows), Image.Resampling.BILINEAR, box=(left, 0, left + height, rows))
        whole.paste(band, (0, first))
    if wide:
        return whole.resize((resize, resize), Image.Resampling.BILINEAR)
    return _scaled(whole, resize)


def _band(image: Image.Image, turn: Image.Transpose | None, first: int, last: int) -> Image.Image:
    """Some rows of an image once it is upright."""
    if turn in FROM_THE_END:
        length = image.width if turn in SIDEWAYS else image.height
        first, last = length - last, length - first
    box = (first, 0, last, image.height) if turn in SIDEWAYS else (0, first, image.width, last)
    band = image.crop(box)
    return band if turn is None else band.transpose(turn)


def _without_ends(image: Image.Image, resize: int) -> Image.Image:
    """An image's central square, and around it as much as scaling looks at."""
    side = min(image.size)
    margin = 2 + -(-side // resize)
    left, top = (max(0, (length - side) // 2 - margin) for length in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


def _quiet_pillow() -> None:
    """Silence Pillow's own modules: they warn of odd EXIF and palettes, which they read, and of bombs, judged here.

    `warnings.catch_warnings` would be undone in the wrong order where several threads decode.
    """
    if PILLOW_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module=PILLOW_FILTER[3].pattern)
