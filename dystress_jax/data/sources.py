"""Open a data set, whatever its kind, as one source a split."""

from ._source import Source

KINDS = ("embedded", "tfds", "folder", "npz")


def open_splits(
    kind: str,
    *,
    name: str = "",
    path: str = "",
    image_size: int = 0,
    holdout: float = 0.1,
) -> dict[str, Source]:
    """Open every split that a data set has.

    Args:
        kind: "embedded": 32 x 32 drawings in this package, no files needed; "tfds": a data set
            prepared by tensorflow-datasets as array_record; "folder": image files, in one
            sub-folder a class or flat; "npz": uint8 arrays train_images [n h w c] or [n h w], and
            optionally train_labels, test_images, test_labels, class_names.
        name: of the tfds data set.
        path: the folder, the .npz file, or the tfds data directory.
        image_size: side of the square that every image is brought to, in pixels: the shorter side
            is resized, then the centre kept; 0 = as stored, which must be one size.
        holdout: share of the training images that are kept out for choosing models, [0, 1). The
            same images for every seed.

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
    # Imported when asked for: tensorflow-datasets takes a second.
    if kind == "embedded":
        from ._embedded import open_embedded

        return open_embedded(image_size=image_size, holdout=holdout)
    if kind == "tfds":
        from ._tfds import open_tfds

        return open_tfds(name=name, path=path, image_size=image_size, holdout=holdout)
    if kind == "folder":
        from ._folder import open_folder

        return open_folder(path=path, image_size=image_size, holdout=holdout)
    if kind == "npz":
        from ._npz import open_npz

        return open_npz(path=path, image_size=image_size, holdout=holdout)
    raise ValueError(f"data.source is {kind!r}; allowed: {', '.join(KINDS)}")
