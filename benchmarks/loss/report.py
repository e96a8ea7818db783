"""Tables and the plot of the loss benchmark."""

import itertools
import pathlib
import statistics

Result = dict


def markdown(results: Result) -> str:
    """Returns the report: milliseconds, memory, ratios, distance from the machine's limits."""
    measured = results["measured"]
    sizes = sorted({entry["rows"] for entry in measured})
    names = list(dict.fromkeys(entry["name"] for entry in measured))
    lines = [
        "# Speed and memory of the loss",
        "",
        f"Made by `{results['command']}` on {results['machine']}; "
        f"load average at the end {results['load_average'][0]:.1f}. "
        + ", ".join(sorted({entry["version"] for entry in measured}))
        + ". Value and gradient of the mean loss, rows of length 128, float32. One process per "
        "competitor. Every single time is in [loss.json](loss.json).",
        "",
        "## Milliseconds, best (median)",
        "",
        _row("rows", *map("{:,}".format, sizes)),
        _row("---", *["---:"] * len(sizes)),
    ]
    for name in names:
        cells = [_times(_find(measured, name, rows)) for rows in sizes]
        lines.append(_row(name, *cells))
    lines += ["", "## MiB of temporaries that XLA plans", ""]
    lines += [_row("rows", *map("{:,}".format, sizes)), _row("---", *["---:"] * len(sizes))]
    for name in names:
        entries = [_find(measured, name, rows) for rows in sizes]
        if any(entry and "temporaries_mib" in entry for entry in entries):
            cells = [f"{entry['temporaries_mib']:.1f}" if entry else "" for entry in entries]
            lines.append(_row(name, *cells))
    lines += ["", "## Ratios of the best times", "", *_ratios(measured, sizes)]
    lines += ["", "## Distance from the limits of the machine", "", *_limits(results)]
    if results["ring"]:
        lines += ["", "## The ring on simulated devices", "", *_ring(results)]
    return "\n".join(lines) + "\n"


def plot(results: Result, path: pathlib.Path) -> None:
    """Draws time and temporaries over the number of rows."""
    import matplotlib.pyplot as plt

    measured = results["measured"]
    figure, (time, memory) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name in dict.fromkeys(entry["name"] for entry in measured):
        entries = [entry for entry in measured if entry["name"] == name]
        rows = [entry["rows"] for entry in entries]
        time.plot(rows, [min(entry["times"]) for entry in entries], "o-", label=name, ms=3)
        if "temporaries_mib" in entries[0]:
            memory.plot(rows, [e["temporaries_mib"] for e in entries], "o-", label=name, ms=3)
    for axes, title in ((time, "seconds, value and gradient"), (memory, "MiB of temporaries")):
        axes.set(xscale="log", yscale="log", xlabel="rows", title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _find(measured: list[Result], name: str, rows: int) -> Result | None:
    return next((e for e in measured if e["name"] == name and e["rows"] == rows), None)


def _times(entry: Result | None) -> str:
    if entry is None:
        return ""
    return f"{min(entry['times']) * 1e3:,.1f} ({statistics.median(entry['times']) * 1e3:,.1f})"


def _ratios(measured: list[Result], sizes: list[int]) -> list[str]:
    pairs = [
        ("torch compile", "tiled"),
        ("torch eager", "tiled"),
        ("dense", "tiled"),
        ("torch compile, through tau", "tiled, through tau"),
        ("dense, through tau", "tiled, through tau"),
        ("lightly NTXentLoss", "tiled, constant"),
        ("pytorch-metric-learning NTXentLoss", "tiled, constant"),
        ("optax ntxent", "tiled, constant"),
    ]
    lines = [_row("slower / faster", *map("{:,}".format, sizes))]
    lines.append(_row("---", *["---:"] * len(sizes)))
    best = lambda entry: min(entry["times"])
    for slow, fast in pairs:
        found = [(_find(measured, slow, rows), _find(measured, fast, rows)) for rows in sizes]
        if any(a and b for a, b in found):
            cells = [f"{best(a) / best(b):.2f}" if a and b else "" for a, b in found]
            lines.append(_row(f"{slow} / {fast}", *cells))
    tiled = [_find(measured, "tiled", rows) for rows in sizes]
    growth = [""] + [
        f"{best(b) / best(a):.2f}" if a and b else "" for a, b in itertools.pairwise(tiled)
    ]
    lines.append(_row("tiled / tiled at the size before", *growth))
    return lines


def _limits(results: Result) -> list[str]:
    limits = results["limits"]
    lines = [
        f"Measured here: {limits['matmul_gflops']:.0f} GFlop/s for products of a 512 x 512 tile, "
        f"{limits['exp_gops']:.1f} G exponentials a second. Symmetric tiles need four products for "
        "half of the pairs (similarities twice, two gradients), that is 4 n^2 d operations, and "
        "two exponentials for half of the pairs.",
        "",
        _row("rows", "products at that rate, ms", "exponentials, ms", "measured, ms", "share"),
        _row("---", "---:", "---:", "---:", "---:"),
    ]
    for entry in results["measured"]:
        if entry["name"] == "tiled":
            n = entry["rows"]
            products = 4 * n * n * 128 / limits["matmul_gflops"] / 1e6
            exponentials = n * n / limits["exp_gops"] / 1e6
            time = min(entry["times"]) * 1e3
            share = (products + exponentials) / time
            cells = (f"{products:,.1f}", f"{exponentials:,.1f}", f"{time:,.1f}", f"{share:.0%}")
            lines.append(_row(f"{n:,}", *cells))
    return lines


def _ring(results: Result) -> list[str]:
    ring = results["ring"]
    one = _find(results["measured"], "tiled", ring["rows"])
    alone = ""
    if one:
        bound = one["temporaries_mib"] / ring["devices"] + 2 * ring["block_mib"]
        alone = (
            f" One device alone plans {one['temporaries_mib']:.1f} MiB; an even share of that and "
            f"two blocks are {bound:.1f} MiB."
        )
    return [
        f"{ring['rows']:,} rows on {ring['devices']} devices, value and gradient, compiled: "
        f"{ring['temporaries_mib']:.2f} MiB of temporaries a device; one block of rows is "
        f"{ring['block_mib']:.2f} MiB.{alone} Collectives in the program: "
        f"{', '.join(ring['collectives'])}. Each device sends {ring['moved_mib']:.1f} MiB, "
        f"where all rows together are {ring['all_rows_mib']:.1f} MiB.",
    ]
