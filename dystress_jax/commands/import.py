"""Make a run of a file of weights, to be loaded, evaluated, or started from.

The file is safetensors or what torch.save has written; nothing in it is run. What the command
export has written says which model it is, and what its images are to be. Those of any other file
are taken as ImageNet's usually are (resized to 256, the centre of 224), if no --config says
otherwise.

dystress import encoder.safetensors
    what the command export has written, into runs/encoder

dystress import resnet50.pth --model=resnet50
    into runs/resnet50; torchvision's names, and those of MoCo, SimCLR, solo-learn and lightly

dystress import moco_v3.pth.tar --model=vit_small --workdir=runs/moco_v3 --config.model.heads=12
    a ViT in timm's names; --config.model.positions=learned for ViT and DeiT

dystress import open_clip.safetensors --config=my_clip.py --workdir=runs/clip
    CLIP's towers, with the config of a run with method clip and its vocabulary
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from .. import run
from ..errors import end_with_the_pipe
from ..run import cli, config_files
from ..run.command_line import words


def main(argv: list[str]) -> None:
    """The command; `argv` is its name, the file and the flags."""
    file, _ = apart(argv)

    def run_import(command: cli.Command) -> None:
        args = flags.FLAGS
        if file is None:
            raise run.ConfigError("found no file; allowed: dystress import FILE")
        workdir = pathlib.Path("runs", pathlib.Path(file).name.partition(".")[0])
        workdir = workdir if args.workdir is None else cli.directory(args.workdir)
        settings = command.settings(args.config)
        said = run.import_weights(settings, file, workdir, prefix=args.prefix)
        end_with_the_pipe()
        print("\n".join([*command.put_back, *said]))
        print(f"now a run: dystress_jax.load({str(workdir)!r})")

    cli.start(
        argv,
        described=__doc__,
        define=define,
        parse=parse,
        run=run_import,
        settings={"--config.": ""},
    )


def define() -> None:
    """The flags beside those of the settings."""
    flags.DEFINE_string(
        "workdir", None, "Where the run is written; default: runs/NAME of the file."
    )
    flags.DEFINE_string("model", None, "The same as --config.model.name.")
    flags.DEFINE_string(
        "prefix", "auto", "What stands before the names in the file, such as module.encoder_q."
    )


def apart(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The file, which comes first or last, and the other arguments; None: there is none.

    Args:
        arguments: of the command line, its name first.

    Example:
        >>> apart(["import", "--model=resnet50", "a.pth"])
        ('a.pth', ['import', '--model=resnet50'])
    """
    name, *rest = arguments
    is_flag = lambda text: text.startswith("-")
    if rest and not is_flag(rest[0]):
        return rest[0], [name, *rest[1:]]
    # The last of `--workdir DIR` is the value of a flag.
    if rest[1:] and not is_flag(rest[-1]) and (not is_flag(rest[-2]) or "=" in rest[-2]):
        return rest[-1], [name, *rest[:-1]]
    return None, arguments


def parse(arguments: list[str], command: cli.Command) -> list[str]:
    """Parse the flags; what a file says of its own settings stands in for those of a config."""
    file, arguments = apart(arguments)
    arguments = command.read(cli.in_full(arguments, {"model": "model.name"}))
    if any(word.flag == "config" for word in words(arguments)):
        return config_files.parse(config_files.find(arguments))
    settings = run.IMPORTED if file is None else run.imported(file)
    base = run.to_config_dict(run.override(run.defaults(), settings))
    config_flags.DEFINE_config_dict("config", base, "The settings.", sys_argv=arguments)
    return config_files.parse_flags(arguments)
