"""What a run says of its images when it begins."""

import numpy as np
import pytest

from dystress_jax import data, run
from dystress_jax.run import networks
from dystress_jax.run.data import own_image_in_queue, told


def images(count, side=(8, 8), labels=None, names=()):
    return data.from_arrays(np.zeros((count, *side, 3), np.uint8), labels, class_names=names)


def test_images_labels_and_classes_are_counted():
    names = tuple("abcdefg")
    train = images(20, labels=np.where(np.arange(20) < 5, np.arange(20), -1), names=names)
    [line] = told(run.from_config_dict({}), {"train": train, "test": images(4)})
    assert line == (
        "images: 20 train (5 labelled), 4 test; 8 x 8 x 3; 7 classes: a, b, c, d, e, ..."
    )
    assert told(run.from_config_dict({}), {"train": images(4)})[0].endswith("; no classes")


def test_images_that_are_no_squares_are_seen_with_their_shorter_side():
    config, train = run.from_config_dict({}), images(4, side=(16, 24))
    assert networks.view_size(config, train) == 16
    _, line = told(config, {"train": train})
    assert "images of 16 x 24 are no squares: views have the shorter side, 16" in line
    sized = run.from_config_dict({"augment": {"size": 8}})
    assert len(told(sized, {"train": train})) == 1
    assert networks.view_size(sized, train) == 8


@pytest.mark.parametrize(("queue", "count"), [(1024, 5000), (4096, 5000), (6000, 5000)])
def test_how_often_a_queue_holds_the_own_image(queue, count):
    """Counted over two epochs in random orders."""
    rng = np.random.default_rng(0)
    ages = [count - rng.permutation(count) + rng.permutation(count) for _ in range(20)]
    found = np.mean(np.concatenate(ages) <= queue)
    np.testing.assert_allclose(own_image_in_queue(queue, count), found, atol=0.01)


@pytest.mark.parametrize(
    ("method", "queue", "warned"),
    [
        ("moco_v2", 4096, True),
        ("moco_v2", 1024, False),
        ("nnclr", 4096, False),
    ],
)
def test_a_queue_that_is_not_small_beside_the_images_is_told(method, queue, warned):
    config = run.from_config_dict({"method": method, "moco": {"queue_size": queue}})
    lines = told(config, {"train": images(5000)})
    said = "queue_size 4,096 is not small beside 5,000 training images: for 34% of the queries"
    assert any(said in line for line in lines) == warned
    assert len(lines) == 1 + warned
