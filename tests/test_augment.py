import dataclasses
import inspect
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dystress_jax import augment
from dystress_jax.augment import _colour, _geometry, _views
from dystress_jax.errors import ArgumentError, look_up

pytestmark = pytest.mark.usefixtures("strict_dtypes")

IDENTITY = augment.View(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), flip=0.0)
STRONG = augment.View(
    jitter=1.0,
    brightness=0.9,
    contrast=0.9,
    saturation=0.9,
    hue=0.5,
    grayscale=0.3,
    blur=0.5,
    solarize=0.3,
)
view = jax.jit(augment.view, static_argnames=("settings", "size"))
two_views = jax.jit(augment.two_views, static_argnames=("recipe", "size"))


@pytest.fixture(scope="module")
def reference():
    path = pathlib.Path(__file__).parent / "fixtures" / "augment.npz"
    with np.load(path) as stored:
        return dict(stored)


def random_images(count, height, width, channels=3, seed=0):
    shape = (count, height, width, channels)
    return jnp.array(np.random.default_rng(seed).integers(0, 256, shape), jnp.uint8)


def extents(count, height, width):
    return jnp.broadcast_to(jnp.array([height, width]), (count, 2))


blend = jax.jit(_colour.blend)
crop_and_resize = jax.jit(_geometry.crop_and_resize, static_argnames=("size", "antialias"))
gaussian_blur = jax.jit(_geometry.gaussian_blur, static_argnames="radius")


def planes(images):
    return jnp.moveaxis(jnp.array(images, jnp.float32) / 255, -1, 1)


def last(images):
    return np.moveaxis(np.asarray(images), 1, -1)


def operation(number, count=4):
    return jnp.full((count,), number, jnp.int32)


# --- each operation against torchvision -------------------------------------------------------


@pytest.mark.parametrize("antialias", [False, True])
def test_crop_resize_and_flip_match_torchvision(reference, antialias):
    got = crop_and_resize(
        jnp.array(reference["images"]),
        jnp.array(reference["boxes"], jnp.float32),
        jnp.array(reference["flips"]),
        size=8,
        antialias=antialias,
    )
    expected = reference["cropped_antialias" if antialias else "cropped"]
    np.testing.assert_allclose(last(got), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("brightness", _colour.BRIGHTNESS),
        ("contrast", _colour.CONTRAST),
        ("saturation", _colour.SATURATION),
    ],
)
def test_blends_match_torchvision(reference, name, number):
    factors = jnp.array(reference["factors"], jnp.float32)
    got = blend(planes(reference["images"]), operation(number), factors)
    np.testing.assert_allclose(last(got), reference[name], atol=1e-6)


def test_contrast_of_one_channel_matches_torchvision(reference):
    factors = jnp.array(reference["factors"], jnp.float32)
    one = planes(reference["images"][..., :1])
    got = blend(one, operation(_colour.CONTRAST), factors)
    np.testing.assert_allclose(last(got), reference["contrast_one_channel"], atol=1e-6)


def test_hue_matches_torchvision(reference):
    shifts = jnp.array(reference["shifts"], jnp.float32)
    got = _colour.adjust_hue(planes(reference["images"]), shifts)
    np.testing.assert_allclose(last(got), reference["hue"], atol=2e-6)


def test_jitter_in_all_24_orders_matches_torchvision(reference):
    image = planes(reference["images"][:1, :6, :5])
    factors = jnp.array(reference["jitter_factors"], jnp.float32)
    got = jax.jit(_colour.jitter)(
        jnp.tile(image, (24, 1, 1, 1)),
        jnp.array(reference["orders"], jnp.int32),
        jnp.tile(factors[None, :], (24, 1)),
        jnp.full((24,), reference["jitter_shift"], jnp.float32),
    )
    np.testing.assert_allclose(last(got), reference["jitter"], atol=2e-6)
    # The order matters: otherwise the comparison would prove nothing about it.
    assert len({image.tobytes() for image in reference["jitter"].round(3)}) > 10


def test_grayscale_matches_torchvision(reference):
    got = last(_colour.luma(planes(reference["images"])))
    np.testing.assert_allclose(np.repeat(got, 3, axis=-1), reference["grayscale"], atol=1e-6)


@pytest.mark.parametrize("radius", [1, 2])
def test_blur_matches_torchvision(reference, radius):
    sigmas = jnp.array(reference["sigmas"], jnp.float32)
    got = gaussian_blur(planes(reference["images"]), sigmas, radius=radius)
    np.testing.assert_allclose(last(got), reference[f"blur_{2 * radius + 1}"], atol=1e-6)


def test_solarize_matches_torchvision(reference):
    got = _colour.solarize(planes(reference["images"]), 0.5)
    np.testing.assert_allclose(last(got), reference["solarize"], atol=1e-6)


# --- what the views are -----------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_without_operations_is_the_image(channels):
    images = random_images(4, 16, 16, channels)
    got = view(jax.random.key(0), images, settings=IDENTITY, size=16)
    np.testing.assert_array_equal(got, augment.to_float(images))


def test_a_view_of_one_pixel_is_that_of_the_middle():
    got = view(jax.random.key(0), random_images(2, 3, 3), settings=IDENTITY, size=1)
    middle = augment.to_float(random_images(2, 3, 3))[:, 1:2, 1:2]
    np.testing.assert_allclose(got, middle, atol=1e-6)


def test_jitter_of_strength_zero_is_the_image():
    images = random_images(4, 16, 16)
    settings = dataclasses.replace(IDENTITY, jitter=1.0)
    got = view(jax.random.key(0), images, settings=settings, size=16)
    np.testing.assert_array_equal(got, augment.to_float(images))


@pytest.mark.parametrize(
    ("name", "channels"), [*((name, 3) for name in augment.RECIPES), ("moco_v3", 1)]
)
def test_views_have_the_size_asked_for_and_stay_between_0_and_1(name, channels):
    recipe = augment.RECIPES[name]()
    images = random_images(8, 24, 30, channels)
    for x in two_views(jax.random.key(1), images, recipe=recipe, size=20):
        assert x.shape == (8, 20, 20, channels)
        assert x.dtype == jnp.float32
        assert x.min() >= 0
        assert x.max() <= 1


def test_extreme_settings_stay_between_0_and_1_and_finite():
    extremes = jnp.array(np.random.default_rng(0).choice([0, 255], (8, 24, 24, 3)), jnp.uint8)
    x = view(jax.random.key(2), extremes, settings=STRONG, size=20)
    assert np.isfinite(x).all()
    assert x.min() >= 0
    assert x.max() <= 1


def test_the_key_decides_everything():
    images = random_images(8, 24, 24)
    x = view(jax.random.key(0), images, settings=STRONG, size=20)
    np.testing.assert_array_equal(x, view(jax.random.key(0), images, settings=STRONG, size=20))
    other = view(jax.random.key(1), images, settings=STRONG, size=20)
    assert (np.abs(x - other).max(axis=(1, 2, 3)) > 0.01).all()


def test_the_two_views_differ_where_the_recipe_repeats_one():
    first, second = two_views(
        jax.random.key(0), random_images(8, 24, 24), recipe=augment.weak(), size=20
    )
    assert (np.abs(first - second).max(axis=(1, 2, 3)) > 0.01).all()


def test_the_recipe_without_chance_is_the_image_twice():
    images = random_images(8, 24, 24)
    # A square of h (h + 1) pixels has sides of h, rounded.
    narrow = jnp.broadcast_to(jnp.arange(33, dtype=jnp.uint8)[None, None, :, None], (16, 32, 33, 3))
    for x in two_views(jax.random.key(0), narrow, recipe=augment.whole(), size=32):
        np.testing.assert_array_equal(x, narrow[:, :, :32].astype(jnp.float32) / 255)
    for x in two_views(jax.random.key(0), images, recipe=augment.whole(), size=24):
        np.testing.assert_array_equal(x, augment.to_float(images))


def test_equal_images_of_a_batch_get_different_views():
    images = jnp.tile(random_images(1, 24, 24), (8, 1, 1, 1))
    x = np.asarray(view(jax.random.key(0), images, settings=STRONG, size=20))
    for a, b in itertools.combinations(x, 2):
        assert np.abs(a - b).max() > 0.01


@pytest.mark.ci
def test_a_row_depends_on_neither_the_other_rows_nor_their_number():
    images = random_images(8, 24, 24)
    key = jax.random.key(3)
    whole = view(key, images, settings=STRONG, size=20)
    few = view(key, images[:3], settings=STRONG, size=20)
    changed = view(key, images.at[3:].set(0), settings=STRONG, size=20)
    np.testing.assert_allclose(few, whole[:3], atol=1e-6)
    np.testing.assert_allclose(changed[:3], whole[:3], atol=1e-6)


def test_eight_devices_draw_what_one_draws():
    images, key = random_images(8, 24, 24), jax.random.key(4)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    eight = view(key, split, settings=STRONG, size=20)
    assert len(eight.sharding.device_set) == 8
    np.testing.assert_allclose(eight, view(key, images, settings=STRONG, size=20), atol=1e-6)


def test_saturation_hue_and_grayscale_leave_one_channel_alone():
    images = random_images(8, 24, 24, channels=1)
    colourless = dataclasses.replace(STRONG, saturation=0.0, hue=0.0, grayscale=0.0)
    key = jax.random.key(5)
    np.testing.assert_allclose(
        view(key, images, settings=STRONG, size=20),
        view(key, images, settings=colourless, size=20),
        atol=1e-6,
    )


def test_an_operation_left_out_changes_nothing_else():
    images = random_images(8, 24, 24)
    key = jax.random.key(6)
    with_blur = view(key, images, settings=augment.simclr().first, size=20)
    without = view(
        key, images, settings=dataclasses.replace(augment.simclr().first, blur=0.0), size=20
    )
    same = np.abs(with_blur - without).max(axis=(1, 2, 3)) == 0
    assert 0 < same.sum() < 8  # the rows that were not blurred


# --- how often and how strongly ---------------------------------------------------------------


CERTAIN = {
    "flip": lambda x: x[:, :, ::-1],
    "grayscale": lambda x: np.repeat(x @ np.float32([[0.2989], [0.587], [0.114]]), 3, axis=-1),
    "blur": lambda x: last(gaussian_blur(jnp.moveaxis(x, -1, 1), jnp.full((4,), 1.5), radius=1)),
    "solarize": lambda x: np.where(x < 0.7, x, 1 - x),
}


@pytest.mark.parametrize("name", CERTAIN)
def test_an_operation_of_probability_one_happens_to_every_image(name):
    settings = dataclasses.replace(
        IDENTITY, blur_sigma=(1.5, 1.5), solarize_threshold=0.7, **{name: 1.0}
    )
    images = random_images(4, 20, 20)
    x = view(jax.random.key(7), images, settings=settings, size=20)
    expected = CERTAIN[name](np.asarray(augment.to_float(images)))
    np.testing.assert_allclose(x, expected, atol=1e-6)


def test_jitter_of_brightness_multiplies_each_image_by_its_own_factor():
    settings = dataclasses.replace(IDENTITY, jitter=1.0, brightness=0.5)
    images = np.asarray(augment.to_float(random_images(8, 20, 20)))
    x = view(jax.random.key(7), random_images(8, 20, 20), settings=settings, size=20)
    dark = (images > 0.1) & (images < 0.5)  # never clipped
    for image, changed, safe in zip(images, np.asarray(x), dark, strict=True):
        factor = (changed[safe] / image[safe]).mean()
        assert 0.5 <= factor <= 1.5
        np.testing.assert_allclose(changed, np.clip(factor * image, 0, 1), atol=1e-5)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_operations_are_drawn_as_often_as_asked(probability):
    names = ("flip", "jitter", "grayscale", "blur", "solarize")
    settings = augment.View(**dict.fromkeys(names, probability))
    draw = jax.jit(
        lambda key: _views._draw(key, settings, extents(10_000, 8, 8), jnp.arange(10_000))
    )
    drawn = draw(jax.random.key(10))
    tolerance = 4 * np.sqrt(probability * (1 - probability) / 10_000)
    for name in names:
        assert abs(np.mean(getattr(drawn, name)) - probability) <= tolerance


@pytest.fixture(scope="module")
def drawn():
    settings = dataclasses.replace(STRONG, brightness=0.4, contrast=1.5, saturation=0.0, hue=0.1)
    draw = jax.jit(
        lambda key: _views._draw(key, settings, extents(20_000, 32, 32), jnp.arange(20_000))
    )
    return jax.tree.map(np.asarray, draw(jax.random.key(8)))


def uniform_fits(samples, low, high):
    return scipy.stats.kstest(samples, "uniform", (low, high - low)).pvalue > 0.001


def test_strengths_are_uniform_over_their_ranges(drawn):
    brightness, contrast, saturation = drawn.factors.T
    assert uniform_fits(brightness, 0.6, 1.4)
    assert uniform_fits(contrast, 0.0, 2.5)  # no factor below 0
    assert (saturation == 1).all()
    assert uniform_fits(drawn.hue, -0.1, 0.1)
    assert uniform_fits(drawn.sigma, 0.1, 2.0)


def test_all_orders_are_equally_likely(drawn):
    orders, counts = np.unique(drawn.order, axis=0, return_counts=True)
    assert len(orders) == 24
    assert scipy.stats.chisquare(counts).pvalue > 0.001


def test_operations_are_drawn_independently(drawn):
    columns = np.stack(
        [
            drawn.flip,
            drawn.jitter,
            drawn.grayscale,
            drawn.blur,
            drawn.solarize,
            drawn.factors[:, 0],
            drawn.factors[:, 1],
            drawn.hue,
            drawn.sigma,
            drawn.order[:, 0],
            drawn.box[:, 0],
            drawn.box[:, 2],
        ]
    ).astype(float)
    varying = columns[columns.std(axis=1) > 0]
    correlation = np.corrcoef(varying) - np.eye(len(varying))
    # The crop's place depends on its size and nothing else: a taller crop starts higher.
    correlation[-1, -2] = correlation[-2, -1] = 0
    assert np.abs(correlation).max() < 5 / np.sqrt(columns.shape[1])


def torchvision_boxes(count, height, width, area, aspect, seed=0):
    """RandomResizedCrop's loop in float64; a box that never fits is left out."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        for _ in range(10):
            pixels = height * width * rng.uniform(*area)
            ratio = np.exp(rng.uniform(*np.log(aspect)))
            w, h = round(np.sqrt(pixels * ratio)), round(np.sqrt(pixels / ratio))
            if 0 < w <= width and 0 < h <= height:
                yield rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
                break


@pytest.mark.parametrize(
    ("height", "width", "area"),
    [
        (32, 32, (0.08, 1.0)),
        (20, 30, (0.5, 1.0)),
        (224, 160, (0.2, 1.0)),
        (2, 3, (0.01, 1.0)),  # sides of a crop may round to 0: it is drawn again
    ],
)
def test_crops_are_distributed_as_torchvision_samples_them(height, width, area):
    settings = augment.View(crop_area=area)
    rows = jnp.arange(8000)
    draw = jax.jit(
        lambda key: _views._draw(key, settings, extents(len(rows), height, width), rows).box
    )
    box = np.asarray(draw(jax.random.key(9)), np.float64)
    expected = np.array(list(torchvision_boxes(8000, height, width, area, settings.crop_aspect)))
    assert len(expected) > 7900
    tops, lefts, heights, widths = box.T
    assert (box == box.round()).all()
    assert (tops >= 0).all()
    assert (lefts >= 0).all()
    assert (heights >= 1).all()
    assert (widths >= 1).all()
    assert (tops + heights <= height).all()
    assert (lefts + widths <= width).all()
    for mine, theirs in (
        *zip(box.T, expected.T, strict=True),
        (heights * widths, expected[:, 2] * expected[:, 3]),
        (widths / heights, expected[:, 3] / expected[:, 2]),
    ):
        assert scipy.stats.ks_2samp(mine, theirs).pvalue > 0.001


def test_crops_of_pictures_of_several_sizes_are_distributed_as_torchvision_samples_each():
    settings, shapes = augment.View(crop_area=(0.08, 1.0)), [(20, 30), (32, 24), (9, 40)]
    extent = jnp.tile(jnp.array(shapes), (3000, 1))
    draw = jax.jit(lambda key: _views._draw(key, settings, extent, jnp.arange(9000)).box)
    boxes = np.asarray(draw(jax.random.key(3)), np.float64)
    for first, (height, width) in enumerate(shapes):
        mine = boxes[first::3]
        theirs = np.array(
            list(torchvision_boxes(3000, height, width, (0.08, 1.0), settings.crop_aspect))
        )
        assert (mine[:, 0] + mine[:, 2] <= height).all()
        assert (mine[:, 1] + mine[:, 3] <= width).all()
        drawn = mine[:, 2] * mine[:, 3] < height * width  # of the central ones they have none
        if len(theirs) > 2900:
            for a, b in zip(mine.T, theirs.T, strict=True):
                assert scipy.stats.ks_2samp(a, b).pvalue > 0.001
        assert drawn.mean() > 0.9


def test_what_lies_beside_a_picture_is_never_seen():
    whole = random_images(6, 12, 17)
    padded = jnp.pad(whole, [(0, 0), (0, 8), (0, 3), (0, 0)], constant_values=255)
    pictures = augment.seen({"image": padded, "extent": extents(6, 12, 17)})
    recipe = augment.antialiased(augment.simclr())
    of_whole = two_views(jax.random.key(1), whole, recipe=recipe, size=8)
    of_padded = two_views(jax.random.key(1), pictures, recipe=recipe, size=8)
    for a, b in zip(of_whole, of_padded, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(8, 64, (0, 26, 8, 11)), (64, 8, (26, 0, 11, 8)), (16, 16, (0, 0, 16, 16))],
    ids=["too wide", "too tall", "aspect allowed"],
)
def test_where_no_attempt_fits_the_crop_is_central(height, width, box):
    tries = jnp.ones((1, 10))  # the largest area with the widest aspect: fits in none of these
    got = _geometry.crop_boxes(
        tries, tries, jnp.zeros((1, 2)), extents(1, height, width), area=(0.9, 1.0),
        aspect=(3 / 4, 4 / 3),
    )  # fmt: skip
    np.testing.assert_array_equal(got[0], box)


# --- recipes ----------------------------------------------------------------------------------


def jitter_of(settings):
    return (
        settings.jitter,
        settings.brightness,
        settings.contrast,
        settings.saturation,
        settings.hue,
    )


def test_a_part_of_a_batch_has_the_views_of_its_rows():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8))
    draw = jax.jit(
        lambda images, rows: augment.two_views(
            jax.random.key(0), images, augment.weak(), size=8, rows=rows
        )
    )
    whole = draw(images, jnp.arange(6))
    part = draw(images[1::2], jnp.arange(6)[1::2])
    for some, every in zip(part, whole, strict=True):
        np.testing.assert_array_equal(some, every[1::2])
    default = augment.two_views(jax.random.key(0), images, augment.weak(), size=8)
    np.testing.assert_allclose(default[0], whole[0], atol=1e-6)


def test_recipes_hold_the_published_settings():
    names = ["simclr", "simclr_cifar", "moco_v2", "moco_v3", "captioned", "weak", "whole"]
    assert list(augment.RECIPES) == names
    simclr, cifar, moco_v2, moco, captioned, weak, _ = (make() for make in augment.RECIPES.values())
    assert captioned.first == captioned.second
    assert (captioned.first.flip, captioned.first.hue) == (0.0, 0.0)  # left stays left
    assert simclr.first == simclr.second
    assert jitter_of(simclr.first) == (0.8, 0.8, 0.8, 0.8, 0.2)
    assert (simclr.first.grayscale, simclr.first.blur, simclr.first.solarize) == (0.2, 0.5, 0.0)
    assert cifar.first == cifar.second
    assert jitter_of(cifar.first) == (0.8, 0.4, 0.4, 0.4, 0.1)
    assert (cifar.first.grayscale, cifar.first.blur) == (0.2, 0.0)
    assert jitter_of(moco.first) == jitter_of(moco.second) == (0.8, 0.4, 0.4, 0.2, 0.1)
    assert (moco.first.blur, moco.first.solarize) == (1.0, 0.0)
    assert (moco.second.blur, moco.second.solarize) == (0.1, 0.2)
    assert jitter_of(weak.first)[0] == weak.first.grayscale == weak.first.blur == 0.0
    for recipe in (simclr, cifar, moco, weak):
        for settings in (recipe.first, recipe.second):
            assert settings.crop_area == (0.08, 1.0)
            assert settings.crop_aspect == (3 / 4, 4 / 3)
            assert settings.flip == 0.5
            assert settings.blur_sigma == (0.1, 2.0)
            assert not settings.antialias
    # main_moco.py --aug-plus of facebookresearch/moco.
    assert moco_v2.first == moco_v2.second
    assert jitter_of(moco_v2.first) == (0.8, 0.4, 0.4, 0.4, 0.1)
    assert (moco_v2.first.crop_area, moco_v2.first.crop_aspect) == ((0.2, 1.0), (3 / 4, 4 / 3))
    assert (moco_v2.first.grayscale, moco_v2.first.blur, moco_v2.first.solarize) == (0.2, 0.5, 0.0)
    assert (moco_v2.first.flip, moco_v2.first.blur_sigma) == (0.5, (0.1, 2.0))
    assert augment.moco_v3(crop_min=0.2).second.crop_area == (0.2, 1.0)


def test_normalize_is_the_formula():
    x = np.random.default_rng(0).random((2, 3, 3, 3), np.float32)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    expected = (x.astype(np.float64) - mean) / std
    np.testing.assert_allclose(
        augment.normalize(jnp.array(x), mean=mean, std=std), expected, rtol=1e-5
    )
    one = augment.normalize(jnp.array(x), mean=(0.5,), std=(0.25,))
    np.testing.assert_allclose(one, (x - np.float32(0.5)) * 4, atol=1e-6)


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": -0.1}, r"flip: found -0\.1; allowed: a probability, in \[0, 1\]"),
        ({"blur": 2.0}, r"blur: found 2\.0; allowed: a probability"),
        ({"contrast": -1.0}, r"contrast: found -1\.0; allowed: a strength, at least 0"),
        ({"hue": 0.6}, r"hue: found 0\.6; .* in \[0, 0\.5\]"),
        ({"crop_area": (0.5, 1.2)}, r"crop_area: .*a range 0 < low <= high <= 1"),
        ({"crop_area": (0.0, 1.0)}, r"crop_area: found \(0\.0, 1\.0\)"),
        ({"crop_aspect": (2.0, 1.0)}, r"crop_aspect: found \(2\.0, 1\.0\)"),
        ({"blur_sigma": (0.0, 1.0)}, r"blur_sigma: found \(0\.0, 1\.0\)"),
        ({"solarize_threshold": 128.0}, r"solarize_threshold: found 128\.0; .* in \[0, 1\]"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ArgumentError, match=message):
        augment.View(**settings)


@pytest.mark.parametrize("name", augment.RECIPES)
def test_a_recipe_changes_by_its_arguments_and_by_nothing_else(name):
    """Each number is in both views; what else a view has stays as published."""
    changes = {
        "crop_min": (0.3, lambda view: {"crop_area": (0.3, 1.0)}),
        "flip": (0.25, lambda view: {"flip": 0.25}),
        "grayscale": (0.125, lambda view: {"grayscale": 0.125}),
        "blur": (0.75, lambda view: {"blur": 0.75}),
        "strength": (
            0.5,
            lambda view: {
                part: getattr(view, part) / 2
                for part in ("brightness", "contrast", "saturation", "hue")
            },
        ),
    }
    make = augment.RECIPES[name]
    published, taken = make(), inspect.signature(make).parameters
    assert set(taken) <= set(changes)
    for argument in taken:
        value, changed = changes[argument]
        assert make(**{argument: value}) == augment.Recipe(
            first=dataclasses.replace(published.first, **changed(published.first)),
            second=dataclasses.replace(published.second, **changed(published.second)),
        )


def test_a_view_is_blurred_from_the_size_on_that_is_named():
    """A tenth of the side, made odd, has more than one pixel."""
    images = random_images(2, 24, 24)
    for size in (augment.SMALLEST_BLURRED - 1, augment.SMALLEST_BLURRED):
        blurred, plain = (
            view(jax.random.key(0), images, settings=augment.View(blur=blur), size=size)
            for blur in (1.0, 0.0)
        )
        assert bool(jnp.all(blurred == plain)) == (size < augment.SMALLEST_BLURRED)


@pytest.mark.parametrize("strength", [-0.1, 2.6])
def test_a_strength_that_no_hue_could_have_is_refused_by_its_own_name(strength):
    assert augment.simclr(strength=2.5).first.hue == 0.5
    with pytest.raises(ArgumentError, match=rf"strength: found {strength}; .*in \[0, 2\.5\]"):
        augment.simclr(strength=strength)
    with pytest.raises(ArgumentError, match=r"strength: found 5\.1; .*in \[0, 5\]"):
        augment.moco_v3(strength=5.1)
    with pytest.raises(ArgumentError, match=r"strength: found -0\.1; .*a factor of at least 0"):
        augment.captioned(strength=-0.1)


def test_the_filter_takes_the_noise_of_a_reduced_crop_and_leaves_an_enlarged_one():
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    deviations = {}
    for side in (8, 96):
        for recipe in (augment.weak(), augment.antialiased(augment.weak())):
            view = jax.jit(augment.view, static_argnames=("settings", "size"))
            found = view(jax.random.key(0), noise, settings=recipe.second, size=side)
            deviations[side, recipe.second.antialias] = float(found.std())
    assert deviations[8, True] < 0.4 * deviations[8, False]
    assert deviations[96, True] == pytest.approx(deviations[96, False], rel=1e-6)


@pytest.mark.parametrize("crop_min", [0.0, 1.1])
def test_an_area_that_no_crop_could_have_is_refused_by_its_own_name(crop_min):
    with pytest.raises(ArgumentError, match=rf"crop_min: found {crop_min}; .*in \(0, 1\]"):
        augment.moco_v3(crop_min=crop_min)


def test_an_unknown_recipe_is_answered_with_those_there_are():
    with pytest.raises(ArgumentError, match=r"recipe: found 'simclr_cifer'; .*mean simclr_cifar\?"):
        look_up(augment.RECIPES, "simclr_cifer", argument="recipe")


def test_wrong_images_are_refused(unchecked_shapes):
    with pytest.raises(
        ArgumentError, match=r"images: found shape \(2, 3, 8, 8\); .*1 or 3 channels"
    ):
        augment.view(jax.random.key(0), jnp.zeros((2, 3, 8, 8), jnp.uint8), IDENTITY, size=8)
    for draw, how in ((augment.view, IDENTITY), (augment.two_views, augment.simclr_cifar())):
        with pytest.raises(ArgumentError, match=r"images: found float32; allowed: uint8"):
            draw(jax.random.key(0), jnp.zeros((2, 8, 8, 3)), how, size=8)
    with pytest.raises(ArgumentError, match=r"size: found 0; allowed: at least 1"):
        augment.view(jax.random.key(0), jnp.zeros((2, 8, 8, 3), jnp.uint8), IDENTITY, size=0)


def test_wrong_statistics_are_refused():
    x = jnp.zeros((1, 2, 2, 3))
    with pytest.raises(ArgumentError, match=r"mean: found 2 values with images of 3 channels"):
        augment.normalize(x, mean=(0.5, 0.5), std=(0.5,))
    with pytest.raises(ArgumentError, match=r"std: found \(0\.0,\); allowed: above 0"):
        augment.normalize(x, mean=(0.5,), std=(0.0,))
