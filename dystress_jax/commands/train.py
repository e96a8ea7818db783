"""Train an encoder, or go on with the run that --workdir holds.

dystress train
    the first run: patches of photographs in the package, a minute on two free CPU cores, into
    runs/quickstart

dystress train --workdir=runs/warm --config.temperature.tau_max=0.5
    the first run with one field changed; the same command goes on after a break

dystress train --workdir=runs/warm --resume
    goes on with the settings that the run has in its config.json, whatever they were

dystress train --config=photos.py --config.data.source=folder --config.data.path=~/photos
    a config file of one's own, on one's own images
"""

import os
import re
import socket
import sys
import threading

import jax
from absl import flags

from .. import run
from ..configs import quickstart
from ..run import cli, compiled_programs, config_files
from ..run.fields import differences
from ..training import processes

SHORT = {"init_from": "init_from"}
HEARTBEAT = 30  # seconds after which a process that is silent counts as gone


def main(argv: list[str]) -> None:
    """The command; `argv` is its name and its flags."""
    described = f"{__doc__}\nConfigs by name: {', '.join(config_files.names())}"
    changes = differences(run.defaults().to_dict(), quickstart.get_config().to_dict())
    described += (
        "\nWithout --config it is quickstart, which has other values than the defaults below:\n  "
    )
    described += ", ".join(f"{name}={value}" for name, (_, value) in changes.items())
    cli.start(
        argv,
        described=described,
        define=define,
        parse=parse,
        run=train,
        settings={"--config.": ""},
    )


def train(command: cli.Command) -> None:
    """Run the experiment that the flags describe."""
    args = flags.FLAGS
    join_others(args)
    with processes.ending_together():
        config = command.settings(args.config)
        kept = compiled_programs.keep()
        if not processes.has_joined() or jax.process_index() == 0:
            print(kept, *command.put_back, sep="\n")
        workdir = f"runs/{command.config_name}" if args.workdir is None else args.workdir
        run.train(config, cli.directory(workdir))


def join_others(args: flags.FlagValues) -> None:
    """Wait for the other processes of the run, if there are any."""
    known = "--coordinator_address=HOST:PORT --num_processes=N --process_id=I"
    address, count, process = args.coordinator_address, args.num_processes, args.process_id
    if not args.distributed:
        if (address, count, process) != (None, None, None):
            raise run.ConfigError(f"found one of {known}; allowed: with --distributed.")
        return
    if address is not None:
        check_address(address)
    of, at = (
        f"{count} processes" if count else "the other processes",
        f" at {address}" * bool(address),
    )
    print(f"waiting for {of}{at} (--join_timeout={args.join_timeout})", flush=True)

    def give_up() -> None:
        who = "the coordinator, process 0, has not answered" if process else "not all have come"
        print(
            f"--join_timeout: {who}{at} within {args.join_timeout} s.", file=sys.stderr, flush=True
        )
        os._exit(1)  # the main thread is in JAX, which hears nothing

    patience = threading.Timer(args.join_timeout, give_up)
    patience.start()
    try:
        jax.distributed.initialize(
            address,
            count,
            process,
            initialization_timeout=args.join_timeout + 60,  # ours comes first
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (ValueError, RuntimeError) as error:
        said = str(error).partition("\n")[0]
        raise run.ConfigError(
            f"--distributed: {said} Slurm, Open MPI, Kubernetes and Cloud TPU are recognised; "
            f"elsewhere add {known}."
        ) from error
    finally:
        patience.cancel()


def check_address(address: str) -> None:
    """Refuse an address that nothing can be reached at."""
    found = re.fullmatch(r"\[?(.+?)\]?:([0-9]{1,5})", address)
    if found is None or not 0 < int(found[2]) < 2**16:
        raise run.ConfigError(
            f"--coordinator_address: found {address!r}; allowed: HOST:PORT of process 0, such as "
            "10.0.0.1:1234."
        )
    try:
        socket.getaddrinfo(found[1], int(found[2]))
    except OSError as error:
        raise run.ConfigError(
            f"--coordinator_address: the host {found[1]!r} is not known here ({error.strerror}); "
            "allowed: the name or the number of the machine of process 0."
        ) from error


def define() -> None:
    """The flags beside those of the settings."""
    flags.DEFINE_string(
        "workdir", None, "Where the run is written, or continued; default: runs/NAME of the config."
    )
    flags.DEFINE_bool(
        "resume", False, "Go on with the run in --workdir, with the settings that it has there."
    )
    flags.DEFINE_string(
        "init_from",
        None,
        "A run, or a file of weights, that a new run starts from. The same as --config.init_from.",
    )
    flags.DEFINE_bool(
        "distributed",
        False,
        "Join the other processes of this run first. Slurm, Open MPI, Kubernetes and Cloud TPU are "
        "recognised; elsewhere give the next three flags too.",
    )
    flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0.")
    flags.DEFINE_integer("num_processes", None, "How many processes there are.")
    flags.DEFINE_integer("process_id", None, "This one's number, from 0.")
    flags.DEFINE_integer(
        "join_timeout", 300, "Seconds to wait for the other processes.", lower_bound=1
    )


def parse(arguments: list[str], command: cli.Command) -> list[str]:
    """Parse the flags and the settings, with our own answers to names that do not exist."""
    arguments = config_files.find(command.read(cli.in_full(arguments, SHORT)))
    flags.FLAGS(arguments, known_only=True)
    command.config_name = config_files.name_of(arguments)
    taken = config_files.run_as_config(arguments)
    if taken is not None and flags.FLAGS.workdir is None:
        raise run.ConfigError(
            f"--workdir: found none with --config={taken}, which is a run; allowed: a new "
            "directory for another run. To go on with it: --resume with its --workdir."
        )
    parse_rest = parse_resumed if flags.FLAGS.resume else config_files.parse
    return parse_rest(arguments)


def parse_resumed(arguments: list[str]) -> list[str]:
    """Parse the flags of a run that goes on with its own settings."""
    if flags.FLAGS.workdir is None:
        raise run.ConfigError(
            "--resume: found no --workdir; allowed: with it, the run's directory."
        )
    if any(argument.startswith("--config=") for argument in arguments):
        raise run.ConfigError(
            "--resume: found with --config; allowed: without it. The settings are those of the "
            "run, --config.FIELD=VALUE changes one."
        )
    config_files.define_run(cli.directory(flags.FLAGS.workdir), arguments)
    return config_files.parse_flags(arguments)
