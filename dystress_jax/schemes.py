"""Temperatures that change during training: schedules, learned, from the batch, per example.

A scheme is three pure functions around a state, which is a pytree to store with the model:

    state = scheme.init()
    temperature = scheme.resolve(state, inputs)            # before the loss
    ...                                                   # loss and gradients with this temperature
    state = scheme.update(state, inputs, gradient)         # after it

`gradient` is the gradient of the loss with respect to the temperature, a pytree like it; schemes
that do not learn from it take None.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from .errors import ArgumentError, at_least_one
from .losses import dcl
from .similarities import at_least_float32, normalize, sphere
from .temperatures import (
    CLIP_LOG_SCALE,
    Constant,
    Learned,
    LearnedWithBias,
    PerAnchor,
    PerExample,
    Temperature,
    TemperatureLike,
    as_temperature,
    check_positive,
    check_range,
    check_scales,
)

__all__ = [
    "Scheme",
    "SchemeInputs",
    "as_scheme",
    "cosine_schedule",
    "dual_temperature_reweight",
    "fixed",
    "isogclr",
    "learned_scale",
    "learned_scale_and_bias",
    "macl",
    "macl_reweight",
    "of_views",
    "scheduled",
    "tempnet",
]

_RENAMED = {"Batch": "SchemeInputs", "cosine_oscillation": "cosine_schedule"}

_NO_ROW = 2**32 - 1  # folded into the key of a step, gives what no image and no view has
State = Any
Optimizer = Any  # an optax GradientTransformation, or anything with its init and update


def __getattr__(name: str) -> Any:
    """Answers an old name with the new one."""
    now = f": it is now called {_RENAMED[name]}" if name in _RENAMED else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{now}")


class SchemeInputs(NamedTuple):
    """What a scheme may look at: the anchors of a loss, in its order. No gradient flows back.

    Attributes:
        anchors: embeddings of the anchors.
        positives: embedding of each anchor's positive.
        decoupled: `temperature per anchor -> N_i - l_ip`, the loss without the positive in the
            denominator; for schemes with a state per example.
        negatives: how many negatives each anchor has in it.
        example: number of each anchor's example in the data set, for states per example.
        side: 0 or 1, which of the two views of the example the anchor is.
        key: randomness for this step, for schemes that use it.
    """

    anchors: Float[Array, "a d"]
    positives: Float[Array, "a d"]
    decoupled: Callable[[PerAnchor], Float[Array, " a"]] | None = None
    negatives: int = 0
    example: Int[Array, " a"] | None = None
    side: Int[Array, " a"] | None = None
    key: PRNGKeyArray | None = None


def of_views(
    view_a: Float[Array, "n d"],
    view_b: Float[Array, "n d"],
    *,
    example: Int[Array, " n"] | None = None,
    key: PRNGKeyArray | None = None,
    decoupled: Callable[..., Float[Array, " 2*n"]] = dcl,
) -> SchemeInputs:
    """What a scheme may look at in a loss between two views, such as `losses.nt_xent`.

    Args:
        view_a: embeddings of the first view.
        view_b: embeddings of the second view.
        example: number of each example in the data set.
        key: randomness for this step.
        decoupled: `losses.dcl`, or the same with options of one's own.

    Returns:
        The inputs, their anchors in the order of the loss: all of a, then all of b.

    Example:
        >>> of_views(jnp.eye(2), -jnp.eye(2)).positives[0]
        Array([-1., -0.], dtype=float32)
    """
    n = view_a.shape[0]
    return SchemeInputs(
        anchors=jnp.concatenate([view_a, view_b]),
        positives=jnp.concatenate([view_b, view_a]),
        decoupled=lambda temperature: decoupled(view_a, view_b, temperature=temperature),
        negatives=2 * n - 2,
        example=None if example is None else jnp.tile(example, 2),
        side=jnp.repeat(jnp.arange(2), n),
        key=key,
    )


class Scheme(NamedTuple):
    """How a temperature evolves.

    Attributes:
        init: () -> state.
        resolve: (state, inputs) -> the temperature of this step. Schemes that do not look at the
            embeddings take None.
        update: (state, inputs, gradient) -> state of the next step.
        learns: whether `update` needs the gradient.
        reweight: how the loss of each anchor is weighed before the mean; None: not at all.
    """

    init: Callable[[], State]
    resolve: Callable[..., Temperature]
    update: Callable[..., State]
    learns: bool = False
    reweight: Callable[[Float[Array, " anchors"]], Float[Array, " anchors"]] | None = None


def as_scheme(scheme: Scheme | TemperatureLike) -> Scheme:
    """Returns the scheme that a temperature stands for: the same in every step.

    Args:
        scheme: a Scheme, which is returned as it is, or what every loss takes as a temperature.

    Returns:
        The scheme.

    Raises:
        ArgumentError: as `temperatures.as_temperature`.
        TypeError: as `temperatures.as_temperature`.

    Example:
        >>> as_scheme(0.1).resolve((), None)
        Constant(tau=0.1)
        >>> as_scheme(macl()).reweight is macl_reweight
        True
    """
    return scheme if isinstance(scheme, Scheme) else fixed(scheme)


def fixed(temperature: TemperatureLike) -> Scheme:
    """The same temperature in every step.

    Args:
        temperature: what every loss takes.

    Returns:
        The scheme; its state is empty.

    Raises:
        ArgumentError: as `temperatures.as_temperature`.
        TypeError: as `temperatures.as_temperature`.

    Example:
        >>> fixed(0.1).resolve((), None)
        Constant(tau=0.1)
    """
    made = as_temperature(temperature)
    return Scheme(
        init=lambda: (),
        resolve=lambda state, inputs: made,
        update=lambda state, inputs, gradient: state,
    )


def scheduled(
    make: Callable[..., Temperature],
    **fields: ArrayLike | Temperature | Callable[[Array], ArrayLike],
) -> Scheme:
    """A temperature whose fields follow schedules.

    Args:
        make: a function of `temperatures`, such as `dystress`.
        **fields: its arguments; each is a number, a Temperature where `make` takes one, or a
            schedule (step -> number) such as those of optax or `cosine_schedule`.

    Returns:
        The scheme; its state is the number of updates so far.

    Example:
        >>> from dystress_jax.temperatures import dystress
        >>> scheme = scheduled(dystress, tau_min=lambda step: 0.1 + 0.01 * step, tau_max=0.5)
        >>> state = scheme.update(scheme.init(), None, None)
        >>> round(float(scheme.resolve(state, None).tau_min), 4)
        0.11
    """

    def resolve(step: Int[Array, ""], inputs: SchemeInputs | None) -> Temperature:
        del inputs
        now = {
            name: value if isinstance(value, Temperature) or not callable(value) else value(step)
            for name, value in fields.items()
        }
        return make(**now)

    return Scheme(
        init=lambda: jnp.zeros((), jnp.int32),
        resolve=resolve,
        update=lambda step, inputs, gradient: step + 1,
    )


def cosine_schedule(
    tau_min: float = 0.1, tau_max: float = 1.0, *, half_period: float = 200
) -> Callable[[ArrayLike], Array]:
    r"""The temperature schedule of Kukleva et al.

    $$\tau(t) = \tau_{min} + \tfrac12 (\tau_{max} - \tau_{min}) (1 + \cos(\pi t / T))$$

    Starts at tau_max, reaches tau_min after T and goes on oscillating.

    Args:
        tau_min: lowest temperature, > 0.
        tau_max: highest temperature, >= tau_min.
        half_period: T, in the unit of the argument, above 0. The authors count epochs and use 200,
            so a full period takes 400 epochs; in steps, multiply by the steps of an epoch.

    Returns:
        The schedule t -> tau.

    Raises:
        ArgumentError: when tau_min <= 0, tau_min > tau_max or half_period <= 0.

    Example:
        >>> [round(float(cosine_schedule()(epoch)), 3) for epoch in (0, 100, 200, 400)]
        [1.0, 0.55, 0.1, 1.0]

    References:
        Kukleva et al., [arXiv 2303.13664](https://arxiv.org/abs/2303.13664), and their code.
    """
    check_range(tau_min, tau_max)
    check_positive("half_period", half_period)
    return lambda t: tau_min + (tau_max - tau_min) / 2 * (1 + jnp.cos(jnp.pi * t / half_period))


def learned_scale(
    optimizer: Optimizer,
    *,
    log_scale: float = CLIP_LOG_SCALE,
    min_scale: float = 1.0,
    max_scale: float = 100.0,
) -> Scheme:
    r"""The learned temperature of CLIP, with an optimiser of its own.

    $$\tau = e^{-t}, \qquad
      t \leftarrow \mathrm{clip}(t + u, \ln \text{min\_scale}, \ln \text{max\_scale})$$

    where u is the optimiser's update for the gradient of the loss. The clamp acts after each step.

    Args:
        optimizer: an optax optimiser for the one parameter.
        log_scale: initial t, any number.
        min_scale: smallest 1 / tau, > 0. An oblique manifold of m tokens that starts from the
            logits of the sphere has a scale m times smaller, which may be below 1.
        max_scale: largest 1 / tau, > min_scale.

    Returns:
        The scheme; its state holds t and the optimiser's state, and `resolve` a
        `temperatures.learned`.

    Raises:
        ArgumentError: when not 0 < min_scale < max_scale.

    Example:
        >>> import optax
        >>> scheme = learned_scale(optax.sgd(0.1), log_scale=math.log(20.0))
        >>> tau = scheme.resolve(scheme.init(), None)
        >>> float(tau(jnp.array([0.5]))[0])
        0.05

    References:
        Radford et al., [arXiv 2103.00020](https://arxiv.org/abs/2103.00020), section 2.5.
    """
    check_scales(min_scale, max_scale)

    def init() -> State:
        t = jnp.float32(log_scale)
        return t, optimizer.init(t)

    def resolve(state: State, inputs: SchemeInputs | None) -> Learned:
        del inputs
        return Learned(state[0], min_scale=min_scale, max_scale=max_scale)

    def update(state: State, inputs: SchemeInputs | None, gradient: Learned) -> State:
        del inputs
        t, optimizer_state = state
        change, optimizer_state = optimizer.update(gradient.log_scale, optimizer_state, t)
        return jnp.clip(t + change, math.log(min_scale), math.log(max_scale)), optimizer_state

    return Scheme(init, resolve, update, learns=True)


def learned_scale_and_bias(
    optimizer: Optimizer,
    *,
    log_scale: float = math.log(10.0),
    bias: float = -10.0,
    min_scale: float = 1.0,
    max_scale: float = 100.0,
) -> Scheme:
    r"""The learned scale and bias of SigLIP, with an optimiser of their own.

    $$t' \leftarrow \mathrm{clip}(t' + u, \ln \text{min\_scale}, \ln \text{max\_scale}), \qquad
      b \leftarrow b + v$$

    Args:
        optimizer: an optax optimiser for the two parameters.
        log_scale: initial t', the logarithm of the scale, any number.
        bias: initial b, any number.
        min_scale: smallest scale, > 0.
        max_scale: largest scale, > min_scale.

    Returns:
        The scheme; `resolve` gives a temperature whose `scale` and `bias` `losses.siglip` takes.

    Raises:
        ArgumentError: when not 0 < min_scale < max_scale.

    Example:
        >>> import optax
        >>> scheme = learned_scale_and_bias(optax.sgd(0.1))
        >>> learned = scheme.resolve(scheme.init(), None)
        >>> float(learned.scale), float(learned.bias)
        (10.0, -10.0)

    References:
        Zhai et al., [arXiv 2303.15343](https://arxiv.org/abs/2303.15343), section 3.2; the clamp
        is that of open_clip.
    """
    check_scales(min_scale, max_scale)

    def init() -> State:
        parameters = (jnp.float32(log_scale), jnp.float32(bias))
        return parameters, optimizer.init(parameters)

    def resolve(state: State, inputs: SchemeInputs | None) -> LearnedWithBias:
        del inputs
        t, b = state[0]
        return LearnedWithBias(t, b, min_scale=min_scale, max_scale=max_scale)

    def update(state: State, inputs: SchemeInputs | None, gradient: LearnedWithBias) -> State:
        del inputs
        parameters, optimizer_state = state
        slopes = (gradient.log_scale, gradient.bias)
        changes, optimizer_state = optimizer.update(slopes, optimizer_state, parameters)
        t, b = jax.tree.map(jnp.add, parameters, changes)
        return (jnp.clip(t, math.log(min_scale), math.log(max_scale)), b), optimizer_state

    return Scheme(init, resolve, update, learns=True)


def macl(*, tau: float = 0.1, alpha: float = 0.5, threshold: float = 0.0) -> Scheme:
    r"""The model-aware temperature of MACL: it rises with the similarity of the positives.

    $$\tau = \tau_0 (1 + \alpha (A - A_0)), \qquad A = \text{mean positive similarity}$$

    The method also weighs the loss: the scheme's `reweight` is `macl_reweight`.

    Args:
        tau: tau_0 > 0.
        alpha: how strongly tau follows, in [0, 1].
        threshold: A_0, in [0, 1].

    Returns:
        The scheme; its state is empty, `resolve` needs the inputs.

    Raises:
        ArgumentError: when tau <= 0, or alpha or threshold is not in [0, 1].

    Example:
        >>> views = jnp.eye(2)
        >>> macl().resolve((), of_views(views, views))
        Constant(tau=Array(0.15, dtype=float32))

    References:
        Huang et al., [arXiv 2207.07874](https://arxiv.org/abs/2207.07874), and the authors' code.
    """
    check_positive("tau", tau)
    for argument, value in (("alpha", alpha), ("threshold", threshold)):
        if not 0 <= value <= 1:
            raise ArgumentError(argument, f"found {value}; allowed: in [0, 1].")

    def resolve(state: State, inputs: SchemeInputs) -> Constant:
        del state
        pairs = [normalize(at_least_float32(x)) for x in (inputs.anchors, inputs.positives)]
        positive = jnp.mean(jax.lax.stop_gradient(sphere.paired(*pairs)))
        return Constant(tau * (1 + alpha * (positive - threshold)))

    keep = lambda state, inputs, gradient: state
    return Scheme(lambda: (), resolve, keep, reweight=macl_reweight)


def macl_reweight(loss: Float[Array, " n"]) -> Float[Array, " n"]:
    r"""The loss of MACL from a softmax loss: examples that are learned keep their gradient.

    $$-\mathrm{sg}\Big[\frac{1}{1 - P_i}\Big] \log P_i, \qquad P_i = e^{-L_i}$$

    Args:
        loss: L_i = -log P_i, such as `losses.nt_xent` returns.

    Returns:
        The weighted loss of each anchor.

    Example:
        >>> macl_reweight(jnp.array([0.6931472]))
        Array([1.3863], dtype=float32)

    References:
        Huang et al., [arXiv 2207.07874](https://arxiv.org/abs/2207.07874), and the authors' code.
    """
    smallest = jnp.finfo(loss.dtype).eps  # 1 - P is 0 where the loss is
    return loss / jax.lax.stop_gradient(jnp.maximum(-jnp.expm1(-loss), smallest))


def dual_temperature_reweight(
    loss: Float[Array, " n"], wide: Float[Array, " n"]
) -> Float[Array, " n"]:
    r"""The dual temperature: a loss at one temperature, its anchors weighed as at another.

    $$-\mathrm{sg}\Big[\frac{1 - P_i^b}{1 - P_i^a}\Big] \log P_i^a, \qquad P_i = e^{-L_i}$$

    The temperature a says which negatives of an anchor count, b which anchors do.

    Args:
        loss: L_i at the temperature a, such as `losses.nt_xent` returns at 0.1.
        wide: L_i of the same anchors at the temperature b, ten times a in the authors' code.

    Returns:
        The weighted loss of each anchor. No gradient reaches `wide`.

    Example:
        >>> dual_temperature_reweight(jnp.array([0.6931472]), jnp.array([1.3862944]))
        Array([1.0397], dtype=float32)

    References:
        Zhang et al., CVPR 2022, and the authors' code
        ([ChaoningZhang/Dual-temperature](https://github.com/ChaoningZhang/Dual-temperature)).
    """
    not_sure = lambda loss: -jnp.expm1(-loss)
    smallest = jnp.finfo(loss.dtype).eps  # 1 - P is 0 where the loss is
    ratio = not_sure(wide) / jnp.maximum(not_sure(loss), smallest)
    return loss * jax.lax.stop_gradient(ratio)


class ExampleState(NamedTuple):
    """State of `isogclr`, for each view and each example of the data set."""

    tau: Float[Array, "sides examples"]
    momentum: Float[Array, "sides examples"]
    log_mean: Float[Array, "sides examples"]


def isogclr(
    num_examples: int,
    *,
    sides: int = 2,
    tau_init: float = 0.1,
    tau_min: float = 0.005,
    tau_max: float = 1.0,
    rho: float = 0.4,
    gamma: float = 0.8,
    beta: float = 0.5,
    learning_rate: float = 0.03,
    clip: float = 3.0,
) -> Scheme:
    r"""The temperature of iSogCLR: one for each example, from a robust objective of its own.

    With h = s_ij - s_ip over the 2n - 2 negatives j of anchor i (neither itself nor its positive),

    $$s_i \leftarrow (1 - \gamma) s_i + \gamma\, \mathbb{E}_j e^{h_{ij} / \tau_i}, \qquad
      g_i = \ln s_i + \rho - \mathbb{E}_j \Big[ \frac{e^{h_{ij} / \tau_i}}{s_i}
      \frac{h_{ij}}{\tau_i} \Big]$$
    $$u_i \leftarrow (1 - \beta) u_i + \beta\, \mathrm{clip}(g_i), \qquad
      \tau_i \leftarrow \mathrm{clip}(\tau_i - \eta u_i, \tau_{min}, \tau_{max})$$

    s_i starts at its first value. It is kept as a logarithm, which replaces the running maximum of
    the authors' code. Each view of an example has a state of its own, as image and text have there;
    their code for images alone keeps one for both views.

    The authors train the encoder on `losses.rgcl` with these temperatures. Any other loss takes
    them too, but is another objective: `losses.nt_xent` pulls harder where tau is small.

    Args:
        num_examples: size of the data set, at least 1.
        sides: views of an example that are anchors, 1 or 2: both, or with 1 the first alone, as in
            MoCo.
        tau_init: initial temperature, above 0.
        tau_min: lowest temperature, > 0.
        tau_max: highest temperature, at least `tau_min`.
        rho: radius of the robust objective, at least 0.
        gamma: weight of the present batch in s, in (0, 1].
        beta: weight of the present gradient in u, in (0, 1].
        learning_rate: eta, above 0.
        clip: largest |g|, above 0.

    Returns:
        The scheme; `resolve` gives one temperature per anchor, with the running mean that
        `losses.rgcl` uses, and needs `inputs.example` and `inputs.side`; `update` needs all of the
        inputs.

    Raises:
        ArgumentError: for a number outside its range.

    Example:
        >>> scheme = isogclr(num_examples=4, tau_init=0.1)
        >>> views, rows = jnp.eye(2), jnp.array([3, 1])
        >>> inputs = of_views(views, views, example=rows, key=jax.random.key(0))
        >>> state = scheme.init()
        >>> scheme.resolve(state, inputs).tau.tolist()
        [0.1, 0.1, 0.1, 0.1]

    References:
        Qiu et al., [arXiv 2305.11965](https://arxiv.org/abs/2305.11965), and the authors' code;
        rho, beta and the learning rate as in its CIFAR-100 settings.
    """
    _check_robust(num_examples, sides, rho, gamma)
    check_range(tau_min, tau_max)
    check_positive("learning_rate", learning_rate)
    check_positive("clip", clip)
    if not 0 < beta <= 1:
        raise ArgumentError("beta", f"found {beta}; allowed: in (0, 1].")
    if not tau_min <= tau_init <= tau_max:
        raise ArgumentError(
            "tau_init",
            f"found {tau_init}; allowed: from `tau_min` = {tau_min} to `tau_max` = {tau_max}.",
        )

    def init() -> ExampleState:
        shape = (sides, num_examples)
        return ExampleState(jnp.full(shape, tau_init), jnp.zeros(shape), jnp.full(shape, -jnp.inf))

    def resolve(state: ExampleState, inputs: SchemeInputs) -> PerExample:
        rows = _rows(inputs)
        return PerExample(state.tau[rows], state.log_mean[rows], gamma=gamma)

    def update(
        state: ExampleState, inputs: SchemeInputs, gradient: Temperature | None
    ) -> ExampleState:
        del gradient
        rows = _rows(inputs)
        before = resolve(state, inputs)
        slope, log_mean = _robust_slope(inputs, before, rho)
        momentum = (1 - beta) * state.momentum[rows] + beta * jnp.clip(slope, -clip, clip)
        tau = jnp.clip(before.tau - learning_rate * momentum, tau_min, tau_max)
        put = lambda x, new: x.at[rows].set(new)
        return ExampleState(*map(put, state, (tau, momentum, log_mean)))

    return Scheme(init, resolve, update)


def tempnet(
    key: PRNGKeyArray,
    *,
    features: int,
    num_examples: int,
    optimizer: Optimizer,
    sides: int = 2,
    tau_min: float = 0.005,
    tau_max: float = 0.05,
    prototypes: int = 256,
    hidden: int = 256,
    rho: float = 7.0,
    gamma: float = 0.8,
    dropout: float = 0.5,
) -> Scheme:
    r"""The temperature of TempNet: a small network predicts it from the embedding.

    With x of length 1, z = sigmoid(x V + c), masked by dropout, and the M rows of P scaled to
    length 1,

    $$\tau(x) = \tau_{min} + (\tau_{max} - \tau_{min})\, \sigma\Big( w \cdot
      \big[ (\mathrm{softmax}(z P^T / e^s) - 1/M)\, \sigma(z P^T) \big] + b \Big)$$

    trained on mean_i g_i tau(x_i) with g_i of `isogclr` as a number. Where the inputs have a key,
    as in training, one mask of it serves the loss of the encoder and that of the network. The
    encoder's is `losses.rgcl` in the authors' code; see `isogclr` for others.

    Args:
        key: randomness of the initial weights.
        features: d, the length of an embedding, at least 1.
        num_examples: size of the data set, for the moving averages s_i, at least 1.
        optimizer: an optax optimiser for the network.
        sides: views of an example that are anchors, as in `isogclr`, 1 or 2.
        tau_min: lowest temperature, > 0.
        tau_max: highest temperature, at least `tau_min`.
        prototypes: M, at least 1.
        hidden: length of z, at least 1.
        rho: radius of the robust objective, at least 0.
        gamma: weight of the present batch in s, in (0, 1].
        dropout: share of z to drop where the inputs have a key, in [0, 1).

    Returns:
        The scheme; `resolve` gives one temperature per anchor, with the running mean that
        `losses.rgcl` uses.

    Raises:
        ArgumentError: for a number outside its range.

    Example:
        >>> import optax
        >>> scheme = tempnet(
        ...     jax.random.key(0), features=2, num_examples=4, optimizer=optax.adam(1e-3), hidden=8
        ... )
        >>> inputs = of_views(jnp.eye(2), jnp.eye(2), example=jnp.array([3, 1]))
        >>> tau = scheme.resolve(scheme.init(), inputs).tau
        >>> tau.shape, bool(jnp.all((0.005 < tau) & (tau < 0.05)))
        ((4,), True)

    References:
        Qiu et al., [arXiv 2404.04575](https://arxiv.org/abs/2404.04575), and the authors' code.
    """
    _check_robust(num_examples, sides, rho, gamma)
    check_range(tau_min, tau_max)
    at_least_one(features=features, prototypes=prototypes, hidden=hidden)
    if not 0 <= dropout < 1:
        raise ArgumentError("dropout", f"found {dropout}; allowed: in [0, 1).")

    def init() -> State:
        kernel, rows = jax.random.split(key)
        params = {
            "kernel": jax.random.normal(kernel, (features, hidden)) / math.sqrt(features),
            "bias": jnp.zeros(hidden),
            "prototypes": jax.random.normal(rows, (prototypes, hidden)),
            "weights": jnp.ones(prototypes),
            "offset": jnp.zeros(()),
            "log_softness": jnp.log(jnp.float32(0.01)),
        }
        return params, optimizer.init(params), jnp.full((sides, num_examples), -jnp.inf)

    def predict(params: dict[str, Array], inputs: SchemeInputs) -> Array:
        anchors = normalize(at_least_float32(jax.lax.stop_gradient(inputs.anchors)))
        z = jax.nn.sigmoid(anchors @ params["kernel"] + params["bias"][None, :])
        if inputs.key is not None:
            mask_key = jax.random.fold_in(inputs.key, _NO_ROW)
            z = z * jax.random.bernoulli(mask_key, 1 - dropout, z.shape) / (1 - dropout)
        match = z @ normalize(params["prototypes"]).T
        softmax = jax.nn.softmax(match / jnp.exp(params["log_softness"]))
        evidence = (softmax - 1 / prototypes) * jax.nn.sigmoid(match)
        position = jax.nn.sigmoid(evidence @ params["weights"] + params["offset"])
        return tau_min + (tau_max - tau_min) * position

    def resolve(state: State, inputs: SchemeInputs) -> PerExample:
        params, _, log_means = state
        return PerExample(predict(params, inputs), log_means[_rows(inputs)], gamma=gamma)

    def update(state: State, inputs: SchemeInputs, gradient: Temperature | None) -> State:
        del gradient
        params, optimizer_state, log_means = state
        slope, log_mean = _robust_slope(inputs, resolve(state, inputs), rho)
        slopes = jax.grad(lambda params: jnp.mean(slope * predict(params, inputs)))(params)
        changes, optimizer_state = optimizer.update(slopes, optimizer_state, params)
        params = jax.tree.map(jnp.add, params, changes)
        return params, optimizer_state, log_means.at[_rows(inputs)].set(log_mean)

    return Scheme(init, resolve, update)


def _check_robust(num_examples: int, sides: int, rho: float, gamma: float) -> None:
    """Refuses what the robust objective cannot be computed with."""
    at_least_one(num_examples=num_examples)
    for name, value, holds, allowed in (
        ("sides", sides, sides in (1, 2), "1 or 2"),
        ("rho", rho, rho >= 0, "at least 0"),
        ("gamma", gamma, 0 < gamma <= 1, "in (0, 1]"),
    ):
        if not holds:
            raise ArgumentError(name, f"found {value}; allowed: {allowed}.")


def _rows(inputs: SchemeInputs) -> tuple[Int[Array, " a"], Int[Array, " a"]]:
    """Where the state of each anchor is."""
    if inputs.side is None or inputs.example is None:
        raise ArgumentError(
            f"inputs.{'side' if inputs.side is None else 'example'}",
            "found None, but this scheme has a state for each example; allowed: a number for each "
            "anchor, as of_views(view_a, view_b, example=...) gives it.",
        )
    return inputs.side, inputs.example


def _robust_slope(
    inputs: SchemeInputs, temperature: PerExample, rho: float
) -> tuple[Float[Array, " anchors"], Float[Array, " anchors"]]:
    """The slope g_i of the robust objective in tau_i, and the new ln s_i."""
    decoupled = inputs.decoupled
    if decoupled is None or inputs.negatives < 1:
        raise ArgumentError(
            "inputs.decoupled",
            f"found {decoupled} with {inputs.negatives} negatives, but this scheme learns from the "
            "negatives; allowed: the loss without the positive in the denominator, as "
            "of_views(view_a, view_b) gives it for two pairs or more.",
        )
    # log sum_j exp(h_ij / tau_i) over the negatives is the decoupled loss; its derivative in tau_i
    # is minus the softmax mean of h_ij / tau_i, over tau_i.
    total, pullback = jax.vjp(lambda tau: decoupled(PerAnchor(tau)), temperature.tau)
    softmax_mean = -temperature.tau * pullback(jnp.ones_like(total))[0]
    now = total - math.log(inputs.negatives)
    log_mean = temperature.moved(now)
    return log_mean + rho - jnp.exp(now - log_mean) * softmax_mean, log_mean
