"""Small runs that have saved checkpoints, on images that can then be taken away."""

import dataclasses

import jax
import numpy as np
from PIL import Image

from dystress_jax import run
from dystress_jax.files import write_json
from dystress_jax.run import language
from dystress_jax.run._same_images import remember
from dystress_jax.run.fields import fields
from dystress_jax.training import checkpoint

NAMES = ("red", "green")


def write_images(folder, count=40, side=12, test=16, names=NAMES, seed=0):
    """A folder of image files, a sub-folder a class, told apart by their colour."""
    rng = np.random.default_rng(seed)
    for split, number in (("train", count), ("test", test)):
        for i in range(number):
            pixels = rng.integers(0, 80, (side, side, 3))
            pixels[..., i % len(names)] += 120
            path = folder / split / names[i % len(names)] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def settings(folder, **changes):
    small = {
        "data.source": "folder",
        "data.path": str(folder),
        "batch_size": 16,
        "steps": 3,
        "log_every": 1,
        "checkpoint_every": 2,
        "knn_every": 2,
        **({} if changes.get("method") == "clip" else {"projector.out": 8}),
        **changes,
    }
    # A change back to a default is none: what is set to it must apply to the run.
    default = {field.name: field.default for field in fields()}
    small = {name: value for name, value in small.items() if value != default[name]}
    return run.override(run.defaults(), small)


def grey_settings(path, **changes):
    """Of a run on grey images in arrays, which it writes."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = rng.integers(0, 80, (40, 12, 12, 1)) + 120 * labels[:, None, None, None]
    arrays = {"train_images": images.astype(np.uint8), "train_labels": labels}
    np.savez(path, **arrays, test_images=arrays["train_images"][:8], test_labels=labels[:8])
    return settings("", **{"data.source": "npz", "data.path": str(path), **changes})


def clip_settings(folder, **changes):
    """Of an image-text run on the same images, with captions made of their classes."""
    return settings(
        folder,
        **{
            "method": "clip",
            "data.prompts": "a {} drawing",
            "temperature.name": "learned",
            "temperature.tau": 0.2,
            "optimizer.name": "adamw",
            "optimizer.learning_rate": 0.01,
            "augment.recipe": "weak",
            "text.context": 6,
            "text.vocab_size": 64,
            "topology.dims": 8,
            "zero_shot.prompts": "a {} drawing",
            **changes,
        },
    )


def saved(config, workdir, *, steps=(1, 2)):
    """A run as training leaves it, without the steps: its parts, and its state at the last one.

    The states are the first one with other parameters each; the first is said to be the best.
    """
    experiment = run.build(config, workdir)
    saver = checkpoint.Saver(workdir / "checkpoints", keep=len(steps))
    state = experiment.init_state()
    for step in steps:
        params = jax.tree.map(lambda x: x * 1.1, state.params)
        state = state._replace(step=state.step * 0 + step, params=params)
        saver.save(step, state, {"data": experiment.trained_on, "score": 1 / step})
    saver.wait()
    write_json(workdir / "config.json", dataclasses.asdict(config))
    remember(experiment.train, workdir, {"images": experiment.trained_on})
    if experiment.language is not None:
        experiment.language.tokenizer.save(workdir / language.FILE)
    return experiment, state
