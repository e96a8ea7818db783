"""Contrastive losses: any temperature, any batch, any number of devices.

Each function returns one value per anchor, in float32 (float64 for float64 inputs); `clip`,
`clip_rgcl` and `siglip` return one per pair of image and text, [n]. Take the mean to train. All of
them take the same three arguments for how the work is done; only `moco`, whose queue every device
holds whole, has no `axis_name`. Every way gives the same values and gradients.

| `strategy` | needs       | how                                                                |
|------------|-------------|--------------------------------------------------------------------|
| `dense`    |             | the whole matrix of pairs at once, O(n m) memory                   |
| `tiled`    |             | a tile at a time, O(n + m) memory, forward and backward            |
| `fused`    |             | `tiled` in one kernel of an NVIDIA GPU, for products in bfloat16   |
| `gathered` | `axis_name` | every device gets all candidates, its own rows go in tiles         |
| `ring`     | `axis_name` | candidates travel, no device holds more than two blocks of others  |
| `auto`     |             | one of them, by the size                                           |

A strategy is a value: `dense()`, `tiled(tile)`, `fused()`, `gathered("data")`,
`ring("data", tile=512)`. A name stands for one, with `tile_size` and `axis_name` as its companions.

- `dense` is the only one that supports forward mode (`jax.jvp`, `jax.hessian`), and over devices
  `gathered("data", within=dense())`.
- `tiled` loops over slices of the rows. Call it under `jax.jit`: outside, each call compiles the
  loop anew, which takes about half a second. Under `jax.jit` with a batch split over devices it is
  correct, but the compiler gathers the rows on every device, and each does all the work.
- `dense` alone takes a symbolic number of rows (`jax.export`), and is what `auto` takes then.
- `auto` without `axis_name` is `dense` up to 1024 x 1024 pairs on CPUs and 4096 x 4096 on
  accelerators, and `tiled` above. With it, it is `gathered` up to 16 Mi numbers in all candidates
  and `ring` above.

`tile_size` is the number of rows and columns of a tile, or (rows, columns): memory for a few
matrices of that size. None, the default, is what suits the platform. CPUs want tiles that fit into
their cache: 1024, and 512 in the ring. Accelerators want few and long ones: 4096 rows, or as many
as make 128 Mi pairs, and all columns.

`precision` is that of the matrix products. It belongs to the similarity: `precision="bfloat16"` is
short for `similarity.with_precision("bfloat16")`. All sums are float32.

`axis_name` is the mesh axis over which the batch is split, inside `jax.shard_map`. The result holds
this device's rows of the loss of the whole batch, and gradients are those of the whole batch. Take
the mean over the rows and over the devices (`jax.lax.pmean`), as for any other loss per example.
For whole arrays `on_mesh` does all this. Without it, arrays that tell over which devices their rows
are split choose for themselves: under `jax.jit` where the axes are `Explicit`, as those of
`jax.make_mesh` are, and everywhere outside `jax.jit`, where each call compiles anew: that may take
seconds. Each device then computes its own rows. Under `jax.jit` on `Auto` axes
nobody knows the devices while the program is written: take `on_mesh`.

`where` says which rows are real. The others are neither anchors nor candidates, get loss 0 and no
gradient, and may hold anything, in a temperature per anchor too: divide the sum by the number of
real anchors.

Where exp(s / tau) cannot leave the range of the dtype, tiles need one pass. In a loss of one set of
views a tile is then used twice, for its rows and for its columns. The bound of a temperature and
the range of a similarity decide this before any logit is computed. Below tau of about 0.0143 (for a
cosine in float32), or without bounds, a first pass finds the largest logit of each row.
"""

from ._clip import clip as clip
from ._of_keys import info_nce as info_nce
from ._of_keys import moco as moco
from ._of_views import dcl as dcl
from ._of_views import dclw as dclw
from ._of_views import nt_xent as nt_xent
from ._on_mesh import on_mesh as on_mesh
from ._partition import logits as logits
from ._rgcl import clip_rgcl as clip_rgcl
from ._rgcl import rgcl as rgcl
from ._siglip import siglip as siglip
from ._statistics import Kind as Kind
from ._statistics import Spread as Spread
from ._statistics import Statistics as Statistics
from ._statistics import statistics as statistics
from ._strategies import FOR_QUEUE as FOR_QUEUE
from ._strategies import STRATEGIES as STRATEGIES
from ._strategies import Dense as Dense
from ._strategies import Fused as Fused
from ._strategies import Gathered as Gathered
from ._strategies import Loss as Loss
from ._strategies import Ring as Ring
from ._strategies import StrategyLike as StrategyLike
from ._strategies import Tiled as Tiled
from ._strategies import dense as dense
from ._strategies import fused as fused
from ._strategies import gathered as gathered
from ._strategies import ring as ring
from ._strategies import tiled as tiled
from ._supcon import supcon as supcon
