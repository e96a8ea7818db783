"""Contrastive losses: any temperature, any batch, any number of devices.

Each function returns one value per anchor, in float32 (float64 for float64 inputs); the caller
takes the mean. All of them take the same three arguments for how the work is done, and every way
gives the same values and gradients.

strategy:
    "dense"     the whole matrix of pairs at once, O(n m) memory. The only one that supports forward
                mode (`jax.jvp`, `jax.hessian`).
    "tiled"     a tile at a time, O(n + m) memory, forward and backward. Loops over slices of the
                rows: under a global-view `jit` with the batch sharded over devices it is correct,
                but the compiler gathers the rows on every device and each does all the work. Use
                "dense" there, or `jax.shard_map` with one of the next two.
    "gathered"  with `axis_name`, inside `jax.shard_map`: every device gets all candidates and
                works through its own rows in tiles.
    "ring"      with `axis_name`, inside `jax.shard_map`: the candidates travel from device to
                device, and no device ever holds more than two blocks of the others.
    "auto"      without `axis_name`, "dense" up to 1024 x 1024 pairs and "tiled" above; with it,
                "gathered" up to 16 Mi numbers in all candidates and "ring" above.

tile_size:
    Rows and columns of a tile; memory for a few matrices of that size. None, the default, is 1024,
    and 512 in the ring, where a tile should stay small beside a block.

axis_name:
    The mesh axis over which the batch is split. The result holds this device's rows of the loss of
    the whole batch, and gradients are those of the whole batch: take the mean over the rows and
    over the devices (`jax.lax.pmean`), as for any other per-example loss.

Where exp(s / tau) cannot leave the range of the dtype, which the bound of a temperature and the
range of a similarity decide before any logit is computed, tiles need one pass and those of one set
of views serve rows and columns at once. Below tau of about 0.0143 (for a cosine in float32), or
with a temperature or similarity without bounds, a first pass finds the largest logit of each row.
"""

from ._cross_modal import clip as clip
from ._cross_modal import siglip as siglip
from ._on_mesh import on_mesh as on_mesh
from ._self_supervised import dcl as dcl
from ._self_supervised import dclw as dclw
from ._self_supervised import info_nce as info_nce
from ._self_supervised import moco as moco
from ._self_supervised import nt_xent as nt_xent
from ._self_supervised import supcon as supcon
