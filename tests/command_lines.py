"""Commands with a real command line, in this process."""

import contextlib
import importlib
import warnings

from absl import flags

from dystress_jax.run import cli


@contextlib.contextmanager
def parsed(name, *arguments):
    """The module of a command and what it has read; its flags are gone afterwards."""
    module = importlib.import_module(f"dystress_jax.commands.{name}")
    before, command = set(flags.FLAGS), cli.Command()
    try:
        module.define()
        flags.DEFINE_bool("compilation_cache", True, "As in cli.start.")
        with warnings.catch_warnings():
            # ml_collections opens config files the old way.
            warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)
            rest = module.parse([name, *map(str, arguments)], command)
        assert rest[1:] == []
        yield module, command
    finally:
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)
        flags.FLAGS.unparse_flags()
