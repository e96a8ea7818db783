"""Evaluations beside lightly's kNN and scikit-learn's logistic regression."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import evaluation
from dystress_jax.evaluation.knn import knn_votes
from tests.parity.golden import golden


@pytest.mark.parametrize(("k", "temperature"), [(5, 0.1), (60, 0.5)])
def test_knn_decides_as_lightly(k, temperature):
    stored = golden("lightly")["knn"]
    votes = functools.partial(knn_votes, k=k, temperature=temperature, num_classes=4)
    arrays = [jnp.float32(stored[name]) for name in ("queries", "bank")]
    found = jax.jit(votes)(*arrays, jnp.int32(stored["classes"]))
    np.testing.assert_array_equal(found.argmax(axis=1), stored[str(k)])


def test_the_lbfgs_probe_is_the_logistic_regression_of_scikit_learn():
    stored = golden("sklearn")
    features, labels = (jnp.asarray(stored[name]) for name in ("features", "labels"))
    head = evaluation.fit_lbfgs(features, labels, jnp.float32(stored["l2"]), num_classes=4)
    probabilities = jax.nn.softmax(head(features))
    for i in range(len(stored["l2"])):
        expected = stored["kernel"][str(i)]
        error = np.linalg.norm(head.kernel[i] - expected) / np.linalg.norm(expected)
        assert error < 1e-3
        np.testing.assert_allclose(probabilities[i], stored["probabilities"][str(i)], atol=1e-4)
