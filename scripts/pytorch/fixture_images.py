"""Writes the fixture `tests/fixtures/images`: small image files of all formats, and their pixels by torchvision.

    python scripts/pytorch/fixture_images.py tests/fixtures/images

`expected.safetensors` has three tensors of bytes (H, W, 3) for each file, made from
`ImageOps.exif_transpose(Image.open(FILE)).convert("RGB")`: `FILE` after `Resize(24)` and `CenterCrop(24)`,
`FILE@squash` after `resize((20, 20))`, and `FILE@whole` unchanged. Grey PNGs of 16 bits are first scaled to 8 bits,
because Pillow clips them at 255.
"""

import argparse
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file
from torchvision.transforms import CenterCrop, Resize

ORIENTATION = 0x0112


def picture(width, height, seed):
    """An RGB image of smooth colours with a disc and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    phases = rng.uniform(0, 6, 3)
    waves = np.stack([128 + 90 * np.sin(x / 9 + y / 13 * c + phases[c]) for c in range(3)], -1)
    disc = (x - width * 0.6) ** 2 + (y - height * 0.4) ** 2 < (min(width, height) * 0.25) ** 2
    waves[disc] = rng.uniform(40, 220, 3)
    return Image.fromarray((waves + rng.normal(0, 3, waves.shape)).clip(0, 255).astype(np.uint8))


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def exif_of_32_bits(orientation):
    """EXIF with the orientation as a LONG, whereas the standard has a SHORT."""
    return b"Exif\0\0" + struct.pack(">2sHIHHHIII", b"MM", 42, 8, 1, ORIENTATION, 4, 1, orientation, 0)


def raw_profile(orientation):
    """EXIF as ImageMagick writes it into a text chunk of a PNG."""
    data = b"Exif\0\0" + exif(orientation).tobytes().removeprefix(b"Exif\0\0")
    digits = data.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    return f"\nexif\n{len(data):8}\n{lines}\n"


def with_text(orientation, add):
    text = PngInfo()
    add(text, "Raw profile type exif", raw_profile(orientation))
    return text


def make(out):
    wide, tall = picture(60, 41, 1), picture(35, 52, 2)
    alpha = wide.copy()
    alpha.putalpha(Image.fromarray((np.arange(41 * 60).reshape(41, 60) % 256).astype(np.uint8)))
    palette = tall.quantize(60)
    grey16 = Image.fromarray(
        (np.asarray(wide.convert("L")).astype(np.uint32) * 257 - 100).clip(0, 65535).astype(np.uint16)
    )
    images = {
        "444.jpg": (wide, {"quality": 90, "subsampling": 0}),
        "420.jpg": (tall, {"quality": 85, "subsampling": 2}),
        "422.JPEG": (wide, {"quality": 85, "subsampling": 1}),
        "progressive.jpg": (wide, {"quality": 80, "progressive": True}),
        "grey.jpg": (tall.convert("L"), {"quality": 90}),
        "cmyk.jpg": (wide.convert("CMYK"), {"quality": 90}),
        "turned 6.jpg": (tall, {"quality": 90, "exif": exif(6)}),
        "turned 5.JPG": (wide, {"quality": 90, "exif": exif(5)}),
        "rgb.png": (wide, {}),
        "alpha.png": (alpha, {}),
        "palette.png": (palette, {"transparency": 3}),
        "bits.png": (wide.convert("1"), {}),
        "grey alpha.png": (alpha.convert("LA"), {}),
        "grey16.png": (grey16, {}),
        "turned 3.png": (tall, {"exif": exif(3)}),
        "turned long.jpg": (tall, {"quality": 90, "exif": exif_of_32_bits(6)}),
        "turned text.png": (tall, {"pnginfo": with_text(8, lambda text, *what: text.add_text(*what))}),
        "turned ztext.png": (
            tall,
            {"pnginfo": with_text(6, lambda text, *what: text.add_text(*what, zip=True))},
        ),
        "turned itext.png": (
            tall,
            {"pnginfo": with_text(7, lambda text, *what: text.add_itxt(*what, zip=True))},
        ),
        "two pixels.png": (picture(2, 1, 3), {}),
        "thin.png": (picture(2, 50, 4), {}),
        "lossy.webp": (tall, {"quality": 80}),
        "lossless.webp": (alpha, {"lossless": True, "exact": True}),
        "turned 8.webp": (wide, {"lossless": True, "exif": exif(8)}),
        "24.bmp": (wide, {}),
        "8.bmp": (palette, {}),
        "animated.gif": (
            palette,
            {"save_all": True, "append_images": [picture(35, 52, 5).quantize(16)], "duration": 10},
        ),
        "rgb.ppm": (tall, {}),
        "grey.pgm": (wide.convert("L"), {}),
        "lzw.tif": (wide, {"compression": "tiff_lzw"}),
    }
    for name, (image, options) in images.items():
        image.save(out / name, **options)
    gif = (out / "animated.gif").read_bytes()
    made = {
        # The content determines the format, not the name.
        "a png.jpg": (out / "rgb.png").read_bytes(),
        # The canvas is smaller than the first image.
        "small canvas.gif": gif[:6] + struct.pack("<HH", 30, 40) + gif[10:],
    }
    for name, content in made.items():
        (out / name).write_bytes(content)
    return [*images, *made]


def read(path):
    image = Image.open(path)
    if image.mode.startswith("I"):
        scaled = np.rint(np.asarray(image).astype(np.float64) * 255 / 65535).astype(np.uint8)
        return Image.fromarray(scaled).convert("RGB")
    return ImageOps.exif_transpose(image).convert("RGB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="directory to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    expected = {}
    for name in make(out):
        image = read(out / name)
        ways = {
            "": CenterCrop(24)(Resize(24)(image)),
            "@squash": image.resize((20, 20), Image.BILINEAR),
            "@whole": image,
        }
        for way, made in ways.items():
            expected[name + way] = torch.from_numpy(np.asarray(made).copy())
    save_file(expected, out / "expected.safetensors")


if __name__ == "__main__":
    main()
