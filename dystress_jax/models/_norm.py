"""BatchNorm as the field trains it, in float32 whatever the compute type."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ..errors import ArgumentError, at_least_one


class BatchNorm(nnx.BatchNorm):
    r"""BatchNorm over every axis but the last, computed in float32.

    $$y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + 10^{-5}}} + \beta$$

    The running statistics move by `running = 0.9 running + 0.1 batch`: PyTorch's defaults
    (`momentum=0.1` there is the weight of the new value). As there, the running variance is the
    unbiased one, `n / (n - 1)` times that which normalises the batch.

    Under `jax.jit` with a batch sharded over devices the statistics are those of the whole batch:
    synchronised BatchNorm without a switch. Half-precision inputs are widened before anything is
    reduced, and the result is cast back once. The variance is the mean squared deviation: the
    faster $E[x^2] - E[x]^2$ loses all its digits in float32 where the mean is a thousand times
    the deviation.

    With `groups` above 1 the batch is cut into that many groups of neighbouring rows, each
    normalised by its own statistics, as on as many devices that do not talk to each other. The
    running statistics move by the mean over the groups.

    References:
        "Ghost" BatchNorm: Hoffer et al., [arXiv 1705.08741](https://arxiv.org/abs/1705.08741).
        Split BatchNorm: `moco_cifar10_demo` of
        [facebookresearch/moco](https://github.com/facebookresearch/moco).
    """

    def __init__(
        self,
        num_features: int,
        *,
        rngs: nnx.Rngs,
        zero_scale: bool = False,
        use_scale: bool = True,
        use_bias: bool = True,
        groups: int = 1,
    ):
        """Make the layer; `zero_scale` starts the scale at 0 instead of 1."""
        at_least_one(bn_groups=groups)  # the networks' name for it, here and below
        scale_init = nnx.initializers.zeros_init() if zero_scale else nnx.initializers.ones_init()
        super().__init__(
            num_features,
            momentum=0.9,
            epsilon=1e-5,
            dtype=jnp.float32,
            use_fast_variance=False,
            scale_init=scale_init,
            use_scale=use_scale,
            use_bias=use_bias,
            rngs=rngs,
        )
        self.groups = groups

    def __call__(
        self,
        x: Float[Array, "*batch c"],
        use_running_average: bool | None = None,
        *,
        mask: Array | None = None,
    ) -> Float[Array, "*batch c"]:
        """Normalise `x` by the batch or by the running statistics."""
        if use_running_average:
            return super().__call__(x, use_running_average, mask=mask).astype(x.dtype)
        others = max(x.size // x.shape[-1] // self.groups - 1, 1)
        if self.groups == 1:
            before = self.momentum * self.var[...]
            y = super().__call__(x, use_running_average, mask=mask)
            self.var[...] += (self.var[...] - before) / others
            return y.astype(x.dtype)
        if x.shape[0] % self.groups:
            raise ArgumentError(
                "bn_groups",
                f"found {self.groups} with a batch of {x.shape[0]} rows; allowed: a divisor of "
                "their number, since the groups are of equal size.",
            )
        grouped = x.reshape(self.groups, -1, *x.shape[1:]).astype(jnp.float32)
        axes = tuple(range(1, grouped.ndim - 1))
        mean = jnp.mean(grouped, axes, keepdims=True)
        variance = jnp.mean(jnp.square(grouped - mean), axes, keepdims=True)
        unbiased = variance * (1 + 1 / others)
        for running, batch in ((self.mean, mean), (self.var, unbiased)):
            batch = jax.lax.stop_gradient(batch).reshape(self.groups, -1).mean(0)
            running[...] = self.momentum * running[...] + (1 - self.momentum) * batch
        y = (grouped - mean) * jax.lax.rsqrt(variance + self.epsilon)
        for parameter, combine in ((self.scale, jnp.multiply), (self.bias, jnp.add)):
            if parameter is not None:
                y = combine(y, jnp.expand_dims(parameter[...], range(y.ndim - 1)))
        return y.reshape(x.shape).astype(x.dtype)
