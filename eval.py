"""Evaluate: python eval.py --workdir=DIR --evaluation=knn|linear_probe [--config.FIELD=VALUE]."""

import json
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from dystress_jax import config, evaluator
from dystress_jax.checkpoint import CheckpointError
from dystress_jax.report import table, write_json


def main(_: list[str]) -> None:
    """Evaluate the encoder of a run; the result goes to the terminal and to DIR/eval."""
    logging.set_verbosity(logging.WARNING)
    args = flags.FLAGS
    workdir = pathlib.Path(args.workdir).absolute()
    settings = config.from_config_dict(args.config)
    found = evaluator.evaluate(settings, workdir, args.evaluation, args.checkpoint)
    path = workdir / "eval" / f"{args.evaluation}.json"
    write_json(path, found)
    rows = [(name, f"{100 * found[name]:.1f} %") for name in ("top1", "top5")]
    title = f"{args.evaluation}, {found['split']} images, checkpoint {found['checkpoint_step']}"
    print(table(rows, title=title))
    print(f"protocol and numbers: {path}")


def parse(arguments: list[str]) -> list[str]:
    """Define and parse the flags; ``--config.FIELD`` overrides the run's own config.json."""
    workdirs = [a.partition("=")[2] for a in arguments if a.lstrip("-").startswith("workdir=")]
    path = pathlib.Path(workdirs[-1] if workdirs else "", "config.json")
    if workdirs and not path.is_file():
        raise config.ConfigError(f"--workdir: found no run in {workdirs[-1]} (no config.json)")
    saved = json.loads(path.read_text()) if workdirs else {}
    config.check_overrides(arguments)
    base = config.to_config_dict(config.from_config_dict(saved))
    config_flags.DEFINE_config_dict("config", base)
    flags.DEFINE_string("workdir", None, "The run to evaluate.", required=True)
    flags.DEFINE_enum(
        "evaluation", None, ["knn", "linear_probe"], "What to measure.", required=True
    )
    flags.DEFINE_string("checkpoint", "newest", "newest, best (by kNN), or a step.")
    return flags.FLAGS(arguments)


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=parse)
    except (config.ConfigError, CheckpointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
