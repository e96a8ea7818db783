"""Write the weights of a run for other libraries, or its encoder as ONNX; no images are needed.

dystress export --workdir=runs/photos --format=torchvision --out=resnet50.safetensors
    of a ResNet, for torchvision: model.load_state_dict(safetensors.torch.load_file(FILE)), with
    model.fc = torch.nn.Identity(); of another stem the command prints what else to set

dystress export --workdir=runs/moco --format=timm --out=vit.safetensors --checkpoint=best
    of a ViT, for timm.create_model(..., num_classes=0)

dystress export --workdir=runs/photos --format=onnx --out=encoder.onnx
    of any encoder, a model for onnxruntime: images to features

dystress export --workdir=runs/clip --format=safetensors --out=all.safetensors
    everything of any model, heads too, under the names that it has here
"""

import math

from absl import flags

from .. import run
from ..errors import end_with_the_pipe
from ..run import cli


def main(argv: list[str]) -> None:
    """The command; `argv` is its name and its flags."""
    cli.start(argv, described=__doc__, define=define, parse=parse, run=export, settings={})


def export(command: cli.Command) -> None:
    """Write the weights."""
    del command
    args = flags.FLAGS
    told: list[str] = []
    shapes = run.export_weights(
        cli.directory(args.workdir),
        args.out,
        format=args.format,
        checkpoint=args.checkpoint,
        tell=told.append,
    )
    end_with_the_pipe()
    count = sum(math.prod(shape) for shape in shapes.values())
    print(f"{args.out}: {len(shapes)} arrays, {count:,} numbers, as {args.format}")
    print(*told, sep="\n")


def define() -> None:
    """The flags."""
    flags.DEFINE_string("workdir", None, "The run.", required=True)
    flags.DEFINE_string("out", None, "The file to write, .safetensors or .onnx.", required=True)
    flags.DEFINE_string("format", "safetensors", f"Whose names: {', '.join(run.FORMATS)}.")
    flags.DEFINE_string("checkpoint", "newest", "newest, best (by kNN), or a step.")


def parse(arguments: list[str], command: cli.Command) -> list[str]:
    """Parse the flags."""
    del command
    return flags.FLAGS(arguments)
