"""Evaluate: python eval.py --workdir=DIR --evaluation=NAME [--config.FIELD=VALUE]."""

from absl import flags, logging
from ml_collections import config_flags

from dystress_jax import command_line, config, evaluator
from dystress_jax.report import chance, percent, table, write_json


def main(arguments: list[str]) -> None:
    """Evaluate the encoder of a run; the result goes to the terminal and to DIR/eval."""
    logging.set_verbosity(logging.WARNING)
    if arguments[1:]:
        raise config.ConfigError(f"found {arguments[1:]}; allowed: flags, as --workdir=DIR")
    args = flags.FLAGS
    workdir = command_line.directory(args.workdir).absolute()
    settings = config.from_config_dict(args.config)
    found = evaluator.evaluate(settings, workdir, args.evaluation, args.checkpoint)
    of = "" if args.checkpoint == "newest" else f"_{args.checkpoint}"
    path = workdir / "eval" / f"{args.evaluation}{of}.json"
    write_json(path, found)
    shares = [name for name in found if name.startswith("top") or "recall" in name]
    guessed = found.get("chance", {"top1": found["protocol"].get("chance")})
    beside = {name: chance(share) for name, share in guessed.items() if share}
    rows = [(name.replace("_", " "), percent(found[name]), beside.get(name, "")) for name in shares]
    title = f"{args.evaluation}, {found['split']} images, checkpoint {found['checkpoint_step']}"
    print(table(rows, title=title))
    print(f"protocol and numbers: {path}")


def parse(arguments: list[str]) -> list[str]:
    """Define and parse the flags; ``--config.FIELD`` overrides the run's own config.json."""
    flags.DEFINE_string("workdir", None, "The run to evaluate.", required=True)
    flags.DEFINE_enum(
        "evaluation",
        None,
        ["knn", "linear_probe", "zero_shot", "retrieval"],
        "What to measure.",
        required=True,
    )
    flags.DEFINE_string("checkpoint", "newest", "newest, best (by kNN), or a step.")
    config.check_overrides(arguments)
    flags.FLAGS(arguments, known_only=True)
    path = command_line.directory(flags.FLAGS.workdir) / "config.json"
    if not path.is_file():
        raise config.ConfigError(f"--workdir: found no run in {path.parent} (no config.json)")
    base = config.to_config_dict(config.read_json(path))
    config_flags.DEFINE_config_dict(
        "config", base, "Override its fields with --config.FIELD=VALUE."
    )
    return command_line.parse_flags(arguments)


if __name__ == "__main__":
    command_line.start(main, parse, interrupted="interrupted; nothing was written")
