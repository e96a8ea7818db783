"""A linear classifier that learns beside the encoder without touching it: a live progress meter."""

import jax
import jax.numpy as jnp
import optax

from ._method import Method

PROBE = "probe"  # its key among the parameters


def with_online_probe(method: Method, num_classes: int) -> Method:
    """Add a linear probe on the stopped gradient of the features to any method.

    The probe's cross entropy is minimised beside the loss, but no gradient of it reaches the
    encoder, so the encoder learns exactly as without it. Examples labelled -1 do not count.

    Args:
        method: the method to watch.
        num_classes: labels are 0 to `num_classes - 1`.

    Returns:
        A method whose parameters have one more entry, `probe`, and whose metrics have
        `probe_loss` and `probe_accuracy`.
    """

    def init(key):
        params, stats, memory = method.init(key)
        weights = jnp.zeros((method.num_features, num_classes))
        probe = {"kernel": weights, "bias": jnp.zeros(num_classes)}
        return {**params, PROBE: probe}, stats, memory

    def beside(params, embedded, batch):
        features = jax.lax.stop_gradient(embedded.features)
        n, views, width = features.shape
        labels = jnp.repeat(batch["label"], views)
        logits = features.reshape(n * views, width) @ params[PROBE]["kernel"]
        logits += params[PROBE]["bias"][None]
        known = labels >= 0
        share = known / jnp.maximum(known.sum(), 1)
        entropy = optax.losses.softmax_cross_entropy_with_integer_labels(
            logits, jnp.maximum(labels, 0)
        )
        probe_loss = jnp.sum(share * entropy)
        accuracy = jnp.sum(share * (jnp.argmax(logits, axis=-1) == labels))
        metrics = {"probe_loss": probe_loss, "probe_accuracy": accuracy}
        if method.beside is None:
            return probe_loss, metrics
        own, own_metrics = method.beside(params, embedded, batch)
        return own + probe_loss, {**own_metrics, **metrics}

    return method._replace(init=init, beside=beside)


def without_probe(params):
    """What the method itself learns: all but the online probe."""
    return {name: value for name, value in params.items() if name != PROBE}


def with_probe_optimizer(
    optimizer: optax.GradientTransformation, probe: optax.GradientTransformation
) -> optax.GradientTransformation:
    """`optimizer` for all parameters but the online probe's, which `probe` trains."""

    def labels(params):
        return {name: "probe" if name == PROBE else "method" for name in params}

    return optax.partition({"method": optimizer, "probe": probe}, labels)
