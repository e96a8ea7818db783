"""Make a run of a file of weights, to be loaded, evaluated, or started from.

The file is safetensors or what torch.save has written; nothing in it is run. The images are taken
as ImageNet's usually are (resized to 256, the centre of 224), if no --config says otherwise.

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
from ..run import cli


def main(argv: list[str]) -> None:
    """The command; `argv` is its name, the file and the flags."""
    file = [argument for argument in argv[1:2] if not argument.startswith("-")]
    rest = [argv[0], *argv[1 + len(file) :]]

    def run_import(command: cli.Command) -> None:
        args = flags.FLAGS
        if not file:
            raise run.ConfigError("found no file; allowed: dystress import FILE")
        workdir = pathlib.Path("runs", pathlib.Path(file[0]).name.partition(".")[0])
        workdir = workdir if args.workdir is None else cli.directory(args.workdir)
        settings = command.settings(args.config)
        said = run.import_weights(settings, file[0], workdir, prefix=args.prefix)
        print("\n".join([*command.put_back, *said]))
        print(f"now a run: dystress_jax.load({str(workdir)!r})")

    cli.start(
        rest,
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


def parse(arguments: list[str], command: cli.Command) -> list[str]:
    """Parse the flags."""
    arguments = command.read(cli.in_full(arguments, {"model": "model.name"}))
    if any(argument.partition("=")[0] in ("--config", "-config") for argument in arguments):
        return cli.parse_with_config_file(cli.find_config_file(arguments))
    base = run.to_config_dict(run.override(run.defaults(), run.IMPORTED))
    config_flags.DEFINE_config_dict("config", base, "The settings.", sys_argv=arguments)
    return cli.parse_flags(arguments)
