"""Commands with a real command line, in this process."""

import contextlib
import importlib
import warnings

from absl import flags

from dystress_jax.run import cli


@contextlib.contextmanager
def reading(name):
    """A function that reads the arguments of a command, and what it remembers of them.

    Its flags are gone afterwards.
    """
    module = importlib.import_module(f"dystress_jax.commands.{name}")
    before, command = set(flags.FLAGS), cli.Command()
    try:
        module.define()
        flags.DEFINE_bool("compilation_cache", True, "As in cli.start.")
        with warnings.catch_warnings():
            # ml_collections opens config files the old way.
            warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)
            yield lambda arguments: module.parse([name, *map(str, arguments)], command), command
    finally:
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)
        flags.FLAGS.unparse_flags()


@contextlib.contextmanager
def parsed(name, *arguments):
    """The module of a command and what it has read."""
    with reading(name) as (read, command):
        rest = read(arguments)
        assert rest[1:] == []
        yield importlib.import_module(f"dystress_jax.commands.{name}"), command
