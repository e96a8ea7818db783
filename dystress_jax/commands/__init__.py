"""The command `dystress`: one module a command, each with a docstring to help and a `main(argv)`.

Nothing is imported before a command is chosen, so that help answers at once.
"""

import importlib
import pathlib
import signal
import sys
from collections.abc import Sequence

import dystress_jax

from ..errors import end_with_the_pipe, hint, how_to_install

# The name of a module here, and what it does.
COMMANDS = {
    "train": "train an encoder, or go on with a run",
    "eval": "measure the encoder of a run",
    "sweep": "train every combination of some settings, with several seeds",
    "export": "write the weights of a run for other libraries",
    "import": "make a run of a file of weights",
    "embed": "write the features of images to a file",
    "advise": "say what stands out in a run, and what finds out more",
    "report": "write a page about a run, or several",
    "explore": "write a page that shows what every temperature does",
}
EXTRAS = {"report": "train,report"}  # else train


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that a command line names.

    Args:
        argv: the program, the command, and what the command is to read; None: those of the process.
    """
    _program, *arguments = sys.argv if argv is None else argv
    if not arguments or arguments[0] in ("help", "-h", "--help", "-help"):
        end_with_the_pipe()
        print(_help())
        return
    name, *rest = arguments
    if name == "--version":
        print(f"dystress_jax {dystress_jax.__version__}")
        return
    if name not in COMMANDS:
        sys.exit(
            f"dystress: found {name!r}; allowed: {', '.join(COMMANDS)}.{hint(name, list(COMMANDS))}"
        )
    # Libraries swallow a Ctrl-C while they are imported, and compilers do not hear it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        command = importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("dystress_jax"):
            raise
        sys.exit(missing(name, error))
    command.main([f"dystress {name}", *rest])


def missing(name: str, error: ModuleNotFoundError) -> str:
    """What to install where a command finds no package.

    Args:
        name: of the command.
        error: of the import.
    """
    install = how_to_install(EXTRAS.get(name, "train"))
    return f"dystress {name}: found no package {error.name}; allowed: with it, {install}."


def written(out: pathlib.Path, content: str) -> str:
    """What to tell of a file, with its size where that is worth a word.

    Args:
        out: the file.
        content: what is in it.
    """
    size = len(content.encode("utf-8", errors="backslashreplace"))  # as `write_text` has it
    return f"written: {out} ({size / 1e6:.1f} MB)" if size > 5e4 else f"written: {out}"


def _help() -> str:
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {does}" for name, does in COMMANDS.items())
    return f"""\
Contrastive learning with a temperature that depends on the similarity of each pair.

  dystress COMMAND [--FLAG=VALUE ...]

{table}

dystress COMMAND --help has flags and examples. The first run, a minute on two free CPU cores:

  dystress train"""
