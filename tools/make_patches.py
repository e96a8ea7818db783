#!/usr/bin/env python3
"""Cut the embedded patches out of photographs that come with scikit-image.

    python -m pip install scikit-image==0.26.0
    python -m tools.make_patches [OUT_DIR]

Writes patches_train.webp, patches_test.webp and patches.json. The class of a patch is its
photograph. Every patch is grey and its histogram is made flat: LEVELS grey values, each as often as
any other. So neither brightness nor contrast tells the photographs apart, only structure does.

Each photograph is divided into blocks of BLOCK pixels. No patch reaches over the edge of its block,
and one block of three is for testing, so no pixel of a test patch is in a training patch. Patches
that are nearly of one colour, such as sky, are left out.

Left out are the photographs that scikit-image names no free licence for (coins, ihc, moon, page,
motorcycle), and two that are nearly of one colour (cell, clock_motion). Licences of those that are
kept: embedded/NOTICE.md.
"""

import importlib.util
import json
import pathlib
import sys
from typing import NamedTuple

import numpy as np
from PIL import Image

from tools.make_embedded import SIDE, sheet

PHOTOGRAPHS = {  # class: file
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "cameraman": "camera.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "galaxies": "hubble_deep_field.jpg",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
    "text": "text.png",
}
STRIDE, BLOCK = 16, 96
LARGEST = 900  # pixels of the longer side of a photograph
FLAT = 8.0  # standard deviation of the grey values, of 255, below which a patch is left out
LEVELS = 16
MOST = {"train": 240, "test": 100}  # of a class


class Patch(NamedTuple):
    """One patch before its histogram is made flat."""

    grey: np.ndarray
    label: int
    block: int  # of its photograph


def grey(path: pathlib.Path) -> np.ndarray:
    """A photograph in grey, reduced if it is large."""
    image = Image.open(path).convert("L")
    scale = LARGEST / max(image.size)
    if scale < 1:
        width, height = (int(side * scale) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image)


def patches(photograph: np.ndarray, label: int) -> dict[str, list[Patch]]:
    """Every patch that lies within a block, by split."""
    found = {"train": [], "test": []}
    height, width = photograph.shape
    columns = -(-width // BLOCK)
    for y in range(0, height - SIDE + 1, STRIDE):
        for x in range(0, width - SIDE + 1, STRIDE):
            patch = photograph[y : y + SIDE, x : x + SIDE]
            row, column = y // BLOCK, x // BLOCK
            within = y % BLOCK + SIDE <= BLOCK and x % BLOCK + SIDE <= BLOCK
            if within and patch.std() >= FLAT:
                split = "train" if (row + column) % 3 else "test"
                found[split].append(Patch(patch, label, row * columns + column))
    return found


def flatten(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replace grey values [n h w] by their rank in the image; equal ones are ranked by chance."""
    values = images.reshape(len(images), -1)
    values = values + 0.5 * rng.random(values.shape)
    ranks = np.argsort(np.argsort(values, axis=1), axis=1)
    levels = ranks * LEVELS // values.shape[1]
    return (levels * (255 // (LEVELS - 1))).astype(np.uint8).reshape(images.shape)


def main(folder: str = "dystress_jax/data/embedded") -> None:
    """Write the sheets and what belongs to them."""
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise SystemExit("scikit-image is not installed; do: pip install scikit-image==0.26.0")
    photographs = pathlib.Path(package.origin).parent / "data"
    rng, out = np.random.default_rng(0), pathlib.Path(folder)
    kept: dict[str, list[Patch]] = {"train": [], "test": []}
    for label, file in enumerate(PHOTOGRAPHS.values()):
        for split, of_class in patches(grey(photographs / file), label).items():
            rows = np.sort(rng.permutation(len(of_class))[: MOST[split]])
            kept[split] += [of_class[row] for row in rows]
    about: dict[str, list] = {"class_names": list(PHOTOGRAPHS)}
    for split, chosen in kept.items():
        about[f"{split}_labels"] = [patch.label for patch in chosen]
        images = flatten(np.stack([patch.grey for patch in chosen]), rng)
        path = out / f"patches_{split}.webp"
        pictures = np.repeat(images[..., None], 3, axis=-1)  # WebP knows no grey
        Image.fromarray(sheet(pictures)).save(path, lossless=True, quality=100, method=6)
        counts = np.bincount(about[f"{split}_labels"]).tolist()
        print(f"{path}: {len(images)} patches, {counts}, {path.stat().st_size} bytes")
    about["train_blocks"] = [patch.block for patch in kept["train"]]
    text = json.dumps(about, separators=(",", ":"))
    (out / "patches.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
