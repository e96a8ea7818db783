"""Open a data set, whatever its kind, as one source a split."""

from ._select import long_tail, subset
from ._source import Source

KINDS = ("embedded", "tfds", "folder", "npz")
ON_ERROR = ("raise", "skip")


def open_splits(
    kind: str,
    *,
    name: str = "",
    path: str = "",
    image_size: int = 0,
    holdout: float = 0.1,
    captions: str = "",
    on_error: str = "raise",
    imbalance_ratio: float = 1.0,
    limit: int = 0,
) -> dict[str, Source]:
    """Open every split that a data set has.

    Args:
        kind: "embedded": 32 x 32 drawings in this package and their names as captions, no files
            needed; "tfds": a data set prepared by tensorflow-datasets as array_record; "folder":
            image files, in one sub-folder a class or flat, or named by a caption file; "npz": uint8
            arrays train_images [n h w c] or [n h w], and optionally train_labels, test_images,
            test_labels, class_names, train_captions and test_captions (strings [n] or [n k]).
        name: of the tfds data set.
        path: the folder, the .npz file, or the tfds data directory.
        image_size: side of the square that every image is brought to, in pixels: the shorter side
            is resized, then the centre kept; 0 = as stored, which must be one size.
        holdout: share of the training images that are kept out for choosing models, [0, 1). The
            same images for every seed.
        captions: folder: a .csv, .tsv or .jsonl file, below ``path`` or from the current directory,
            with the columns path and caption, and optionally label and split; tfds: the feature
            with the text. "" = no captions there.
        on_error: folder: "raise" for the first line or file that cannot be used; "skip" leaves it
            out and lists it in ``Source.skipped``, for which every image is decoded once here.
        imbalance_ratio: of the smallest training class to the largest, (0, 1]: `long_tail`, after
            the holdout is split off; holdout and test stay as they are. 1 = as it is.
        limit: train on so many images, chosen by `subset` out of what is left then; 0 = all.

    Returns:
        "train", without the holdout; "holdout", if its share is not 0; "test", if the data set
        has test images. Choose models by "holdout" alone.

    Raises:
        ValueError: names the setting, what was found, and what is allowed.

    Example:
        >>> from dystress_jax import data
        >>> splits = data.open_splits("embedded")
        >>> {split: len(source) for split, source in splits.items()}
        {'train': 2814, 'holdout': 312, 'test': 1563}
        >>> example = splits["train"][0]
        >>> example["image"].shape, splits["train"].class_names[example["label"]]
        ((32, 32, 3), 'Symbols')
    """
    if image_size < 0:
        raise ValueError(f"data.image_size is {image_size}; allowed: 0 or more")
    if captions and kind in ("embedded", "npz"):
        raise ValueError(
            f"data.captions is {captions!r} with data.source {kind}; allowed: '', since its "
            "captions are where its images are"
        )
    if on_error not in ON_ERROR:
        raise ValueError(f"data.on_error is {on_error!r}; allowed: {', '.join(ON_ERROR)}")
    if on_error == "skip" and kind != "folder":
        raise ValueError(
            f"data.on_error is 'skip' with data.source {kind}; allowed: raise, since only files of "
            "a folder are left out one by one"
        )
    opened = _open(
        kind,
        name=name,
        path=path,
        image_size=image_size,
        holdout=holdout,
        captions=captions,
        on_error=on_error,
    )
    train = long_tail(opened["train"], imbalance_ratio)
    if not 0 <= limit <= len(train):
        raise ValueError(
            f"data.limit is {limit}; allowed: 0 for all, or up to the {len(train)} training images "
            "that there are"
        )
    return opened | {"train": subset(train, limit)}


def _open(
    kind: str,
    *,
    name: str,
    path: str,
    image_size: int,
    holdout: float,
    captions: str,
    on_error: str,
) -> dict[str, Source]:
    """Every split as it is stored."""
    # Imported when asked for: tensorflow-datasets takes a second.
    if kind == "embedded":
        from ._embedded import open_embedded

        return open_embedded(image_size=image_size, holdout=holdout)
    if kind == "tfds":
        from ._tfds import open_tfds

        return open_tfds(
            name=name, path=path, image_size=image_size, holdout=holdout, captions=captions
        )
    if kind == "folder" and captions:
        from ._pairs import open_pairs

        return open_pairs(
            path=path, captions=captions, image_size=image_size, holdout=holdout, on_error=on_error
        )
    if kind == "folder":
        from ._folder import open_folder

        return open_folder(path=path, image_size=image_size, holdout=holdout, on_error=on_error)
    if kind == "npz":
        from ._npz import open_npz

        return open_npz(path=path, image_size=image_size, holdout=holdout)
    raise ValueError(f"data.source is {kind!r}; allowed: {', '.join(KINDS)}")
