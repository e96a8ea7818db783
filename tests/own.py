"""Parts of a run as a user might write them, for `tests.own:NAME`; some do not fit."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from dystress_jax import data, losses, methods, models, schemes, similarities, temperatures
from dystress_jax.evaluation import Result, Row

TAU = 0.1


def falling(*, tau_min, slope=0.1):
    """A function of the similarity."""
    return lambda similarity: tau_min + slope * (1 - similarity)


def ranged(*, tau_min=0.01, tau_max=5.0):
    """With defaults of its own."""
    return tau_min, tau_max


def number(*, value):
    return value


def any_options(**options):
    return options["value"]


def follower(facts, *, rate):
    """A scheme that remembers a number."""

    def update(state, inputs, gradient):
        alike = jnp.mean(jnp.sum(inputs.anchors * inputs.positives, axis=1))
        return state + rate * jnp.tanh(alike) / facts.total_steps

    return schemes.Scheme(lambda: jnp.float32(0.2), lambda state, inputs: state, update)


def nothing():
    pass


def uncalled():
    return temperatures.dystress


def plain(view_a, view_b, *, temperature, margin=0.0):
    """A loss that knows nothing of strategies."""
    return losses.nt_xent(view_a, view_b, temperature=temperature) + margin


def of_classes(view_a, view_b, labels, *, temperature):
    """A loss that asks for labels, and counts the images that have none."""
    unlabelled = jnp.mean((labels == -1).astype(jnp.float32))
    return losses.supcon(view_a, view_b, labels, temperature=temperature) + 1000 * unlabelled


def of_classes_by_name(view_a, view_b, *, temperature, labels):
    return of_classes(view_a, view_b, labels, temperature=temperature)


def pulls(view_a, view_b, *, margin=0.0):
    """A loss without a temperature."""
    return margin - similarities.sphere.paired(*map(similarities.normalize, (view_a, view_b)))


def pulls_of_queue(queries, keys, queue, *, margin=0.0):
    return pulls(queries, keys, margin=margin)


def shared(view_a, view_b, *, temperature, strategy="auto", tile_size=None, axis_name=None):
    """A loss that knows them."""
    how = {"strategy": strategy, "tile_size": tile_size, "axis_name": axis_name}
    return losses.nt_xent(view_a, view_b, temperature=temperature, **how)


def half_shared(view_a, view_b, *, temperature, strategy="auto"):
    return losses.nt_xent(view_a, view_b, temperature=temperature, strategy=strategy)


def of_the_batch(view_a, view_b, *, temperature):
    """Not one value an anchor."""
    return jnp.mean(losses.nt_xent(view_a, view_b, temperature=temperature))


def without_return(view_a, view_b, *, temperature):
    losses.nt_xent(view_a, view_b, temperature=temperature)


def without_a_number(view_a, view_b, *, temperature):
    return jnp.nan * losses.nt_xent(view_a, view_b, temperature=temperature)


def without_a_slope(view_a, view_b, *, temperature):
    """Its own derivative at 0 is infinite."""
    return pulls(view_a, view_b) + jnp.sqrt(0.0 * view_a[:, 0])


def of_some(view_a, view_b, *, temperature):
    return losses.nt_xent(view_a, view_b, temperature=temperature)[:-1]


def counted(view_a, view_b, *, temperature):
    return jnp.arange(len(view_a))


def on_the_host(view_a, view_b, *, temperature):
    return np.asarray(view_a).sum(axis=1)


def of_queries(queries, keys, queue, *, temperature):
    return losses.moco(queries, keys, queue, temperature=temperature)


def forgetful(facts):
    """A scheme whose update fails."""
    return schemes.Scheme(lambda: 0.0, lambda state, inputs: 0.1, lambda state, inputs: state)


class Flat(nnx.Module):
    """One linear layer."""

    def __init__(self, inputs, width, *, rngs):
        self.linear = nnx.Linear(inputs, width, rngs=rngs)

    def __call__(self, images, *, train):
        return self.linear(images.reshape(len(images), -1))


def flat(*, channels, image_size, width=6, told=None):
    inputs = channels * image_size**2
    return models.functional(
        lambda rngs: Flat(inputs, width, rngs=rngs), out_features=told or width
    )


class WithoutTrain(nnx.Module):
    """Called in another way than encoders are."""

    def __call__(self, images):
        return images.reshape(len(images), -1)


def without_train(*, channels, image_size):
    width = channels * image_size**2
    return models.functional(lambda rngs: WithoutTrain(), out_features=width)


def stripes(*, count, holdout):
    images = np.arange(count * 192, dtype=np.uint32).reshape(count, 8, 8, 3) % 251
    return data.split_holdout(data.from_arrays(images.astype(np.uint8)), holdout)


def in_0_to_1(*, count=4):
    return {"train": data.from_arrays(np.zeros((count, 8, 8, 3), np.float32))}


def listed():
    return [1]


def simple(encoder, projector, views, loss, spread):
    network = encoder()
    head = projector("simclr", network.out_features)
    return methods.simclr(network, head, views=views, loss=loss(losses.nt_xent), spread=spread)


def logging(encoder, projector, views, loss, spread, *, momentum, note):
    """SimCLR that logs its own arguments."""
    method = simple(encoder, projector, views, loss, spread)

    def contrast(params, embedded, temperature, memory, batch, key):
        values, outcome = method.contrast(params, embedded, temperature, memory, batch, key)
        metrics = {**outcome.metrics, "momentum": momentum, "note": note}
        metrics["width"] = embedded.points["view_a"].shape[1]
        return values, outcome._replace(metrics=metrics)

    return method._replace(contrast=contrast)


def pulling(encoder, projector, views, loss, spread):
    """A method without a temperature: nothing but the positives count."""
    method = simple(encoder, projector, views, loss, spread)

    def contrast(params, embedded, temperature, memory, batch, key):
        assert temperature is None
        a, b = embedded.points["view_a"], embedded.points["view_b"]
        return jnp.mean((a - b) ** 2, axis=1), methods.Outcome(memory, {})

    return method._replace(contrast=contrast, scheme_inputs=None)


def alone(encoder, views):
    """A method that takes an encoder and views, and has all else from elsewhere."""
    network = encoder()
    head = models.projector("moco_v2", in_features=network.out_features, out=8)
    return methods.simclr(network, head, views=views)


def predicting(encoder, views, head):
    """One that takes a head too, but not the projector."""
    head("dystress_cifar", 8, hidden=8)
    return alone(encoder, views)


def changing(encoder, projector, views, loss, spread):
    """One that changes a part, and hands the others on as they come."""
    return simple(encoder, projector, lambda *batch: views(*batch)[::-1], loss, spread)


def averaging(encoder, projector, views, loss, spread):
    """One that takes the mean itself."""
    method = simple(encoder, projector, views, loss, spread)

    def contrast(*arguments):
        values, outcome = method.contrast(*arguments)
        return jnp.mean(values), outcome

    return method._replace(contrast=contrast)


def reading(towers):
    """A method that asks for texts."""
    return towers()


def sizes(experiment, state):
    """An evaluation: how many images there are, and what the scheme remembers."""
    counts = {split: len(source) for split, source in experiment.sources.items()}
    rows = [Row(f"{split}_images", count, share=False) for split, count in counts.items()]
    if experiment.config.temperature.name.endswith(("follower", "Scheme")):
        rows.append(Row("remembered", state.scheme, share=False))
    return Result(tuple(rows), {"steps": int(state.step)})


def broken(experiment, state):
    """An evaluation with a fault."""
    return {}["nothing"]


def with_an_array(experiment, state):
    return Result((), {"steps": state.step})


def unsaid(encoder, projector, views, loss):
    """Without saying what softmax means for it."""
    network = encoder()
    head = projector("simclr", network.out_features)
    return methods.simclr(network, head, views=views, loss=loss())


def scaled(experiment, state, *, factor=1.0):
    """An evaluation with an option."""
    return Result((Row("scaled", factor, share=False),), {}, split="test")
