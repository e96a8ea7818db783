"""Take the pictures of reports: python docs/take_pictures.py RUN SWEEP (extra `dev`, and Chromium).

RUN is a first run, `runs/quickstart`. The pages show its report, and README two charts of it beside
some of its nearest neighbours. SWEEP are the runs of the page of sweeps, whose table is shown.
"""

import io
import pathlib
import sys
import tempfile

from PIL import Image, ImageDraw

from dystress_jax import report
from dystress_jax.evaluation.neighbour_grid import CELL, FRAME, GAP, HEAD, MARGIN, NAME

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from tests.browser import opened

IMAGES = pathlib.Path(__file__).parent / "images"
WIDTH = 780  # of a README
ROWS = (1, 3, 5, 7, 9)  # of the picture of neighbours: every second photograph


def of_a_sweep(runs: pathlib.Path) -> None:
    """Writes sweep.png."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "report.html")
        path.write_text(report.page(report.gather([runs])), encoding="utf-8")
        with opened(path, width=1180, height=1000) as page:
            part = page.locator("section[aria-labelledby=beside]")
            _save("sweep", Image.open(io.BytesIO(part.screenshot())).convert("RGB"))


def of_a_run(run: pathlib.Path) -> None:
    """Writes report.png, report-temperature.png and first-run.png."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "report.html")
        path.write_text(report.page(report.gather([run])), encoding="utf-8")
        with opened(path, width=1212, height=1000) as page:
            page.select_option("#class", label="brick")
            whole = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
            scroll = page.evaluate("scrollY")
            at = lambda chosen: _corners(page.locator(chosen).first.bounding_box(), scroll)
            first, last = at("#temperature"), at("#figure-map")
            charts = [at(f"#figure-{name}") for name in ("similarities", "gradients")]
            middle = at("#figure-over-effective")
    left, right = 4, whole.width - 4
    _save("report", whole.crop((left, first[1] - 10, right, last[3] + 10)))
    _save("report-temperature", whole.crop((left, first[1] - 10, right, middle[1] - 50)))
    pieces = [whole.crop(corners) for corners in charts]
    with Image.open(run / "neighbours.png") as picture:
        pieces.append(_neighbours(picture.convert("RGB"), pieces[0].height))
    joined = Image.new(
        "RGB", (sum(p.width for p in pieces) + 2 * MARGIN, pieces[0].height), "white"
    )
    place = 0
    for piece in pieces:
        joined.paste(piece, (place, 0))
        place += piece.width + MARGIN
    _save(
        "first-run",
        joined.resize(
            (WIDTH, round(WIDTH * joined.height / joined.width)), Image.Resampling.LANCZOS
        ),
    )


def _corners(box, scroll):
    x, y = round(box["x"]), round(box["y"] + scroll)
    return x, y, x + round(box["width"]), y + round(box["height"])


def _neighbours(picture: Image.Image, height: int) -> Image.Image:
    """Some rows of the picture: the name, the image, and the three nearest by the encoder."""
    step = CELL + GAP
    width = MARGIN + NAME + CELL + 2 * MARGIN + 3 * step - GAP + FRAME
    cut = Image.new("RGB", (width, HEAD + len(ROWS) * step), "white")
    draw = ImageDraw.Draw(cut)
    draw.text((MARGIN + NAME, HEAD - 24), "image", fill="black", font_size=14)
    draw.text(
        (MARGIN + NAME + CELL + 2 * MARGIN, HEAD - 24),
        "nearest by the encoder",
        fill="black",
        font_size=14,
    )
    for place, row in enumerate(ROWS):
        top = HEAD + row * step - FRAME
        cut.paste(picture.crop((0, top, width, top + step)), (0, HEAD + place * step - FRAME))
    return cut.resize((round(width * height / cut.height), height), Image.Resampling.LANCZOS)


def _save(name: str, picture: Image.Image) -> None:
    picture.save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    of_a_run(pathlib.Path(sys.argv[1]))
    of_a_sweep(pathlib.Path(sys.argv[2]))
