"""Write the features of every image of a data set, one row an image.

  dystress embed --workdir=runs/quickstart --out=features.npz
      of the run's own images

  dystress embed --workdir=runs/photos --on.source=folder --on.path=~/pictures --out=all.parquet
      of any other images; the same command goes on after a break

  dystress embed --workdir=runs/photos --on.source=npz --on.path=x.npz --split=test --out=test.npz
      of one split of them, from the best checkpoint with --checkpoint=best

The file has features, embeddings (of the head), labels, class names, splits, ids, paths where the
images are files, and the protocol. In Python: np.load("features.npz")["features"].
"""

from absl import flags

from .. import run
from ..run import cli, compiled_programs
from ..run.show import note


def main(argv: list[str]) -> None:
    """The command; `argv` is its name and its flags."""
    cli.start(
        argv, described=__doc__, define=define, parse=parse, run=embed, settings={"--on.": "data."}
    )


def embed(command: cli.Command) -> None:
    """Embed the images that the flags describe."""
    args = flags.FLAGS
    compiled_programs.keep()
    note("what is done is kept: after Ctrl-C the same command goes on from there")
    out = run.embed(
        cli.directory(args.workdir),
        args.out,
        on=command.on,
        splits=args.split,
        checkpoint=args.checkpoint,
        batch_size=args.batch,
        overwrite=args.overwrite,
    )
    print(f"written: {out}")


def define() -> None:
    """The flags beside those of the images."""
    flags.DEFINE_string("workdir", None, "The run whose encoder embeds.", required=True)
    flags.DEFINE_string("out", None, "The file, .npz or .parquet.", required=True)
    flags.DEFINE_list("split", [], "train, holdout or test, or several; default: all there are.")
    flags.DEFINE_string("checkpoint", "newest", "newest, best (by kNN), or a step.")
    flags.DEFINE_integer("batch", 256, "Images at once.", lower_bound=1)
    flags.DEFINE_bool("overwrite", False, "Replace a file that is there.")


def parse(arguments: list[str], command: cli.Command) -> list[str]:
    """Parse the flags, and those of the images, which are the fields of `config.data`."""
    return flags.FLAGS(command.read_on(arguments))
