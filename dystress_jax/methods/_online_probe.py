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
        num_classes: at least 1; labels are 0 to `num_classes - 1`.

    Returns:
        A method whose parameters have one more entry, `probe`, and whose metrics have
        `probe_loss` and `probe_accuracy`, NaN in a batch without a label.

    Example:
        >>> from dystress_jax import methods, models
        >>> flat = lambda params, stats, x, *, train: (x.reshape(len(x), -1), stats)
        >>> pixels = models.Network(lambda key: ({}, {}), flat, 48)
        >>> head = models.projector("moco_v2", in_features=48, hidden=8, out=4)
        >>> method = methods.simclr(pixels, head, views=lambda key, images, rows: (images, images))
        >>> watched = methods.with_online_probe(method, 10)
        >>> params, stats, memory = jax.eval_shape(watched.init, jax.random.key(0))
        >>> params["probe"]["kernel"].shape
        (48, 10)
    """

    def init(key):
        params, stats, memory = method.init(key)
        zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
        probe = {"kernel": zeros(method.num_features, num_classes), "bias": zeros(num_classes)}
        return {**params, PROBE: probe}, stats, memory

    def beside(params, embedded, batch):
        features = jax.lax.stop_gradient(embedded.features)
        n, views, width = features.shape
        labels = jnp.repeat(batch["label"], views)
        logits = features.reshape(n * views, width) @ params[PROBE]["kernel"]
        logits += params[PROBE]["bias"][None]
        known = labels >= 0
        share = known.astype(logits.dtype) / jnp.maximum(known.sum(), 1).astype(logits.dtype)
        told = lambda mean: jnp.where(known.any(), mean, jnp.nan)
        entropy = optax.losses.softmax_cross_entropy_with_integer_labels(
            logits, jnp.maximum(labels, 0)
        )
        probe_loss = jnp.sum(share * entropy)
        accuracy = jnp.sum(jnp.where(jnp.argmax(logits, axis=-1) == labels, share, 0.0))
        metrics = {"probe_loss": told(probe_loss), "probe_accuracy": told(accuracy)}
        if method.beside is None:
            return probe_loss, metrics
        own, own_metrics = method.beside(params, embedded, batch)
        return own + probe_loss, {**own_metrics, **metrics}

    return method._replace(init=init, beside=beside)


def without_probe(params):
    """What the method itself learns: all but the online probe.

    Args:
        params: of a method, with a probe or without.

    Example:
        >>> without_probe({"encoder": {}, "projector": {}, "probe": {}})
        {'encoder': {}, 'projector': {}}
    """
    return {name: value for name, value in params.items() if name != PROBE}


def with_probe_optimizer(
    optimizer: optax.GradientTransformation, probe: optax.GradientTransformation
) -> optax.GradientTransformation:
    """`optimizer` for all parameters but the online probe's, which `probe` trains.

    Args:
        optimizer: of the encoder and its heads.
        probe: of the probe.

    Returns:
        An optimiser of both.

    Example:
        >>> optimizer = with_probe_optimizer(optax.sgd(0.0), optax.sgd(1.0))
        >>> params = {"encoder": jnp.ones(2), "probe": jnp.ones(2)}
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> float(updates["encoder"][0]) == 0, float(updates["probe"][0])
        (True, -1.0)
    """

    def labels(params):
        return {name: "probe" if name == PROBE else "method" for name in params}

    return optax.partition({"method": optimizer, "probe": probe}, labels)
