"""The page of a report, in one file that loads nothing."""

import base64
import io
import pathlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from bokeh.document import Document
from bokeh.embed import components
from bokeh.resources import Resources
from PIL import Image

from .. import explorer
from ..errors import a_few
from ..microscope import unit_of
from ..run_files import NEIGHBOURS
from . import _accuracies, _charts, _curves, _images, _map, _pairs, _tables
from ._charts import Chart
from ._comparisons import compare
from ._groups import AT_MOST, Group, groups_of, one_by_one, settings_that_differ
from ._overview import Overview, legend, overview
from ._run import Run, told_apart
from ._sentences import Sentence, stand_out
from ._tables import safe

HERE = pathlib.Path(__file__).parent
SHOWN = "Test images and their nearest training images, by the encoder and by pixels"
IN_TITLE = 3  # runs, or groups of seeds, that are named
LARGEST_PICTURE = 1_000_000  # bytes
LONGEST_SIDE = 4096  # pixels, of a picture that is reduced


def page(runs: Sequence[Run]) -> str:
    """A self-contained HTML page about runs.

    Args:
        runs: of `gather` or `of_embeddings`, at least one.

    Returns:
        The page. It asks for nothing when it is opened, and forbids itself to.

    Example:
        >>> from dystress_jax import report
        >>> written = report.page(report.gather(["runs/quickstart"]))
        >>> "quickstart" in written
        True
    """
    runs = told_apart(runs)
    few = one_by_one(runs)
    shown = [runs[i] for i in few]
    alone = [run if i in few else run._replace(images=None) for i, run in enumerate(runs)]
    frames = [_pairs.frames(run) if i in few else [] for i, run in enumerate(runs)]
    images = _images.of_images(alone)
    found = overview(runs)
    groups = {
        "settings": _accuracies.over_setting(runs, found),
        "learned": [
            x for x in (_accuracies.baselines(runs), *_curves.curves(runs)) if x is not None
        ],
        "temperature": _pairs.of_temperature(runs, frames),
        "over-time": _curves.over_time(runs),
        "space": [_map.map_of_images()] if any(images) else [],
        "gap": [x for x in (_curves.modality_gap(alone),) if x is not None],
    }
    drawn = {chart.name: chart for group in groups.values() for chart in group}
    script, places = _components(drawn)
    figures = {
        name: "".join(_figure(chart, places[chart.name]) for chart in group)
        for name, group in groups.items()
    }
    data = {
        "curves": explorer.curves(),
        "colours": _charts.COLOURS,
        "in_the_dark": dict(zip(_charts.COLOURS, _charts.IN_THE_DARK, strict=True)),
        "markers": _charts.MARKERS,
        "runs": [_of_run(*one) for one in zip(runs, frames, images, strict=True)],
    }
    beside = _overview(found, figures["settings"])
    filled = {
        "TITLE": safe(_title(runs)),
        "STYLE": _read("style.css"),
        "HEAD": _head(runs, len(few)),
        "OUT": _standing_out(runs, shown),
        "OVERVIEW": beside,
        "TO_OVERVIEW": '<a href="#beside">Settings beside each other</a> ' if beside else "",
        "LEARNED": figures["learned"] or _none("No curves and no baselines have been recorded."),
        "TEMPERATURE": figures["temperature"],
        "UNKNOWN": "".join(map(_none, [*_unknown(drawn), *_own_units(runs)])),
        "OVER": figures["over-time"],
        "SPACE": figures["space"],
        "NO_SPACE": "" if any(images) else _none("No images have been recorded to be drawn."),
        "PICTURES": figures["gap"] + "".join(map(_neighbours, shown)),
        "GOOD": _good(runs, shown),
        "WHAT": _what(runs, shown),
        "BOKEH": Resources(mode="inline", components=["bokeh"]).render_js(),
        "CHARTS": script,
        "SCRIPT": _read("page.js").replace("/*CURVES*/", explorer.SCRIPT),
        "DATA": explorer.as_script(data),
    }
    parts = _read("page.html").split("{{")
    whole = [parts[0]]
    for part in parts[1:]:
        name, _, rest = part.partition("}}")
        whole += [filled[name], rest]
    return "".join(whole)


def _own_units(runs: Sequence[Run]) -> Iterator[str]:
    """Of which runs a similarity is no cosine, though it is drawn like one."""
    units: dict[tuple[float, float], list[str]] = {}
    for run in runs:
        units.setdefault(unit_of(run.records), []).append(run.name)
    for (a, b), names in units.items():
        if (a, b) != (1.0, 0.0):
            yield (
                f"{', '.join(names)}: similarities from {b - a:.3g} to {b + a:.3g} are drawn from "
                "-1 to 1, as the temperature sees them. The logit is the similarity itself over τ, "
                f"not s / τ(s): it has {a:.3g} s{f' {b:+.3g}' if b else ''} in place of s."
            )


def _unknown(drawn: Collection[str]) -> Iterator[str]:
    """What is not drawn of the temperature, and why."""
    if "similarities" not in drawn:
        yield (
            "No records of pairs: the microscope was off, the files are not there, or they hold no "
            "finite number."
        )
        return
    if "logits" not in drawn:
        yield (
            "No curve of a temperature: the method has none, or the records are of an earlier "
            "version."
        )
    if "gradients" not in drawn:
        yield "No gradient on negatives: the method has no negatives, or no temperature."


def _components(drawn: dict[str, Chart]) -> tuple[str, dict[str, str]]:
    """The script that draws all charts, and the place of each."""
    if not drawn:
        return "", {}
    document = Document()
    for chart in drawn.values():
        document.add_root(chart.figure)
    script, places = components({name: chart.figure for name, chart in drawn.items()})
    return script, places


def _figure(chart: Chart, place: str) -> str:
    keys = "".join(
        f'<li><span class="key {key.dash}" data-ink="{key.colour}"></span>{safe(key.label)}</li>'
        for key in chart.keys
    )
    title, about = safe(chart.title), safe(chart.about)
    place_of = ' class="whole-row"' if chart.is_wide else ""
    return (
        f'<figure id="figure-{chart.name}"{place_of}><figcaption>{title}</figcaption>'
        f'<div class="chart" role="img" aria-label="{title}. {about}">{place}</div>'
        f'<ul class="keys">{keys}</ul></figure>'
    )


def _of_run(run: Run, frames: list[Any], images: dict[str, Any] | None) -> dict[str, Any]:
    """What the script of the page knows of a run."""
    records, steps, scalars = run.records, [], {}
    if records is not None and frames:
        steps = records.steps.tolist()
        for name, array in records.arrays.items():
            if array.axes == ("step",):
                scalars[name] = [float(f"{x:.5g}") if abs(x) < 1e30 else None for x in array.values]
    return {
        "name": run.name,
        "temperature": str(run.config.get("temperature.name", "constant")),
        "steps": steps,
        "frames": frames,
        "scalars": scalars,
        "images": images,
    }


def _title(runs: Sequence[Run]) -> str:
    """The names of a few runs, or of groups of seeds; of many what they differ in."""
    groups = groups_of(runs)
    if len(groups) <= IN_TITLE:
        return "; ".join(group.name for group in groups)
    over = a_few([*settings_that_differ(runs)] or ["seed"])
    return f"{len(runs)} runs over {over}"


def _head(runs: Sequence[Run], shown: int) -> str:
    missing = "".join(
        f"<li><strong>{safe(run.name)}</strong>: {safe(text)}</li>"
        for run in runs
        for text in run.missing
    )
    told = f'<ul class="missing" role="note">{missing}</ul>' if missing else ""
    # A switch for each run, or for all seeds of a setting where there are many.
    groups = groups_of(runs)
    if shown == len(runs):
        groups = [Group(run.name, (i,), (run,)) for i, run in enumerate(runs)]
    inks = _charts.inks(runs)
    switches = "".join(_switch(group, inks[group.runs[0]][0]) for group in groups)
    if shown < len(runs):
        switches += _none(
            f"Pairs, images and classes are shown of {shown} of the {len(runs)} runs: of the first "
            f"seed of each setting, of {AT_MOST} settings at most. Name fewer runs to see others."
        )
    chosen = f'<fieldset id="runs"><legend>Runs in the charts</legend>{switches}</fieldset>'
    return told + (chosen if len(runs) > 1 else "")


def _switch(group: Group, colour: str) -> str:
    """What shows and hides the lines of runs."""
    return (
        f'<label class="run"><input type="checkbox" checked '
        f'data-run="{" ".join(map(str, group.runs))}">'
        f'<span class="key solid" data-ink="{colour}"></span>'
        f"<span>{safe(group.name)}</span></label>"
    )


def _overview(found: Overview, figures: str) -> str:
    """The accuracies of several settings, or of several seeds, beside each other."""
    if not found.measures or sum(row.seeds for row in found.rows) < 2:
        return ""
    charts = f'<div class="charts">{figures}</div>' if figures else ""
    return (
        '<section aria-labelledby="beside"><h2 id="beside">Settings beside each other</h2>'
        f"<p>{safe(legend(found))}</p>{_tables.overview(found)}{charts}</section>"
    )


def _standing_out(runs: Sequence[Run], shown: Sequence[Run]) -> str:
    said = [("Between the runs", compare(runs)), *((run.name, stand_out(run)) for run in shown)]
    parts = []
    for name, found in said:
        items = "".join(map(_sentence, found))
        title = f"<h3>{safe(name)}</h3>" if len(runs) > 1 else ""
        parts.append(f"{title}<ul>{items}</ul>" if found else "")
    return "".join(parts) or _none("Nothing does, by the rules of this page.")


def _sentence(said: Sentence) -> str:
    follows = f" To find out more: <code>{safe(said.next)}</code>" if said.next else ""
    return f"<li>{safe(said.text)} <span class=rule>Rule: {safe(said.rule)}.{follows}</span></li>"


def _good(runs: Sequence[Run], shown: Sequence[Run]) -> str:
    if not any(run.evaluations for run in runs):
        return _none("Nothing has been measured yet: dystress eval --workdir=DIR measures a run.")
    confusions = "".join(map(_tables.confusions, shown))
    if not confusions:
        confusions = _none("No evaluation has said which classes are taken for which.")
    return _tables.evaluations(runs) + _tables.per_class(shown) + confusions


def _what(runs: Sequence[Run], shown: Sequence[Run]) -> str:
    known = [run for run in shown if run.config]
    parts = [_tables.differences(known)] if len(known) > 1 else []
    parts.append(_tables.environment(shown))
    parts += map(_tables.settings, known)
    return "".join(parts)


def _neighbours(run: Run) -> str:
    """The picture of neighbours that a run has drawn itself."""
    path = pathlib.Path(run.place) / f"{NEIGHBOURS}.png"
    if not path.is_file():
        return ""
    try:
        kind, content = _small_enough(path)
    except OSError as error:
        return _none(f"{run.name}: {NEIGHBOURS}.png cannot be shown ({error}).")
    return (
        f'<figure><figcaption>{safe(run.name)}: {SHOWN}</figcaption><img class="wide" '
        f'src="data:image/{kind};base64,{base64.b64encode(content).decode()}" '
        f'alt="{SHOWN}"></figure>'
    )


def _small_enough(path: pathlib.Path) -> tuple[str, bytes]:
    """A picture as the page holds it: as it is, or as WebP, reduced until it is small enough."""
    if path.stat().st_size <= LARGEST_PICTURE:
        return "png", path.read_bytes()
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    while True:
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        file = io.BytesIO()
        picture.save(file, format="WEBP", quality=80)
        if file.tell() <= LARGEST_PICTURE:
            return "webp", file.getvalue()
        picture = picture.reduce(2)


def _none(text: str) -> str:
    return f'<p class="none">{safe(text)}</p>'


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
