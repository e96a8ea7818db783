"""BatchNorm as the field trains it, in float32 whatever the compute type."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class BatchNorm(nnx.BatchNorm):
    r"""BatchNorm over every axis but the last, computed in float32.

    .. math:: y = \gamma (x - \mu) / \sqrt{\sigma^2 + 10^{-5}} + \beta

    The running statistics move by ``running = 0.9 running + 0.1 batch``: PyTorch's defaults
    (``momentum=0.1`` there is the weight of the new value). One difference is kept: the running
    variance is the biased one that also normalises, where PyTorch stores ``n / (n - 1)`` times it.

    Under `jax.jit` with a batch sharded over devices the statistics are those of the whole batch:
    synchronised BatchNorm without a switch. Half-precision inputs are widened before anything is
    reduced, and the result is cast back once. The variance is the mean squared deviation: the
    faster ``E[x^2] - E[x]^2`` loses all its digits in float32 where the mean is a thousand times
    the deviation.
    """

    def __init__(
        self,
        num_features: int,
        *,
        rngs: nnx.Rngs,
        zero_scale: bool = False,
        use_bias: bool = True,
    ):
        """Make the layer; ``zero_scale`` starts the scale at 0 instead of 1."""
        scale_init = nnx.initializers.zeros_init() if zero_scale else nnx.initializers.ones_init()
        super().__init__(
            num_features,
            momentum=0.9,
            epsilon=1e-5,
            dtype=jnp.float32,
            use_fast_variance=False,
            scale_init=scale_init,
            use_bias=use_bias,
            rngs=rngs,
        )

    def __call__(
        self,
        x: Float[Array, "*batch c"],
        use_running_average: bool | None = None,
        *,
        mask: Array | None = None,
    ) -> Float[Array, "*batch c"]:
        """Normalise ``x`` by the batch or by the running statistics."""
        return super().__call__(x, use_running_average, mask=mask).astype(x.dtype)
