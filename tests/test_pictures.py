"""The pictures that a run ends with: what is in them, by their pixels."""

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from dystress_jax import data, evaluation
from dystress_jax._pca import centred, principal_axes
from dystress_jax.evaluation import feature_map, neighbour_grid
from dystress_jax.evaluation.feature_map import _with_room
from dystress_jax.evaluation.neighbour_grid import RIGHT, WRONG
from dystress_jax.run.pictures import write_png

NAMES = ("a very long name of a class", "caf\u00e9", "c")


def source(count=6, labels=None, channels=3):
    """Images of one colour each."""
    shades = np.linspace(20, 235, count).astype(np.uint8)
    images = np.tile(shades[:, None, None, None], (1, 8, 8, channels))
    return data.from_arrays(images, labels, class_names=() if labels is None else NAMES)


def count_of(picture, colour):
    return int((np.asarray(picture) == np.array(colour)).all(axis=-1).sum())


def test_equal_features_have_no_direction():
    """What rounding leaves of them is none."""
    one = np.random.default_rng(0).normal(size=128)
    for rows in (np.tile(one, (1000, 1)), np.tile(one, (10, 1)), np.stack([one, one[::-1]])):
        axes, shares = principal_axes(centred(rows))
        alone = len(rows) == 2
        np.testing.assert_allclose(shares, [float(alone), 0], atol=1e-12)
        assert (axes[1] == 0).all()
        assert (axes[0] != 0).any() == alone


def test_frames_tell_the_neighbours_of_the_same_class():
    labelled = source(6, np.array([0, 1, 2, 0, 1, 2]))
    queries = labelled.take(np.array([0, 1]))
    none = neighbour_grid(queries, labelled, {"x": np.array([[1, 2], [0, 2]])})
    half = neighbour_grid(queries, labelled, {"x": np.array([[0, 2], [4, 2]])})
    every = neighbour_grid(queries, labelled, {"x": np.array([[0, 3], [1, 4]])})
    assert none.size == half.size == every.size
    legend = count_of(none, RIGHT)
    frame = 4 * 3 * (64 + 3)
    assert count_of(half, RIGHT) == legend + 2 * frame
    assert count_of(every, RIGHT) == legend + 4 * frame
    dashed = count_of(none, WRONG) - count_of(every, WRONG)
    assert 4 * frame / 3 < dashed < 4 * frame
    assert count_of(half, WRONG) - count_of(every, WRONG) == dashed / 2
    # Of a neighbour without a label nobody knows.
    bank = source(6, np.array([-1, 1, 2, 0, 1, -1]))
    some = neighbour_grid(queries, bank, {"x": np.array([[0, 3], [1, 5]])})
    assert count_of(some, RIGHT) == legend + 2 * frame
    assert count_of(some, WRONG) == count_of(every, WRONG)


def test_a_neighbour_is_drawn_where_it_was_found():
    plain = source(6)
    picture = np.asarray(
        neighbour_grid(plain.take(np.array([2])), plain, {"x": np.array([[5, 0]])})
    )
    shades = [int(plain[row]["image"][0, 0, 0]) for row in (2, 5, 0)]
    middle = picture[48 + 32, :, 0]
    found = [int(shade) for shade in middle[16 + 32 :: 1] if shade in shades]
    assert list(dict.fromkeys(found)) == shades
    assert count_of(picture, RIGHT) == count_of(picture, WRONG) == 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labels", [None, np.array([0, -1, 2, 0])])
def test_every_kind_of_images_is_drawn(channels, labels):
    some = source(4, labels, channels)
    grid = neighbour_grid(some, some, {"x": np.array([[1], [0], [3], [2]])})
    drawn = feature_map(np.random.default_rng(0).normal(size=(4, 5)), some)
    assert min(*grid.size, *drawn.size) > 100


def test_the_plane_is_that_of_the_principal_components():
    features = np.random.default_rng(0).normal(size=(50, 7)) * np.arange(1, 8)
    places, shares = evaluation.principal_plane(features)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    oracle = PCA(2).fit(unit)
    np.testing.assert_allclose(shares, oracle.explained_variance_ratio_, rtol=1e-6)
    expected = oracle.transform(unit)
    np.testing.assert_allclose(np.abs(places), np.abs(expected), rtol=1e-5, atol=1e-9)
    longer = features * np.random.default_rng(1).uniform(1, 9, (50, 1))
    np.testing.assert_allclose(evaluation.principal_plane(longer)[0], places, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (3, 4)])
def test_features_without_spread_have_a_place(shape):
    places, shares = evaluation.principal_plane(np.ones(shape))
    np.testing.assert_allclose(places, 0, atol=1e-12)
    np.testing.assert_allclose(shares, 0, atol=1e-12)
    assert feature_map(np.ones(shape), source(shape[0])).size == (1280, 960)


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "map.png"
    write_png(path, Image.new("RGB", (3, 2)))
    before = path.read_bytes()

    def full(self, file, *arguments, **keywords):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        write_png(path, Image.new("RGB", (30, 20)))
    assert path.read_bytes() == before


def test_thumbnails_do_not_cover_one_another():
    at = np.random.default_rng(0).uniform(0, 300, (200, 2))
    kept = _with_room(at, 42)
    shown = at[kept]
    apart = np.abs(shown[:, None] - shown[None]).max(axis=-1)
    assert apart[~np.eye(len(shown), dtype=bool)].min() >= 42
    assert 9 < len(shown) < 64
    rejected = at[~kept]
    assert (np.abs(rejected[:, None] - shown[None]).max(axis=-1).min(axis=1) < 42).all()
