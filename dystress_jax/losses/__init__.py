"""Contrastive losses: any temperature, per-example output.

Each function returns one value per anchor; the caller takes the mean.
"""

from dystress_jax.losses._losses import info_nce as info_nce
from dystress_jax.losses._losses import nt_xent as nt_xent
