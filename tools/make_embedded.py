#!/usr/bin/env python3
"""Draw the image sheets of the embedded data set from one .npz of emoji drawings.

    python tools/make_embedded.py EMOJI_NPZ [OUT_DIR]

EMOJI_NPZ holds three drawings of each concept on white, and the words that go with them:

    google, twitter, fluent   uint8 [n 64 64 3]
    captions                  str [n]          the concept's English name
    categories                int [n]          row of category_names
    category_names            str [k]

The drawings come from emoji-datasource-google 16.0.0 (Noto Emoji), emoji-datasource-twitter 16.0.0
(Twemoji) and lobehub/fluent-emoji-3d 1.1.0 (Fluent Emoji, the 3D drawings), the captions from
emojibase-data 17.0.0; concepts are matched by code point. Licences: embedded/NOTICE.md.

Left out:
- the category Flags: national flags are the same picture in every artist's set, and Fluent Emoji
  has none of its own (those in the redistribution are of unknown origin);
- families, kisses, couples and people holding hands: they are not in Fluent Emoji either, and
  Twitter draws one pictogram for many families.
"""

import json
import pathlib
import sys

import numpy as np
from PIL import Image

SIDE = 32
COLUMNS = 40
BITS = 5  # per channel: at most 4 of 255 levels off, half the size of the exact picture
ARTISTS = ("google", "twitter", "fluent")


def is_kept(caption: str, category: str) -> bool:
    """Whether every artist drew this concept, under a licence that is known."""
    starts = ("family:", "couple with heart:", "kiss:")
    names = ("family", "couple with heart", "kiss")
    return not (
        category == "Flags"
        or caption.startswith(starts)
        or caption in names
        or caption.endswith("holding hands")
    )


def shrink(image: np.ndarray) -> np.ndarray:
    """Resize to SIDE and round each channel to BITS bits."""
    small = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    levels = 2**BITS - 1
    return np.round(np.round(small / 255 * levels) * 255 / levels).astype(np.uint8)


def sheet(images: np.ndarray) -> np.ndarray:
    """Lay images [n h w c] out row by row, COLUMNS to a row, the rest of the last row white."""
    rows = -(-len(images) // COLUMNS)
    grid = np.full((rows * COLUMNS, SIDE, SIDE, 3), 255, np.uint8)
    grid[: len(images)] = images
    grid = grid.reshape(rows, COLUMNS, SIDE, SIDE, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * SIDE, COLUMNS * SIDE, 3)


def main(source: str, folder: str = "dystress_jax/data/embedded") -> None:
    """Write google.webp, twitter.webp, fluent.webp and concepts.json."""
    data = np.load(source)
    all_names = [str(name) for name in data["category_names"]]
    kept = [
        i
        for i, (caption, category) in enumerate(
            zip(data["captions"], data["categories"], strict=True)
        )
        if is_kept(str(caption), all_names[category])
    ]
    names = [name for name in all_names if name != "Flags"]
    concepts = {
        "class_names": names,
        "captions": [str(data["captions"][i]) for i in kept],
        "labels": [names.index(all_names[data["categories"][i]]) for i in kept],
    }
    out = pathlib.Path(folder)
    text = json.dumps(concepts, ensure_ascii=False, separators=(",", ":"))
    (out / "concepts.json").write_text(text + "\n", encoding="utf-8")
    for artist in ARTISTS:
        images = np.stack([shrink(image) for image in data[artist][kept]])
        distinct = len(np.unique(images.reshape(len(images), -1), axis=0))
        path = out / f"{artist}.webp"
        Image.fromarray(sheet(images)).save(path, lossless=True, quality=100, method=6)
        print(f"{path}: {len(images)} drawings, {distinct} distinct, {path.stat().st_size} bytes")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
