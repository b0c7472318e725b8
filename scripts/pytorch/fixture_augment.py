"""Writes the fixture `tests/fixtures/augment.safetensors`: one Pillow image after each of torchvision's transforms.

    python scripts/pytorch/fixture_augment.py tests/fixtures/augment.safetensors

Each tensor has the bytes (H, W, 3) of an image.
"""

import argparse
import math

import numpy as np
import torch
from fixture_images import picture
from safetensors.torch import save_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F


def made(image):
    width, height = image.size

    def affine(**change):
        change = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | change
        return F.affine(image, **change, interpolation=InterpolationMode.NEAREST, fill=None)

    return {
        "image": image,
        "crop": F.resized_crop(image, 5, 8, 30, 23, [24, 24]),
        "brightness 0.3": F.adjust_brightness(image, 0.3),
        "brightness 1.7": F.adjust_brightness(image, 1.7),
        "contrast 0.4": F.adjust_contrast(image, 0.4),
        "contrast 1.6": F.adjust_contrast(image, 1.6),
        "saturation 0.2": F.adjust_saturation(image, 0.2),
        "saturation 1.9": F.adjust_saturation(image, 1.9),
        "sharpness 0.1": F.adjust_sharpness(image, 0.1),
        "sharpness 1.9": F.adjust_sharpness(image, 1.9),
        "posterize 4": F.posterize(image, 4),
        "solarize 128": F.solarize(image, 128),
        "autocontrast": F.autocontrast(image),
        "equalize": F.equalize(image),
        # Shears, translations and rotations as in RandAugment.
        "shear x 0.3": F.affine(
            image, 0.0, [0, 0], 1.0, [math.degrees(math.atan(0.3)), 0.0], fill=None, center=[0, 0]
        ),
        "shear y -0.3": F.affine(
            image, 0.0, [0, 0], 1.0, [0.0, math.degrees(math.atan(-0.3))], fill=None, center=[0, 0]
        ),
        "move x 13": affine(translate=[13, 0]),
        "move y -9": affine(translate=[0, -9]),
        "turn 21": F.rotate(image, 21.0, interpolation=InterpolationMode.NEAREST, fill=None),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="file to write")
    images = made(picture(60, 41, 1))
    save_file({n: torch.from_numpy(np.asarray(i).copy()) for n, i in images.items()}, parser.parse_args().out)


if __name__ == "__main__":
    main()
