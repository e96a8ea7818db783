"""Train from a checkout: `python train.py ...` is `dystress train ...`."""

import sys

from dystress_jax.commands import main

if __name__ == "__main__":
    main([sys.argv[0], "train", *sys.argv[1:]])
