"""A temperature for each example of the data set: the robust objective, and a network for it."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..errors import ArgumentError, at_least_one, known
from ..similarities import normalize
from ..temperatures import (
    PerAnchor,
    PerExample,
    Temperature,
    check_positive,
    check_range,
)
from ._scheme import Optimizer, Scheme, SchemeInputs, State

_NO_ROW = 2**32 - 1  # folded into the key of a step, gives what no image and no view has


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

    With h = s_ij - s_ip over the negatives j of anchor i (neither itself nor its positive),

    $$s_i \leftarrow (1 - \gamma) s_i + \gamma\, \mathbb{E}_j e^{h_{ij} / \tau_i}, \qquad
      g_i = \ln s_i + \rho - \mathbb{E}_j \Big[ \frac{e^{h_{ij} / \tau_i}}{s_i}
      \frac{h_{ij}}{\tau_i} \Big]$$
    $$u_i \leftarrow (1 - \beta) u_i + \beta\, \mathrm{clip}(g_i), \qquad
      \tau_i \leftarrow \mathrm{clip}(\tau_i - \eta u_i, \tau_{min}, \tau_{max})$$

    s_i starts at its first value. It is kept as a logarithm, which replaces the running maximum of
    the authors' code. Each view of an example has a state of its own, as image and text have there;
    their code for images alone keeps one for both views.

    The authors train the encoder on `losses.rgcl`, or `losses.clip_rgcl`, with these temperatures.
    Any other loss takes them too, but is another objective: `losses.nt_xent` pulls harder where tau
    is small.

    Args:
        num_examples: size of the data set, at least 1.
        sides: views of an example that are anchors, 1 or 2: both, or image and text, or with 1 the
            first alone, as in MoCo.
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
        >>> from dystress_jax.schemes import of_views
        >>> scheme = isogclr(num_examples=4, tau_init=0.1)
        >>> views, rows = jnp.eye(2), jnp.array([3, 1])
        >>> inputs = of_views(views, views, example=rows, key=jax.random.key(0))
        >>> state = scheme.init()
        >>> scheme.resolve(state, inputs).tau.tolist()
        [0.1, 0.1, 0.1, 0.1]

    References:
        Qiu et al., [arXiv 2305.11965](https://arxiv.org/abs/2305.11965), and the authors' code;
        rho, beta and the learning rate as in its CIFAR-100 settings. For images and texts it has
        rho 6, beta 0.9 and clip 5.
    """
    rho, gamma = _check_robust(num_examples, sides, rho, gamma)
    beta, tau_init, tau_min, tau_max = known(
        beta=beta, tau_init=tau_init, tau_min=tau_min, tau_max=tau_max
    )
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
        of_all = lambda value: jnp.full((sides, num_examples), value, jnp.float32)
        return ExampleState(of_all(tau_init), of_all(0.0), of_all(-jnp.inf))

    def resolve(state: ExampleState, inputs: SchemeInputs) -> PerExample:
        rows = _rows(inputs)
        return PerExample(_read(state.tau, rows), _read(state.log_mean, rows), gamma=gamma)

    def update(
        state: ExampleState, inputs: SchemeInputs, gradient: Temperature | None
    ) -> ExampleState:
        del gradient
        rows = _rows(inputs)
        before = resolve(state, inputs)
        slope, log_mean = _robust_slope(inputs, before, rho)
        momentum = (1 - beta) * _read(state.momentum, rows) + beta * jnp.clip(slope, -clip, clip)
        tau = jnp.clip(before.tau - learning_rate * momentum, tau_min, tau_max)
        put = lambda x, new: _written(x, rows, new)
        return ExampleState(*map(put, state, (tau, momentum, log_mean)))

    return Scheme(init, resolve, update)


def tempnet(
    key: PRNGKeyArray,
    *,
    features: int,
    num_examples: int,
    optimizer: Optimizer,
    sides: int = 2,
    networks: int = 1,
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
    encoder's is `losses.rgcl` or `losses.clip_rgcl` in the authors' code; see `isogclr` for others.

    Args:
        key: randomness of the initial weights.
        features: d, the length of an embedding, at least 1.
        num_examples: size of the data set, for the moving averages s_i, at least 1.
        optimizer: an optax optimiser for the network, or for both.
        sides: views of an example that are anchors, as in `isogclr`, 1 or 2.
        networks: 1 or 2: one for all anchors, or one for each side, as the authors have one for
            images and one for texts, each trained on the mean over its own anchors.
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
        >>> from dystress_jax.schemes import of_views
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
    rho, gamma = _check_robust(num_examples, sides, rho, gamma)
    check_range(tau_min, tau_max)
    at_least_one(features=features, prototypes=prototypes, hidden=hidden)
    if not 0 <= dropout < 1:
        raise ArgumentError("dropout", f"found {dropout}; allowed: in [0, 1).")
    if networks not in (1, sides):
        raise ArgumentError("networks", f"found {networks}; allowed: 1, or `sides` = {sides}.")

    def network(key: PRNGKeyArray) -> dict[str, Array]:
        kernel, rows = jax.random.split(key)
        normal = lambda key, *shape: jax.random.normal(key, shape, jnp.float32)
        return {
            "kernel": normal(kernel, features, hidden) / math.sqrt(features),
            "bias": jnp.zeros(hidden, jnp.float32),
            "prototypes": normal(rows, prototypes, hidden),
            "weights": jnp.ones(prototypes, jnp.float32),
            "offset": jnp.float32(0.0),
            "log_softness": jnp.log(jnp.float32(0.01)),
        }

    def init() -> State:
        keys = jax.random.split(key, networks) if networks > 1 else key
        params = jax.vmap(network)(keys) if networks > 1 else network(keys)
        log_means = jnp.full((sides, num_examples), -jnp.inf, jnp.float32)
        return params, optimizer.init(params), log_means

    def predict(params: dict[str, Array], inputs: SchemeInputs) -> Array:
        if networks == 1:
            return of_network(params, inputs)
        side, _ = _rows(inputs)
        first, second = jax.vmap(lambda params: of_network(params, inputs))(params)
        return jnp.where(side == 0, first, second)

    def of_network(params: dict[str, Array], inputs: SchemeInputs) -> Array:
        anchors = normalize(jax.lax.stop_gradient(inputs.anchors))
        z = jax.nn.sigmoid(anchors @ params["kernel"] + params["bias"][None, :])
        if inputs.key is not None:
            mask_key = jax.random.fold_in(inputs.key, _NO_ROW)
            kept = jax.random.bernoulli(mask_key, 1 - dropout, z.shape)
            z = jnp.where(kept, z / (1 - dropout), 0.0)
        match = z @ normalize(params["prototypes"]).T
        softmax = jax.nn.softmax(match / jnp.exp(params["log_softness"]))
        evidence = (softmax - 1 / prototypes) * jax.nn.sigmoid(match)
        position = jax.nn.sigmoid(evidence @ params["weights"] + params["offset"])
        return tau_min + (tau_max - tau_min) * position

    def resolve(state: State, inputs: SchemeInputs) -> PerExample:
        params, _, log_means = state
        return PerExample(predict(params, inputs), _read(log_means, _rows(inputs)), gamma=gamma)

    def update(state: State, inputs: SchemeInputs, gradient: Temperature | None) -> State:
        del gradient
        params, optimizer_state, log_means = state
        slope, log_mean = _robust_slope(inputs, resolve(state, inputs), rho)
        mean = lambda params: networks * jnp.mean(slope * predict(params, inputs))
        slopes = jax.grad(mean)(params)
        changes, optimizer_state = optimizer.update(slopes, optimizer_state, params)
        params = jax.tree.map(jnp.add, params, changes)
        return (
            params,
            optimizer_state,
            _written(log_means, _rows(inputs), log_mean),
        )

    return Scheme(init, resolve, update)


def _check_robust(num_examples: int, sides: int, rho: float, gamma: float) -> tuple[float, float]:
    """Returns rho and gamma, and refuses what the robust objective cannot be computed with."""
    at_least_one(num_examples=num_examples)
    rho, gamma = known(rho=rho, gamma=gamma)
    for name, value, holds, allowed in (
        ("sides", sides, sides in (1, 2), "1 or 2"),
        ("rho", rho, rho >= 0, "at least 0"),
        ("gamma", gamma, 0 < gamma <= 1, "in (0, 1]"),
    ):
        if not holds:
            raise ArgumentError(name, f"found {value}; allowed: {allowed}.")
    return rho, gamma


def _rows(inputs: SchemeInputs) -> tuple[Int[Array, " a"], Int[Array, " a"]]:
    """Where the state of each anchor is."""
    if inputs.side is None or inputs.example is None:
        raise ArgumentError(
            f"inputs.{'side' if inputs.side is None else 'example'}",
            "found None, but this scheme has a state for each example; allowed: a number for each "
            "anchor, as of_views(view_a, view_b, example=...) gives it.",
        )
    return inputs.side, inputs.example


def _read(state: Float[Array, "sides n"], rows: tuple[Array, Array]) -> Float[Array, " a"]:
    """The state of each anchor; NaN for an example or a side that there is none of."""
    return state.at[rows].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _written(
    state: Float[Array, "sides n"], rows: tuple[Array, Array], new: Float[Array, " a"]
) -> Float[Array, "sides n"]:
    """The state with that of each anchor; an example or a side that there is none of has none."""
    new = new.astype(state.dtype)
    return state.at[rows].set(new, mode="drop", wrap_negative_indices=False)


def _robust_slope(
    inputs: SchemeInputs, temperature: PerExample, rho: float
) -> tuple[Float[Array, " anchors"], Float[Array, " anchors"]]:
    """The slope g_i of the robust objective in tau_i, and the new ln s_i."""
    decoupled = inputs.decoupled
    number = inputs.negatives
    if decoupled is None or (isinstance(number, int) and number < 1):  # a symbolic one is not known
        raise ArgumentError(
            "inputs.decoupled",
            f"found {decoupled} with {number} negatives, but this scheme learns from the "
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
