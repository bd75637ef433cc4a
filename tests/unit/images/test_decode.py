import io
import struct
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from platodef_cli.errors import UsageError
from platodef_cli.images.decode import FORMATS, ImageError, decode
from tests.unit.images.image_fakes import encode, noise

LOSSLESS = ["PNG", "BMP", "TIFF", "PPM"]
FILES = {
    kind: encode(noise(24, 20), kind, **({"quality": 80} if kind in ("JPEG", "WEBP", "AVIF") else {}))
    for kind in FORMATS
}


def array(image):
    return np.asarray(image)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_rgb(kind):
    image = decode(FILES[kind])
    assert (image.mode, image.size) == ("RGB", (20, 24))
    difference = np.abs(array(image).astype(int) - array(noise(24, 20))).mean()
    assert difference == 0 if kind in LOSSLESS else difference < 60


def test_avif_without_a_decoder_says_what_to_install(monkeypatch):
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(ImageError, match=r"AVIF, which the Pillow .* install Pillow from PyPI") as caught:
        decode(FILES["AVIF"])
    assert caught.value.transient
    assert decode(FILES["PNG"]).mode == "RGB"


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA", "YCbCr", "LAB"])
def test_other_modes_convert_as_pillow_does(mode):
    image = noise().convert("L").convert(mode) if mode == "LA" else noise().convert(mode)
    data = encode(image, "TIFF")
    with Image.open(io.BytesIO(data)) as stored:
        expected = array(stored.convert("RGB"))
    np.testing.assert_array_equal(array(decode(data)), expected)


def test_alpha_is_dropped_not_composited():
    image = noise().convert("RGBA")
    image.putalpha(0)
    np.testing.assert_array_equal(array(decode(encode(image))), array(noise()))


def test_transparent_palette():
    image = noise().convert("P")
    image.info["transparency"] = bytes(range(256))
    np.testing.assert_array_equal(array(decode(encode(image))), array(image.convert("RGBA"))[..., :3])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 257, 32896, 65535]], np.uint16), [0, 1, 128, 255]),  # 16 bits
        (np.array([[0, 1, 128, 255]], np.int32), [0, 1, 128, 255]),  # 8-bit content in 32 bits
        (np.array([[0, 257, 32896, 70000]], np.int32), [0, 1, 128, 255]),
        (np.array([[-5, 0, 7, 300]], np.int32), [0, 0, 0, 1]),
        (np.array([[0.0, 0.5, 1.0, -1.0]], np.float32), [0, 128, 255, 0]),
        (np.array([[0.0, 100.0, 255.0, np.nan]], np.float32), None),
    ],
)
def test_wide_greyscale_is_scaled_not_clipped(values, expected):
    pixels = array(decode(encode(Image.fromarray(values), "TIFF")))
    assert (pixels[..., 0] == pixels[..., 2]).all()
    if expected is not None:
        assert pixels[0, :, 0].tolist() == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(
        np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, np.ones((16, 16), np.uint8))
    )
    upright = array(decode(encode(image, "JPEG", quality=100, exif=exif)))[8::16, 8::16, 0].round(-1)
    grid = np.arange(6).reshape(2, 3) * 40
    turned = {
        1: grid,
        2: grid[:, ::-1],
        3: grid[::-1, ::-1],
        4: grid[::-1],
        5: grid.T,
        6: np.rot90(grid, -1),
        7: grid[::-1, ::-1].T,
        8: np.rot90(grid),
    }[orientation]
    np.testing.assert_allclose(upright, turned, atol=3)


def test_first_frame_of_an_animation():
    frames = [noise(seed=i) for i in range(3)]
    data = encode(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(array(decode(data)), array(frames[0]))


def bomb(width, height):
    """A valid PNG header of any size, a few hundred bytes."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(8001, 8000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_is_an_error_before_decoding(size):
    with pytest.raises(ImageError, match=r"cannot be used: .*(pixels, more than the limit|exceeds limit)"):
        decode(bomb(*size), "bomb.png")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello", "not a readable image"),
        (FILES["PNG"][:60], "broken"),
        (FILES["JPEG"][:-20], "broken: image file is truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a readable image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a readable image"),
        (encode(noise(), "ICO"), "not a readable image"),  # a format that is not allowed
        (bomb(0, 5), "broken|no pixels|not a readable image"),
    ],
)
def test_unusable_bytes_give_one_line(data, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        decode(data, "dir/x.png")
    assert str(caught.value).startswith("image 'dir/x.png' cannot be used: ")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UsageError)
    assert (caught.value.name, caught.value.transient) == ("dir/x.png", False)


def test_limits_can_be_set():
    assert decode(FILES["PNG"], max_pixels=480).size == (20, 24)
    with pytest.raises(ImageError, match="20 x 24 pixels, more than the limit of 479"):
        decode(FILES["PNG"], max_pixels=479)
    with pytest.raises(ImageError, match="more than the limit of 10"):
        decode(FILES["PNG"], max_bytes=10)


def is_rgb_or_one_line(data):
    try:
        image = decode(data, "x", max_pixels=200_000)
    except ImageError as error:
        return "\n" not in str(error)
    return image.mode == "RGB"


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_damaged_files_never_crash(kind, data):
    damaged = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(0, 4))):
        position = data.draw(st.integers(0, min(len(damaged) - 1, 400)))
        damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    keep = data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))))
    assert is_rgb_or_one_line(bytes(damaged[:keep]))


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(
        [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"II*\0", b"RIFF", b"P6 "]
        + [b"\0\0\0\x1cftypavif"]
    ),
    st.binary(),
)
def test_arbitrary_bytes_never_crash(magic, rest):
    assert is_rgb_or_one_line(magic + rest)


def test_threads_decode_alike():
    results = []
    threads = [
        threading.Thread(target=lambda: results.extend(array(decode(FILES["PNG"])).sum() for _ in range(20)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [array(noise(24, 20)).sum()] * 80
