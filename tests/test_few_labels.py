"""Runs whose images have labels for a few only: what is measured, and on how many."""

import functools

import numpy as np
import pytest

from dystress_jax import run
from dystress_jax.run import _closing, evaluations, measuring

pytestmark = [pytest.mark.ci, pytest.mark.usefixtures("one_device")]


def experiment(path, train_labels, **settings):
    """A run of small images in 4 classes, one in 10 of which is held out; nothing is trained."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (len(train_labels), 8, 8, 3), np.uint8)
    np.savez(
        path,
        train_images=images,
        train_labels=train_labels,
        test_images=images[:8],
        test_labels=np.arange(8) % 4,
    )
    data = {"source": "npz", "path": str(path)}
    config = {"data": data, "batch_size": 8, "steps": 1, **settings}
    return run.build(run.from_config_dict(config), path.parent)


def measured(name, experiment):
    evaluate = evaluations.EVALUATIONS[name]
    return measuring.measure(evaluate, experiment, experiment.init_state(), name=name)


@pytest.mark.parametrize("bank", [50, 9])
def test_the_bank_is_chosen_among_the_labelled_images(tmp_path, bank):
    labels = np.full(200, -1)
    labels[::10] = np.arange(20) % 4
    e = experiment(tmp_path / "few.npz", labels, knn={"bank": bank})
    there = int((e.train.labels() >= 0).sum())
    assert 10 < there <= 20
    protocol = measured("knn", e).protocol
    assert protocol["bank_images"] == min(bank, there)
    assert protocol["k"] == min(200, bank, there)


def test_the_probe_counts_and_fits_labelled_images_alone(tmp_path):
    """None of the few is held out; more candidates than one have nothing to be chosen by."""
    labels = np.where(np.arange(40) < 36, -1, np.arange(40) % 4)
    probe = functools.partial(experiment, tmp_path / "few.npz", labels)
    e = probe(probe={"epochs": 1, "features": "cached"})
    there = int((e.train.labels() >= 0).sum())
    assert not e.sources["holdout"].has_labels
    protocol = measured("linear_probe", e).protocol
    assert (protocol["train_images"], protocol["batch_size"]) == (there, there)
    assert protocol["holdout_top1"] is None
    several = probe(probe={"learning_rates": (0.1, 1.0)})
    with pytest.raises(run.ConfigError, match="no held-out images with labels to choose by"):
        measured("linear_probe", several)


def test_a_share_that_is_less_than_an_image_of_each_class_says_what_was_used(tmp_path):
    labels = np.arange(44) % 4
    e = experiment(tmp_path / "few.npz", labels, labels={"fractions": (0.01, 0.5)})
    found = measured("few_labels", e)
    few, half = found.protocol["images_of_fractions"]
    assert few == 4
    assert half == pytest.approx(found.protocol["train_images"] / 2, abs=2)
    [note] = found.notes
    assert note.endswith("with at least one of each class: 1 % are 4 images")


def test_a_run_that_cannot_be_measured_says_what_is_missing(tmp_path):
    e = experiment(tmp_path / "few.npz", np.full(40, -1))
    table = functools.partial(
        _closing.closing_table, wanted=["knn"], found={}, numbers={"steps": 1, "seconds": 1}
    )
    assert "(no labelled training images to measure by)" in table(e)
    unlabelled = {
        split: part.relabel(np.full(len(part), -1), ()) for split, part in e.sources.items()
    }
    assert "(no labelled or captioned test or held-out" in table(e._replace(sources=unlabelled))
    assert "(nothing was to be measured: config.evaluation)" in table(e, wanted=[])


def test_what_an_evaluation_refuses_is_told_in_one_line(tmp_path):
    e = experiment(tmp_path / "few.npz", np.arange(40) % 4)
    unlabelled = e.sources["test"].relabel(np.full(8, -1), e.train.class_names)
    e = e._replace(sources={**e.sources, "test": unlabelled, "holdout": unlabelled})

    def forced(experiment, state):
        return evaluations.knn_of(experiment, experiment.encoder(state), "test")

    with pytest.raises(run.ConfigError, match="mine cannot be measured: test: found 8 images"):
        measuring.measure(forced, e, e.init_state(), name="mine")
