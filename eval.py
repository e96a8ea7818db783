"""Evaluate from a checkout: `python eval.py ...` is `dystress eval ...`."""

import sys

from dystress_jax.commands import main

if __name__ == "__main__":
    main([sys.argv[0], "eval", *sys.argv[1:]])
