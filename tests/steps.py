"""The first steps of any method, taken as the trainer takes them."""

from typing import NamedTuple

import jax
import optax
from jax.sharding import Mesh

from dystress_jax import sharding
from dystress_jax.methods import Method
from dystress_jax.run import Config, Experiment
from dystress_jax.run import _build as build
from dystress_jax.run._encoding import make_embed_views
from dystress_jax.run._own import choose
from dystress_jax.run._scheme import make_scheme
from dystress_jax.run.experiment import Schedule
from dystress_jax.run.inputs import Inputs, make_inputs
from dystress_jax.run.language import Language
from dystress_jax.run.methods import Parts
from dystress_jax.schemes import Scheme
from dystress_jax.training import init_state, make_train_step


def take(
    method, optimizer, learning_rate, batches, *, scheme=None, devices=1, seed=0, micro_batches=1
):
    """The state after the batches, on its devices, and what each step has logged."""
    mesh = sharding.make_mesh(jax.devices()[:devices])
    state = init_state(method, optimizer, scheme=scheme, seed=seed, mesh=mesh)
    train_step = make_train_step(
        method, optimizer, learning_rate, scheme=scheme, mesh=mesh, micro_batches=micro_batches
    )
    logged = []
    for batch in batches:
        state, found, _ = train_step(state, sharding.shard_batch(batch, mesh))
        logged.append({name: float(value) for name, value in found.items()})
    return state, logged


def on_host(state):
    """The arrays of a state as NumPy has them, its key as numbers."""
    return jax.device_get(state._replace(key=jax.random.key_data(state.key)))


class Made(NamedTuple):
    """What a run is made of, without its data."""

    config: Config
    mesh: Mesh
    inputs: Inputs
    parts: Parts
    method: Method
    scheme: Scheme | None
    optimizer: optax.GradientTransformation
    schedule: Schedule
    language: Language | None

    def take(self, batches, *, devices=1, micro_batches=1):
        """The state after the batches, on the host, and what each step has logged."""
        state, logged = take(
            self.method,
            self.optimizer,
            self.schedule.learning_rate,
            batches,
            scheme=self.scheme,
            devices=devices,
            micro_batches=micro_batches,
        )
        return on_host(state), logged

    def trace(self, batch):
        """The shapes of what a step makes of a batch, on one device."""
        mesh = sharding.make_mesh(jax.devices()[:1])
        new = lambda: init_state(self.method, self.optimizer, scheme=self.scheme, seed=0, mesh=mesh)
        train_step = make_train_step(
            self.method,
            self.optimizer,
            self.schedule.learning_rate,
            scheme=self.scheme,
            mesh=mesh,
        )
        return jax.eval_shape(train_step, jax.eval_shape(new), batch)

    def embed(self, params, stats, images):
        """Features and embeddings of images that are float already."""
        return self.method.encode(params, stats, images), self.method.project(params, stats, images)

    def experiment(self, sources):
        """The run, with these splits."""
        return Experiment(
            config=self.config,
            mesh=self.mesh,
            sources=sources,
            schedule=self.schedule,
            method=self.method,
            scheme=self.scheme,
            optimizer=self.optimizer,
            inputs=self.inputs,
            encode=self.method.encode,
            encode_view=self.method.encode,
            embed=self.embed,
            embed_views=make_embed_views(self.method, self.parts.views),
            language=self.language,
            trained_on="",
        )


def make(config, source, *, devices=1, tokenizer=None):
    """What the settings make of a source, as the trainer makes it."""
    mesh = sharding.make_mesh(jax.devices()[:devices])
    schedule, chosen = build.make_schedule(config, source), choose(config)
    inputs = make_inputs(config, source)
    parts = build.make_parts(config, chosen, inputs, mesh, schedule, tokenizer)
    method = build.make_method(config, chosen, parts)
    scheme = make_scheme(config, chosen, method, source, schedule)
    optimizer = build.make_optimizer(config, schedule)
    made = Made(config, mesh, inputs, parts, method, scheme, optimizer, schedule, None)
    return made._replace(language=tokenizer and build.make_language(parts, tokenizer, made.embed))
