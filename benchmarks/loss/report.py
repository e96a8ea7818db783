"""Tables and the plot of the loss benchmark."""

import itertools
import pathlib
import statistics
from collections.abc import Callable, Iterable

Result = dict

# The size that the targets are about; our name, the other's name, how many times slower it is.
ROWS = 8192
SPEED = [
    ("tiled", "torch compile", 5),
    ("tiled", "torch eager", 9),
    ("tiled", "dense", 3),
    ("tiled, through tau", "torch compile, through tau", 2),
    ("tiled, through tau", "dense, through tau", 2),
]
OTHERS = [
    ("tiled, constant", "dense, constant"),
    ("tiled, InfoNCE", "torch linear_cross_entropy, InfoNCE"),
    ("tiled, constant", "lightly NTXentLoss"),
    ("tiled, constant", "pytorch-metric-learning NTXentLoss"),
    ("tiled, constant", "optax ntxent"),
]

BEFORE = ", before"  # after the name of one of our losses, as another version has it

# Read in their documentation and code, in November 2026.
EXPRESSED = [
    "We know of no other library that combines a temperature of each pair, the anchor's own row "
    "left out (NT-Xent), a queue, and learned or per-sample temperatures in one loss of linear "
    "memory. Parts of it others have:",
    "",
    "| | memory | tau(s) | own row left out | queue | temperature |",
    "| --- | --- | --- | --- | --- | --- |",
    "| dystress_jax | linear | yes | yes | yes | any, learned too |",
    "| torch `linear_cross_entropy` with `LinearCrossEntropyOptions` (2.13) | linear, in chunks "
    "of rows | no | no | as more classes | outside: constant, of each row, learned |",
    "| memeff 0.3.1 | linear, fused, CUDA | no | no | no | a constant |",
    "| Inf-CL | linear, fused, CUDA | no | no | | one number, or one of each row |",
    "| TeMo's code | | yes | | | of each pair |",
    "| lightly NTXentLoss | whole matrix | no | yes | yes | a constant |",
    "| optax ntxent | whole matrix | no | yes | no | a constant |",
    "",
    "Where a cell is empty we do not know. At a constant temperature torch's chunks are faster "
    "than our tiles from 8,192 rows on: they return the mean alone, so they take its gradient in "
    "the forward pass, with three products. Ours return the loss of each row, whose weights in the "
    "mean are not known then: four products. The chunks of torch have neither forward mode nor "
    "`torch.compile`. Its FlexAttention can express tau(s) and returns a differentiable "
    "log-sum-exp; we know of nobody who uses it so.",
]


def markdown(results: Result) -> str:
    """Returns the report: milliseconds, memory, ratios, targets, the limits of the machine."""
    measured = results["measured"]
    sizes = sorted({entry["rows"] for entry in measured})
    found = dict.fromkeys(entry["name"] for entry in measured)
    names = [name for name in found if not name.endswith(BEFORE)]
    find = lambda name, rows: next(
        (e for e in measured if e["name"] == name and e["rows"] == rows), None
    )
    head = [_row("rows", *map("{:,}".format, sizes)), _row("---", *["---:"] * len(sizes))]

    def table(cell: Callable[[Result], str], among: Iterable[str] = names) -> list[str]:
        cells = {name: [find(name, rows) for rows in sizes] for name in among}
        return head + [_row(n, *[cell(e) if e else "" for e in row]) for n, row in cells.items()]

    with_memory = [n for n in names if any("temporaries_mib" in (find(n, r) or {}) for r in sizes)]
    sections = {
        "Milliseconds, best (median)": table(
            lambda e: f"{_best(e) * 1e3:,.1f} ({statistics.median(e['times']) * 1e3:,.1f})"
        ),
        "MiB of temporaries that XLA plans": table(
            lambda e: f"{e['temporaries_mib']:,.1f}", with_memory
        ),
        "Ratios of the best times": [
            head[0].replace("rows", "slower / faster"),
            head[1],
            *_ratios(find, sizes),
        ],
        f"Targets, at {ROWS:,} rows": _targets(find, sizes, results),
        **_versions(find, sizes, names, results.get("before"), head),
        "Where the time goes": _limits(find, results),
        "The ring on simulated devices": _ring(find, results["ring"]),
        "What the others cannot express": EXPRESSED,
    }
    lines = [
        "# Speed and memory of the loss",
        "",
        f"Made by `{results['command']}` on {results['machine']}; load average before "
        f"{results['load_before'][0]:.1f}, at the end {results['load_average'][0]:.1f} (the "
        "benchmark itself keeps both cores busy). "
        + ", ".join(sorted({entry["version"] for entry in measured}))
        + ". Value and gradient of the mean loss, rows of length 128, float32; the dynamic "
        "temperature from 0.1 to 0.2 unless a name says constant (0.1). One process per "
        "competitor, those of one size one after another. Every single time is in "
        "[loss.json](loss.json).",
        "",
        "![Time and temporaries over the number of rows](loss.png)",
    ]
    for title, body in sections.items():
        lines += ["", f"## {title}", "", *body]
    return "\n".join(lines) + "\n"


def plot(results: Result, path: pathlib.Path) -> None:
    """Draws time and temporaries over the number of rows."""
    import matplotlib.pyplot as plt

    colors = {
        "tiled": "tab:red",
        "dense": "tab:orange",
        "torch compile": "tab:blue",
        "torch eager": "tab:cyan",
        "lightly NTXentLoss": "tab:green",
        "pytorch-metric-learning NTXentLoss": "tab:olive",
        "optax ntxent": "tab:purple",
    }
    figure, (time, memory) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for name, color in colors.items():
        entries = [entry for entry in results["measured"] if entry["name"] == name]
        style = {"color": color, "lw": 2.5 if name == "tiled" else 1.5, "ms": 4, "label": name}
        rows = [entry["rows"] for entry in entries]
        time.plot(rows, [_best(entry) for entry in entries], "o-", **style)
        if entries and "temporaries_mib" in entries[0]:
            memory.plot(rows, [e["temporaries_mib"] for e in entries], "o-", **style)
    for axes, title in ((time, "seconds, value and gradient"), (memory, "MiB of temporaries")):
        axes.set(xlabel="rows", title=title, yscale="log")
        axes.set_xscale("log", base=2)
        ticks = sorted({entry["rows"] for entry in results["measured"]})
        axes.set_xticks(ticks, [f"{n // 1024}k" if n >= 1024 else str(n) for n in ticks])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _best(entry: Result) -> float:
    return min(entry["times"])


def _ratios(find: Callable, sizes: list[int]) -> list[str]:
    lines = []
    for fast, slow in [*((a, b) for a, b, _ in SPEED), *OTHERS]:
        found = [(find(slow, rows), find(fast, rows)) for rows in sizes]
        if any(a and b for a, b in found):
            cells = [f"{_best(a) / _best(b):.2f}" if a and b else "" for a, b in found]
            lines.append(_row(f"{slow} / {fast}", *cells))
    tiled = [find("tiled", rows) for rows in sizes]
    growth = [f"{_best(b) / _best(a):.2f}" if a and b else "" for a, b in itertools.pairwise(tiled)]
    return [*lines, _row("tiled / tiled at half the rows", "", *growth)]


def _versions(
    find: Callable, sizes: list[int], names: list[str], before: str | None, head: list[str]
) -> dict[str, list[str]]:
    """A section with the ratio of this version's times to those of an earlier one."""
    lines = []
    for name in names:
        pairs = [(find(name, rows), find(name + BEFORE, rows)) for rows in sizes]
        if any(old for _, old in pairs):
            cells = [f"{_best(new) / _best(old):.2f}" if new and old else "" for new, old in pairs]
            lines.append(_row(name, *cells))
    if not lines:
        return {}
    said = (
        "The best time of this version over that of the other one; below 1: this one is faster. "
        "Below 2,048 rows two processes of one and the same program differ by up to a fifth."
    )
    return {f"Beside the version of commit {before}": [said, "", *head, *lines]}


def _targets(find: Callable, sizes: list[int], results: Result) -> list[str]:
    lines = [_row("", "target", "found", ""), _row("---", "---:", "---:", "---")]
    verdict = lambda good: "reached" if good else "**missed**"
    for fast, slow, target in SPEED:
        ours, theirs = find(fast, ROWS), find(slow, ROWS)
        if ours and theirs:
            ratio = _best(theirs) / _best(ours)
            note = verdict(ratio >= target)
            if ratio < target:
                allowed = _best(theirs) * 1e3 / target
                needed = sum(_parts(ROWS, results["limits"])[:3])
                note += f": would take {allowed:.0f} ms; products and weights alone {needed:.0f} ms"
            lines.append(_row(f"{slow} / {fast}", f">= {target}", f"{ratio:.2f}", note))
    for rows, target in ((ROWS, 32), (65536, 300)):
        if entry := find("tiled", rows):
            found = entry["temporaries_mib"]
            name = f"MiB of temporaries, tiled, {rows:,} rows"
            lines.append(_row(name, f"<= {target}", f"{found:.1f}", verdict(found <= target)))
    pairs = [(find("tiled", a), find("tiled", b)) for a, b in itertools.pairwise(sizes)]
    growth = [_best(b) / _best(a) for a, b in pairs if a and b and b["rows"] == 2 * a["rows"]]
    if growth:
        found = verdict(max(growth) <= 4.4)
        lines.append(
            _row("time of tiled for twice the rows, worst", "<= 4.4", f"{max(growth):.2f}", found)
        )
    at_1024 = {name: find(name, 1024) for name in ("tiled", "auto", "dense")}
    if all(at_1024.values()):
        tiled, auto, dense = map(_best, at_1024.values())
        found = verdict(tiled <= dense)
        lines.append(
            _row("time of tiled / dense, 1,024 rows", "<= 1", f"{tiled / dense:.2f}", found)
        )
        # What differs is the noise of the measurement.
        note = "the same program: auto is dense there"
        lines.append(_row("time of auto / dense, 1,024 rows", "<= 1", f"{auto / dense:.2f}", note))
    return lines


def _parts(rows: int, limits: Result) -> tuple[float, float, float, float]:
    """Milliseconds of products, exponentials, the rest of the weights; and of half the diagonal.

    Those of the half of the pairs that symmetric tiles need, at the measured rates.
    """
    products = 4 * rows * rows * 128 / limits["matmul_gflops"] / 1e6
    exponentials = rows * rows / limits["exp_gops"] / 1e6
    others = rows * rows / limits["weight_gops"] / 1e6 - exponentials
    diagonal = (products + exponentials + others) / -(-rows // limits["tile"])
    return products, exponentials, others, diagonal


def _limits(find: Callable, results: Result) -> list[str]:
    limits = results["limits"]
    lines = [
        f"Measured here, both cores, on tiles of {limits['tile']} x {limits['tile']} in a loop: "
        f"{limits['matmul_gflops']:.0f} GFlop/s for the products, {limits['exp_gops']:.1f} G "
        f"exponentials and {limits['weight_gops']:.1f} G complete weights exp(s / tau(s)) a "
        "second. Symmetric tiles need four products for half of the pairs (the similarities "
        "twice, two gradients), that is 4 n^2 d operations, and the weight of half of the pairs "
        "twice. Tiles on the diagonal compute both halves of their pairs. The rest is the sums, "
        "the derivative beside the weight, slices and updates of the rows, and the two cores "
        "waiting for each other between the operations.",
        "",
        *([_torch_products(find, results["torch_limits"])] if results["torch_limits"] else []),
        "",
        _row("rows", "products, ms", "exp", "tau and quotient", "diagonal", "rest", "measured")
        + " products and exp |",
        _row(*["---:"] * 8),
    ]
    for entry in results["measured"]:
        if entry["name"] == "tiled":
            parts, time = _parts(entry["rows"], limits), _best(entry) * 1e3
            numbers = [f"{x:,.1f}" for x in (*parts, time - sum(parts), time)]
            lines.append(_row(f"{entry['rows']:,}", *numbers, f"{sum(parts[:2]) / time:.0%}"))
    low, constant = find("tiled, constant 0.01", ROWS), find("tiled, constant", ROWS)
    if low and constant:
        lines += [
            "",
            "At a constant temperature of 0.01 a pass over half of the tiles finds the largest "
            "logit of each row, and the weights are no longer symmetric: "
            f"{_best(low) / _best(constant):.2f} times the time of 0.1.",
        ]
    return lines


def _torch_products(find: Callable, limits: Result) -> str:
    text = f"The same products in torch: {limits['matmul_gflops']:.0f} GFlop/s."
    if entry := find("torch compile", ROWS):
        products = 6 * ROWS * ROWS * 128 / limits["matmul_gflops"] / 1e6
        text += (
            f" The dense formula needs 6 n^2 d operations, at {ROWS:,} rows {products:.0f} ms at "
            f"that rate, of the {_best(entry) * 1e3:.0f} ms of torch compile."
        )
    return text


def _ring(find: Callable, ring: Result) -> list[str]:
    one = find("tiled", ring["rows"])
    alone = ""
    if one:
        bound = one["temporaries_mib"] / ring["devices"] + 2 * ring["block_mib"]
        alone = (
            f" One device alone plans {one['temporaries_mib']:.1f} MiB; an even share of that and "
            f"two blocks, the bound, are {bound:.1f} MiB: "
            + ("kept." if ring["temporaries_mib"] <= bound else "**exceeded**.")
        )
    return [
        f"{ring['rows']:,} rows on {ring['devices']} devices, value and gradient, compiled: "
        f"{ring['temporaries_mib']:.1f} MiB of temporaries a device; one block of rows is "
        f"{ring['block_mib']:.2f} MiB.{alone} Collectives in the program: "
        f"{', '.join(ring['collectives'])}. Each device sends {ring['moved_mib']:.1f} MiB; the "
        "bound is the rows once around in the forward pass, and in the backward pass the rows and "
        f"their gradients once, 3 n d numbers or {3 * ring['all_rows_mib']:.1f} MiB.",
    ]
