"""A folder of JPEG files like ImageNet's: `python -m benchmarks.loader.photos FOLDER COUNT`.

500 x 375 pixels, quality 90, pieces of the photographs that come with scikit-image, ten classes.
"""

import concurrent.futures
import functools
import os
import pathlib
import sys

import numpy as np
from PIL import Image

SIZE = (500, 375)


@functools.cache
def photographs() -> list[Image.Image]:
    """What the pieces are cut from."""
    import skimage.data

    names = ("astronaut", "chelsea", "coffee", "rocket")
    return [Image.fromarray(getattr(skimage.data, name)()) for name in names]


def write(folder: str, number: int) -> None:
    """Writes one file."""
    rng = np.random.default_rng(number)
    photo = photographs()[number % len(photographs())]
    share = rng.uniform(0.5, 1.0)
    width, height = int(photo.width * share), int(photo.height * share)
    left = rng.integers(0, photo.width - width + 1)
    top = rng.integers(0, photo.height - height + 1)
    piece = photo.crop((left, top, left + width, top + height)).resize(SIZE, Image.LANCZOS)
    path = pathlib.Path(folder, "train", f"class{number % 10}", f"{number:06d}.jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    piece.save(path, quality=90)


def make(folder: str, count: int) -> None:
    """Writes all files, with all cores."""
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(functools.partial(write, folder), range(count), chunksize=32))


if __name__ == "__main__":
    make(sys.argv[1], int(sys.argv[2]))
