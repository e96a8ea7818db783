"""`python -m dystress_jax` is the command `dystress`."""

from .commands import main

if __name__ == "__main__":
    main()
