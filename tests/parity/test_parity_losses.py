"""Losses and their gradients beside lightly, SupContrast and open_clip, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import losses, schemes
from tests.parity.golden import golden

LIGHTLY = golden("lightly")
OPEN_CLIP = golden("open_clip")
close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)


def macl(a, b):
    scheme = schemes.macl(tau=0.1, alpha=0.5, threshold=0.2)
    temperature = scheme.resolve((), schemes.of_views(a, b))
    return schemes.macl_reweight(losses.nt_xent(a, b, temperature=temperature))


def supcon(labels, a, b):
    return losses.supcon(a, b, jnp.int32(labels), temperature=0.1)


OF_VIEWS = {
    "nt_xent": functools.partial(losses.nt_xent, temperature=0.2),
    "dcl": functools.partial(losses.dcl, temperature=0.1),
    "dclw": functools.partial(losses.dclw, temperature=0.1, sigma=0.5),
    "macl": macl,
    "supcon": functools.partial(supcon, LIGHTLY["labels"]),
    "supcon_without_labels": functools.partial(supcon, np.arange(7)),
}


@pytest.mark.parametrize("name", OF_VIEWS)
def test_losses_of_two_views_are_those_of_lightly_and_supcontrast(name):
    expected = LIGHTLY[name]
    with jax.enable_x64(True):
        loss = lambda a, b: OF_VIEWS[name](a, b).mean()
        views = [jnp.asarray(LIGHTLY[view]) for view in ("view_a", "view_b")]
        value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(*views)
    close(value, expected["value"])
    for found, of in zip(gradients, ("of_a", "of_b"), strict=True):
        close(found, expected[of])


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_losses_of_images_and_texts_are_those_of_open_clip(name):
    def loss(images, texts, scale, bias):
        if name == "clip":
            return losses.clip(images, texts, temperature=1 / scale).mean()
        return losses.siglip(images, texts, scale=scale, bias=bias).mean()

    parts = ("images", "texts", "scale", "bias")
    with jax.enable_x64(True):
        arguments = [jnp.asarray(OPEN_CLIP[part]) for part in parts]
        value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))(*arguments)
    close(value, OPEN_CLIP[name]["value"])
    for part, found in zip(parts, gradients, strict=True):
        close(found, OPEN_CLIP[name][f"of_{part}"], atol=1e-12, err_msg=part)
