"""Training images that stay on the devices: a batch then needs only the numbers of its images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int32, UInt8

from .. import data, sharding

CHUNK = 1024  # images read and copied at once
SHARE = 0.25  # of a device's memory that images may take


def bytes_of_images(source: data.Source) -> int:
    """What the images of a source take, as training sees them; reads one of them.

    Args:
        source: at least one example.

    Example:
        >>> source = data.open_splits("embedded", name="patches")["train"]
        >>> bytes_of_images(source) == len(source) * 32 * 32
        True
    """
    return len(source) * source.gather(np.array([0]), whole=True)["image"].nbytes


def bytes_for_images(mesh: Mesh) -> int | None:
    """What images may take of each device by default: a quarter of its memory; None on CPUs.

    A CPU has the images in its memory already.

    Args:
        mesh: the devices.

    Example:
        >>> bytes_for_images(sharding.make_mesh(jax.devices("cpu")[:1])) is None
        True
    """
    device = mesh.local_devices[0]
    stats = None if device.platform == "cpu" else device.memory_stats()
    return None if stats is None else int(SHARE * stats["bytes_limit"])


@dataclasses.dataclass(frozen=True)
class Resident:
    """The images of a source, whole on every device.

    Attributes:
        source: the same examples; their images are empty, so that nobody reads them again.
        mesh: the devices.
        images: on each of them.
        place: the position in `images` of each stored row.

    Example:
        >>> source = data.open_splits("embedded", name="patches")["train"].take(np.arange(9))
        >>> resident = Resident.of(source, sharding.make_mesh(jax.devices()[:1]))
        >>> batches = data.batches(resident.source, batch_size=4, seed=0)
        >>> resident.put(next(batches))["image"].shape
        (4, 32, 32, 1)
    """

    source: data.Source
    mesh: Mesh
    images: UInt8[Array, "n h w c"]
    place: Int32[np.ndarray, " stored"]

    @classmethod
    def of(cls, source: data.Source, mesh: Mesh) -> "Resident":
        """Read every image once, and copy it to every device.

        Args:
            source: the examples; each process has all of them.
            mesh: the devices, of all processes.

        Raises:
            ArgumentError: the axis of the mesh is Explicit.
            UnreadableError: an image cannot be read.
        """
        sharding.check_mesh(mesh)
        whole = sharding.replicated(mesh)
        labels = np.zeros(source.num_stored, np.int32)
        extents = np.zeros((source.num_stored, 2), np.int32)
        place = np.zeros(source.num_stored, np.int32)
        place[source.index] = np.arange(len(source))
        add = jax.jit(
            lambda images, part, at: jax.lax.dynamic_update_slice(images, part, (at, 0, 0, 0)),
            donate_argnums=0,
            out_shardings=whole,
        )
        images = None
        for first in range(0, len(source), CHUNK):
            batch = source.gather(np.arange(first, min(first + CHUNK, len(source))), whole=True)
            part = batch["image"]
            if images is None:
                images = jnp.zeros((len(source), *part.shape[1:]), jnp.uint8, device=whole)
            images = add(images, jax.make_array_from_process_local_data(whole, part), first)
            labels[batch["index"]] = batch["label"]
            if "extent" in batch:
                extents[batch["index"]] = batch["extent"]
        assert images is not None, "a source has an example"

        def nothing(rows):
            return np.empty((len(rows), 0, 0, images.shape[-1]), np.uint8)

        light = dataclasses.replace(source, read=lambda rows: (nothing(rows), labels[rows]))
        if source.read_whole is not None:
            light = dataclasses.replace(
                light, read_whole=lambda rows: (nothing(rows), labels[rows], extents[rows])
            )
        return cls(light, mesh, images, place)

    def put(self, batch: data.Batch) -> dict[str, jax.Array]:
        """This process's rows of a batch of `source` as parts of the global batch, with images.

        Args:
            batch: without images.
        """
        others = {name: value for name, value in batch.items() if name != "image"}
        numbers = {"number": self.place[batch["index"]]}
        on_devices = sharding.shard_batch({**others, **numbers}, self.mesh)
        number = on_devices.pop("number")
        return {"image": _rows(self.images, number, sharding.split_rows(self.mesh)), **on_devices}


@jax.jit(static_argnames="sharding")
def _rows(images, number, sharding):
    return jax.lax.with_sharding_constraint(images.at[number].get(mode="clip"), sharding)
