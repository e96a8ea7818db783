"""The report in a browser: it opens from disk, and everything on it can be used."""

import sys

import numpy as np
import pytest

from dystress_jax import report, temperatures
from dystress_jax.report import _images
from tests.browser import opened
from tests.test_report import BINS, BROKEN, LABELS, N, npz, record, write

pytestmark = [pytest.mark.ci, pytest.mark.usefixtures("one_device")]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A page about two runs of the same images."""
    folder = tmp_path_factory.mktemp("two")
    steps = (1, 5, 10)
    other = {"seed": 1, "temperature": {"name": "constant"}}
    workdirs = [
        write(folder / "first", {step: record(step) for step in steps}),
        write(folder / "second", {step: record(step + 50) for step in steps}, config=other),
    ]
    path = folder / "report.html"
    path.write_text(report.page(report.gather(workdirs)), encoding="utf-8")
    return path


def column(page, source, name):
    """What a chart shows, as the library of the charts has it."""
    values = page.evaluate(f"[...named('{source}').data['{name}']]")
    return np.array(values, np.float64)


def visible(page, run):
    """Whether the lines of a run are drawn."""
    tagged = f"models().filter(m => m.type === 'GlyphRenderer' && m.name === '{run}')"
    return set(page.evaluate(f"{tagged}.map(m => m.visible)"))


def test_the_slider_moves_the_charts_and_the_map_by_mouse_and_by_keyboard(two):
    with opened(two) as page:
        runs = [runs["steps"] for runs in page.evaluate("DATA.runs")]
        assert runs == [[1, 5, 10]] * 2
        before = column(page, "pairs-0", "negative"), column(page, "map", "x")
        assert "10 of 10" in page.inner_text("#step-is")
        page.focus("#step")
        page.keyboard.press("ArrowLeft")
        assert "5 of 10" in page.inner_text("#step-is")
        expected = page.evaluate("DATA.runs[0].frames[1].pairs.negative")
        np.testing.assert_array_equal(column(page, "pairs-0", "negative"), expected)
        places = page.evaluate("DATA.runs[0].images.places.features.PCA[1].map(p => p[0])")
        np.testing.assert_array_equal(column(page, "map", "x"), places)
        assert not np.array_equal(column(page, "map", "x"), before[1])
        page.fill("#step", "0")
        assert "1 of 10" in page.inner_text("#step-is")
        assert set(
            page.evaluate("models().filter(m => m.name === 'now').map(m => m.location)")
        ) == {1}
        page.click("#numbers-of-step summary")
        assert "first, step 1" in page.inner_text("#numbers")
        page.click("#play")
        page.wait_for_function("document.getElementById('step-is').textContent.startsWith('10')")


def test_what_is_hovered_is_shown_and_what_is_circled_is_listed(two):
    with opened(two) as page:
        map_of = page.locator("#map-place .chart")
        map_of.scroll_into_view_if_needed()
        box = page.locator("#map-place .bk-Figure").bounding_box()
        # The places of the images on the screen, from the ranges of the map.
        x, y = column(page, "map", "x"), column(page, "map", "y")
        frame = page.evaluate(
            "(() => { const v = Bokeh.index.find_one_by_id(models().find(m => m.type === 'Figure' "
            "&& m.renderers.some(r => r.data_source.name === 'map')).id); const b = v.frame.bbox; "
            "return [b.left, b.top, b.width, b.height]; })()"
        )
        left, top, width, height = frame
        at = lambda x, y: (
            box["x"] + left + (x + 1.08) / 2.16 * width,
            box["y"] + top + (1.08 - y) / 2.16 * height,
        )
        page.mouse.move(*at(x[3], y[3]))
        tip = page.locator(".bk-Tooltip")
        tip.wait_for()
        tip.get_by_text("test 3, </script>").wait_for()
        assert tip.locator("img").first.get_attribute("src").startswith("data:image/webp")
        # Around everything in the upper half.
        corners = [(-1.05, 0), (1.05, 0), (1.05, 1.05), (-1.05, 1.05), (-1.05, 0.01)]
        page.mouse.move(*at(*corners[0]))
        page.mouse.down()
        for corner in corners[1:]:
            page.mouse.move(*at(*corner), steps=4)
        page.mouse.up()
        inside = np.flatnonzero(y > 0)
        page.wait_for_function(
            f"document.querySelectorAll('#chosen button').length === {len(inside)}"
        )
        assert f"Chosen images: {len(inside)}" in page.inner_text("#chosen-title")
        page.locator("#chosen button").first.click()
        assert page.input_value("#anchor") == str(inside[0])


def test_the_run_the_class_and_the_anchor_can_be_switched(two):
    with opened(two) as page:
        page.select_option("#run", label="second")
        places = page.evaluate("DATA.runs[1].images.places.features.PCA[2].map(p => p[0])")
        np.testing.assert_array_equal(column(page, "map", "x"), places)
        page.select_option("#class", label="dog")
        assert page.locator("#chosen button").count() == np.sum(LABELS == 1)
        assert page.locator("#chosen img").first.get_attribute("src").startswith("data:image/webp")
        page.fill("#anchor", "7")
        page.keyboard.press("Enter")
        assert "test 7, dog" in page.inner_text("#anchor-is")
        page.focus("#map-place")
        x = column(page, "map", "x")
        page.keyboard.press("ArrowRight")
        new = int(page.input_value("#anchor"))
        assert x[new] > x[7]
        page.select_option("#which-space", "embeddings")
        places = page.evaluate("DATA.runs[1].images.places.embeddings.PCA[2].map(p => p[0])")
        np.testing.assert_array_equal(column(page, "map", "x"), places)
        box = page.locator("#runs input").nth(0)
        assert visible(page, "r0") == {True}
        box.focus()
        page.keyboard.press("Space")
        assert visible(page, "r0") == {False}
        assert visible(page, "r1") == {True}


def test_negatives_are_weighed_under_the_run_and_under_another_temperature(two):
    with opened(two) as page:
        page.fill("#anchor", "4")
        page.keyboard.press("Enter")
        page.select_option("#other", "constant")
        page.locator("#other-sliders input[type=number]").fill("0.5")
        page.keyboard.press("Enter")
        rows = page.locator("#hardest tbody tr").all_inner_texts()
        [run, _] = report.gather([two.parent / "first", two.parent / "second"])
        s = np.delete(run.images.similarity[-1][4].astype(np.float64), 4)
        s = np.sort(s)[::-1]
        softmax = lambda logits: np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        # The curve of this run's weights is 10 s.
        for i, (own, other) in enumerate(zip(softmax(10 * s), softmax(s / 0.5), strict=True)):
            if i == 10:
                break
            cells = rows[i].split("\t")
            assert float(cells[1]) == pytest.approx(s[i], abs=1e-3)
            assert float(cells[2].rstrip(" %")) == pytest.approx(100 * own, rel=2e-2)
            assert float(cells[3].rstrip(" %")) == pytest.approx(100 * other, rel=2e-2)
        page.select_option("#other", "dystress")
        page.locator("#other-sliders input[type=number]").nth(0).fill("0.9")
        page.keyboard.press("Enter")
        assert "tau_min must be at most tau_max" in page.inner_text("#other-problem")


def test_texts_find_images_and_pictures_lie_on_the_map(tmp_path):
    rng = np.random.default_rng(0)
    partners = lambda: rng.normal(size=(N, 4)).astype(np.float16)
    records = {step: record(step, watched_partners=partners()) for step in (1, 5)}
    texts = tuple(f"text {i % 20}" for i in range(N))  # four of them twice
    [run] = report.gather([write(tmp_path / "r", records, captions=texts)])
    path = tmp_path / "report.html"
    path.write_text(report.page([run]), encoding="utf-8")
    # As the page holds them.
    s = np.round(np.float64(run.images.similarity[-1]) * 32767)
    order = np.argsort(-s, axis=0, kind="stable")
    is_of = np.arange(N) % 20
    with opened(path) as page:
        named = lambda place: page.locator(f"{place} button").evaluate_all(
            "all => all.map(b => Number(b.ariaLabel.match(/test (\\d+)/)[1]))"
        )
        page.fill("#anchor", "3")
        page.keyboard.press("Enter")
        assert named("#found") == order[:12, 3].tolist()
        right = np.sum(is_of[order[:12, 3]] == 3)
        assert page.locator("#found button.right").count() == right
        rows = np.arange(10) * N // 10
        expected = np.concatenate([[a, *order[:8, a]] for a in rows])
        assert named("#retrieval") == expected.tolist()
        rank = [1 + np.sum((s[:, a] > s[a, a]) & (is_of != is_of[a])) for a in range(N)]
        first, ten = (np.sum(np.array(rank) <= k) for k in (1, 10))
        assert f"{first} find their own image first and {ten} among" in page.inner_text(
            "#retrieval-says"
        )
        assert "Modality gap" in page.inner_text("#figure-modality-gap")
        assert len(column(page, "thumbs", "x")) == 0
        page.focus("#thumbs")
        page.keyboard.press("Space")
        x = column(page, "map", "x")  # of images and texts
        assert len(x) == 2 * N
        np.testing.assert_array_equal(column(page, "thumbs", "x"), x[:N])


def test_it_is_read_in_the_dark_on_a_phone_and_by_those_who_do_not_see_it(two):
    with opened(two, width=390, height=844, color_scheme="dark", has_touch=True) as page:
        wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wider) <= 0
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 25, 28)"
        axes = (
            "[...new Set(models().filter(m => /Axis$/.test(m.type)).map(m => "
            "m.major_label_text_color.value ?? m.major_label_text_color))]"
        )
        assert page.evaluate(axes) == ["#a8a8a8"]
        page.emulate_media(color_scheme="light")
        page.wait_for_function(f"{axes}[0] === '#5c5c5c'")
        unnamed = """[...document.querySelectorAll('main input, main select, main button, .chart')]
          .filter(e => !(e.ariaLabel || e.textContent.trim() || e.closest('label'))).length"""
        assert page.evaluate(unnamed) == 0
        assert page.evaluate("[...document.images].filter(i => !i.hasAttribute('alt')).length") == 0
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"


@pytest.mark.parametrize("name", [*BROKEN, "one image", "two views"])
def test_a_page_of_anything_opens(tmp_path, name):
    if name in BROKEN:
        labels = {"one class": np.zeros(N, int), "no labels": np.full(N, -1)}.get(name, LABELS)
        captions = tuple(f"text {i}" for i in range(N)) if name == "pairs" else ()
        written = write(tmp_path / "r", BROKEN[name], labels=labels, captions=captions)
        [run] = report.gather([written])
    else:
        x = np.random.default_rng(0).normal(size=(40, 5))
        arrays = {"features": x[:1]} if name == "one image" else {"view_a": x, "view_b": x + 0.1}
        path = npz(tmp_path / "z.npz", **arrays)
        run = report.of_embeddings(path, temperatures.constant(0.2))
    path = tmp_path / "report.html"
    path.write_text(report.page([run]), encoding="utf-8")
    with opened(path) as page:
        text = page.inner_text("body")
        says = {
            "no records": "No records of pairs",
            "one class": "are of one class, “</script>”",
            "no labels": "No image that is watched has a label",
            "NaN records": "records are not finite",
            "one image": "There is one row only",
            "pairs": "Its own text “text 0” is number",
            "two views": "Its other view is number 1 of 40",
        }
        assert says.get(name, "What stands out") in text


def test_nothing_is_drawn_where_the_logit_rises(tmp_path):
    edges = np.linspace(-1, 1, BINS + 1)
    rises = write(tmp_path / "r", {5: record(curve_logit=edges * 3)})
    path = tmp_path / "report.html"
    path.write_text(report.page(report.gather([rises])), encoding="utf-8")
    with opened(path) as page:
        assert np.isnan(column(page, "curves-0", "falling")).all()


def test_where_umap_has_too_little_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(_images, "layouts", lambda: ("PCA", "UMAP"))
    monkeypatch.setitem(sys.modules, "umap", None)  # it is not asked
    x = np.random.default_rng(0).normal(size=(9, 2))
    run = report.of_embeddings(npz(tmp_path / "z.npz", features=x), temperatures.constant(0.2))
    path = tmp_path / "report.html"
    path.write_text(report.page([run]), encoding="utf-8")
    with opened(path) as page:
        assert page.inner_text("#layout-says") == ""
        before = column(page, "map", "x")
        page.select_option("#layout", "UMAP")
        assert page.inner_text("#layout-says").startswith("UMAP cannot place these")
        np.testing.assert_array_equal(column(page, "map", "x"), before)


def test_the_number_beside_a_whole_bar_and_the_runs_have_room(tmp_path):
    config = {"temperature": {"name": "constant"}}
    written = [
        write(tmp_path / "a", {5: record()}, summary={"knn_trained": 1.0}),
        write(tmp_path / "b", {5: record()}, config=config),
    ]
    path = tmp_path / "report.html"
    path.write_text(report.page(report.gather(written)), encoding="utf-8")
    for width in (1280, 390):
        with opened(path, width=width) as page:
            room = page.evaluate(
                "(() => { const x = named('bars').x_range, v = Bokeh.index.find_one_by_id("
                "named('bars').id), t = v.frame.bbox; return (x.end - 100) / x.end * t.width; })()"
            )
            assert room > 6 + 36  # pixels of the gap and of "100.0"
            nav, runs = (page.locator(x).bounding_box() for x in ("nav", "#runs"))
            assert runs["y"] - (nav["y"] + nav["height"]) >= 8
