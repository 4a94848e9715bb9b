import io
import random
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

from roost import preprocess
from roost.errors import BadImage, TooLarge
from roost.preprocess import FORMATS, Limits, centre, decode

WAYS = {"JPEG": {}, "PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "GIF": {}}


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size, over one scan line of black."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(64))),
        (b"IEND", b""),
    ]
    framed = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def test_every_format_that_is_named_can_be_decoded():
    assert set(WAYS) == set(FORMATS)
    for kind, options in WAYS.items():
        pixels = decode(encoded(Image.new("RGB", (20, 10), (250, 0, 0)), kind, **options), size=4, resize=4)
        assert (pixels.shape, pixels.dtype) == ((4, 4, 3), np.uint8)
        np.testing.assert_allclose(pixels, np.broadcast_to([250, 0, 0], (4, 4, 3)), atol=6)


def test_an_image_of_the_right_size_keeps_its_pixels():
    image = noise(7, 7)
    assert np.array_equal(decode(encoded(image), size=7, resize=7), np.asarray(image))


def test_the_central_square_is_scaled_and_its_centre_kept():
    image = noise(40, 100)
    scaled = image.crop((30, 0, 70, 40)).resize((20, 20), Image.Resampling.BILINEAR)
    assert np.array_equal(decode(encoded(image), size=10, resize=20), np.asarray(scaled)[5:15, 5:15])


def test_the_centre_of_an_odd_remainder_is_the_upper_left_one():
    pixels = np.arange(2 * 5 * 5 * 3).reshape(2, 5, 5, 3)
    assert np.array_equal(centre(pixels, 2), pixels[:, 1:3, 1:3])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_asks(orientation):
    image, exif = noise(6, 6), Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(decode(data, size=6, resize=6), np.asarray(expected))


def test_exif_with_one_broken_entry_still_turns_the_image():
    # Orientation 6, and a resolution that is text; Pillow cannot write the latter back, as exif_transpose would.
    entries = struct.pack(">HHLHH", 0x0112, 3, 1, 6, 0) + struct.pack(">HHL4s", 0x011A, 2, 4, b"abc")
    exif = b"Exif\0\0MM\0*" + struct.pack(">LH", 8, 2) + entries + bytes(4)
    image = noise(6, 6)
    turned = np.rot90(np.asarray(image), k=-1)
    assert np.array_equal(decode(encoded(image, exif=exif), size=6, resize=6), turned)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"])
def test_an_image_whose_exif_cannot_be_read_stays_as_it_lies(exif):
    image = noise(6, 6)
    assert np.array_equal(decode(encoded(image, exif=exif), size=6, resize=6), np.asarray(image))


def test_transparency_is_laid_over_white():
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 51))  # a fifth of black over white
    assert decode(encoded(image), size=4, resize=4).tolist() == [[[204] * 3] * 4] * 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_becomes_rgb(mode):
    white = encoded(Image.new("RGB", (4, 4), "white").convert(mode))
    assert decode(white, size=4, resize=4).tolist() == [[[255] * 3] * 4] * 4


def test_sixteen_bits_become_their_upper_eight():
    image = Image.fromarray(np.full((4, 4), 0x7FFF, np.uint16))
    assert decode(encoded(image), size=4, resize=4).tolist() == [[[0x7F] * 3] * 4] * 4


def test_cmyk_becomes_rgb():
    data = encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG")
    np.testing.assert_allclose(decode(data, size=8, resize=8)[0, 0], [0, 255, 255], atol=3)


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data, size=4, resize=4)[0, 0].tolist() == [255, 0, 0]


def test_a_large_photograph_decoded_at_a_fraction_stays_close_to_the_whole():
    generator = np.random.default_rng(0)
    smooth = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((1600, 1600))
    data = encoded(smooth, "JPEG", quality=95)
    whole = Image.open(io.BytesIO(data)).resize((32, 32), Image.Resampling.BILINEAR)
    difference = decode(data, size=32, resize=32).astype(int) - np.asarray(whole)
    assert np.abs(difference).mean() < 1


def test_a_strip_one_pixel_high_is_scaled_from_its_centre():
    assert decode(encoded(noise(1, 3000)), size=32, resize=32).shape == (32, 32, 3)


def odd(mode: str) -> Image.Image:
    """Noise in some mode, of the size of a band and a half in the tests below."""
    image = noise(61, 97)
    if mode == "I;16":
        return Image.fromarray(np.random.default_rng(1).integers(0, 65536, (61, 97)).astype(np.uint16))
    if mode in ("RGBA", "LA"):
        image.putalpha(noise(61, 97).rotate(180).convert("L"))
    return image.quantize(64) if mode == "P" else image.convert(mode)


LAID_OVER = {"P": 3, "L": 200, "RGB": (1, 2, 3)}


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_a_large_image_gives_the_same_pixels_in_bands_as_at_once(monkeypatch, mode, orientation, transparent):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"transparency": LAID_OVER[mode]} if transparent and mode in LAID_OVER else {}
    kind = "JPEG" if mode == "CMYK" else "PNG"
    for image in (
        odd(mode),
        odd(mode).crop((3, 0, 60, 57)),
        odd(mode).crop((0, 5, 97, 17)),
        odd(mode).crop((8, 0, 9, 61)),
    ):
        data = encoded(image, kind, exif=exif, **options)
        for resize in (4, 57, 100):
            at_once = decode(data, size=4, resize=resize)
            for pixels in (1, 100, 333):
                with monkeypatch.context() as patch:
                    patch.setattr(preprocess, "BAND_PIXELS", pixels)
                    assert np.array_equal(decode(data, size=4, resize=resize), at_once)


@pytest.mark.parametrize(
    "data", [b"\x00", b"GIF89a", b"not an image at all", b"\xff\xd8\xff", b"%PDF-1.4", b"II*\0" * 9]
)
def test_bytes_that_are_no_image_are_refused(data):
    with pytest.raises(BadImage, match="not an image of the formats JPEG, PNG, WEBP, BMP, GIF"):
        decode(data, size=4, resize=4)


def test_no_bytes_are_refused():
    with pytest.raises(BadImage, match="empty: 0 bytes"):
        decode(b"", size=4, resize=4)


@pytest.mark.parametrize("kind", WAYS)
def test_half_an_image_is_refused(kind):
    data = encoded(noise(64, 64), kind, **WAYS[kind])
    with pytest.raises(BadImage):
        decode(data[: len(data) // 2], size=4, resize=4)


def test_an_image_over_the_byte_limit_is_refused_before_it_is_read():
    with pytest.raises(TooLarge, match="has 11 bytes; the limit is 10"):
        decode(bytes(11), size=4, resize=4, limits=Limits(max_bytes=10))


def test_an_image_over_the_pixel_limit_is_refused_and_one_at_it_taken():
    data = encoded(noise(10, 11))
    assert decode(data, size=4, resize=4, limits=Limits(max_pixels=110)).shape == (4, 4, 3)
    with pytest.raises(TooLarge, match="11 x 10 pixels; the limit is 109"):
        decode(data, size=4, resize=4, limits=Limits(max_pixels=109))


@pytest.mark.parametrize("side", [8_000, 12_000, 50_000])
def test_a_decompression_bomb_is_refused_for_the_size_it_claims(side):
    with pytest.raises(TooLarge, match="the limit is 50000000"):
        decode(png(side, side), size=4, resize=4)


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (0, 0)])
def test_an_image_without_pixels_is_refused(width, height):
    with pytest.raises(BadImage):
        decode(png(width, height), size=4, resize=4)


@pytest.mark.parametrize("kind", WAYS)
def test_damaged_images_give_pixels_or_a_refusal_and_nothing_else(kind):
    generator, exif = random.Random(0), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    options = WAYS[kind] if kind in ("BMP", "GIF") else WAYS[kind] | {"exif": exif}
    whole = encoded(noise(24, 30), kind, **options)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(generator.randrange(1, 6)):
            data[generator.randrange(generator.choice([200, len(data)]))] = generator.randrange(256)
        try:
            assert decode(bytes(data), size=8, resize=8).shape == (8, 8, 3)
        except (BadImage, TooLarge):
            refused += 1
    assert 0 < refused < 300


def test_decoding_in_many_threads_leaves_the_callers_warning_filters_alone():
    data = encoded(noise(16, 16), "JPEG")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: decode(data, size=8, resize=8), range(400)))
    ours = [entry for entry in warnings.filters if entry not in before]
    assert [str(entry[3].pattern) for entry in ours if entry[3]] == [r"PIL\."] * len(ours)
    with pytest.warns(UserWarning, match="still heard"):
        warnings.warn("still heard", stacklevel=1)
