"""The page of every temperature: its curves are those of the library."""

import ast
import functools
import json
import math
import pathlib
import re
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dystress_jax import commands, explorer, microscope, schemes, similarities, temperatures
from dystress_jax.explorer import CURVES, FUNCTIONS
from dystress_jax.files import FileError
from dystress_jax.run import networks
from dystress_jax.run.temperature import TEMPERATURES
from tests import steps
from tests.browser import executable, opened
from tests.test_methods import SOURCE, pixels, settings
from tests.test_report import record, write

S = np.linspace(-1, 1, 200)
NUMPY = {name: getattr(np, name) for name in FUNCTIONS if hasattr(np, name)}
NUMPY |= {"atanh": np.arctanh, "max": np.maximum, "min": np.minimum, "pi": np.pi}


def values_of(curve, which):
    """The defaults of a curve, or numbers of the inside of its sliders."""
    if which == "default":
        return {p.name: p.default for p in curve.parameters}
    inside = {p.name: round(p.low + 0.2 * (p.high - p.low), 4) for p in curve.parameters}
    if "tau_max" in inside:
        inside["tau_max"] = round(inside["tau_min"] * 3, 4)
    return inside


def evaluate(curve, formula, values, s):
    """A formula of the page, by NumPy; it is valid Python too."""
    names = {"__builtins__": {}, **NUMPY, **values, "s": s}
    for name, helper in curve.helpers:
        names[name] = eval(helper, names)
    return np.broadcast_to(eval(formula, names), np.shape(s))


def filled(curve, pattern, values, stop):
    """As the page fills in the numbers."""

    def fill(found):
        if found[1] == "stop_gradient":
            return str(stop)
        return f"{float(evaluate(curve, found[1], values, 0.0)):.6g}"

    return re.sub(r"\{([^}]+)\}", fill, pattern)


def made_by(code):
    return eval(code, {"temperatures": temperatures, "math": math, "jnp": jnp, "n": len(S)})


def curves_of(temperature):
    """tau and the slope of the logit in the gradient, by the library."""
    part = temperature.for_negatives
    s = jnp.float32(S)
    slope = jax.jvp(lambda s: s / part(s), (s,), (jnp.ones_like(s),))[1]
    return np.float64(part(s)), np.float64(slope)


def test_every_temperature_of_the_library_has_a_curve():
    made_by = {name for name in temperatures.__all__ if name.islower()}  # the others are classes
    assert set(CURVES) == made_by - {"as_temperature"}


def test_every_temperature_of_a_run_has_a_curve_or_is_named_as_a_constant():
    assert set(TEMPERATURES) - set(CURVES) == set(explorer.AT_EACH_STEP)
    assert data_of(explorer.page())["constants"] == list(explorer.AT_EACH_STEP)


@pytest.mark.parametrize("name", explorer.AT_EACH_STEP)
def test_what_has_no_curve_is_a_constant_of_each_anchor(name, monkeypatch):
    monkeypatch.setattr(networks, "make_encoder", pixels)
    scheme = steps.make(settings(temperature={"name": name}), SOURCE).scheme
    state = scheme.init()
    views = jax.random.normal(jax.random.key(0), (2, 4, settings().projector.out))
    batch = schemes.of_views(*views, example=jnp.arange(4), key=jax.random.key(1))
    part = scheme.resolve(state, batch).for_negatives
    tau = np.asarray(part(jnp.tile(jnp.linspace(-1, 1, 6), (8, 1))))
    np.testing.assert_array_equal(tau, np.broadcast_to(tau[:, :1], tau.shape))


@pytest.mark.filterwarnings("ignore:tau_max / tau_min")
@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("which", ["default", "inside"])
@pytest.mark.parametrize("name", CURVES)
def test_the_curves_are_those_of_the_library(name, which, stop):
    curve = CURVES[name]
    values = values_of(curve, which)
    temperature = made_by(filled(curve, curve.code, values, stop))
    tau, slope = curves_of(temperature)
    # The page computes in double precision what the library rounds to single.
    s = np.float64(np.float32(S))
    of_page = evaluate(curve, curve.tau, values, s)
    np.testing.assert_allclose(of_page, tau, rtol=2e-5)
    derivative = evaluate(curve, curve.derivative, values, s)
    counts = bool(curve.stop_gradient is not None and stop)
    expected = 1 / of_page if counts else (of_page - s * derivative) / of_page**2
    scale = np.max(np.abs(slope))
    np.testing.assert_allclose(expected, slope, rtol=2e-4, atol=2e-6 * scale)
    positive = evaluate(curve, curve.positive or curve.tau, values, s)
    of_positives = temperature.for_positives(jnp.float32(S))
    np.testing.assert_allclose(positive, of_positives, rtol=2e-5)


@pytest.mark.parametrize("name", CURVES)
def test_the_defaults_are_those_of_the_library_and_inside_the_sliders(name):
    curve = CURVES[name]
    for parameter in curve.parameters:
        assert parameter.low <= parameter.default <= parameter.high
    values = values_of(curve, "default")
    if name in ("constant", "per_anchor", "uncertainty", "hard_negatives", "separate"):
        return  # they have none for all of their arguments
    default = getattr(temperatures, name)()
    tau = evaluate(curve, curve.tau, values, S)
    np.testing.assert_allclose(tau, default(jnp.float32(S)), rtol=2e-5)
    if curve.stop_gradient is not None:
        assert default.stop_gradient == curve.stop_gradient


def test_flags_are_left_out_only_where_a_number_a_row_is_needed():
    assert {name for name, curve in CURVES.items() if not curve.flags} == {
        "per_anchor",
        "uncertainty",
    }


@pytest.mark.filterwarnings("ignore:tau_max / tau_min")
@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("name", [name for name, curve in CURVES.items() if curve.flags])
def test_the_flags_make_the_same_temperature_in_a_run(name, stop, monkeypatch):
    monkeypatch.setattr(networks, "make_encoder", pixels)
    curve = CURVES[name]
    values = values_of(curve, "inside")
    assert all(values[p.name] != p.default for p in curve.parameters)
    fields = {}
    for flag in filled(curve, curve.flags, values, stop).split():
        field, value = flag.removeprefix("--config.").split("=")
        *groups, last = field.split(".")
        group = functools.reduce(lambda of, name: of.setdefault(name, {}), groups, fields)
        group[last] = value if last == "name" else ast.literal_eval(value)
    scheme = steps.make(settings(**fields), SOURCE).scheme
    found = scheme.resolve(scheme.init(), None)
    expected = made_by(filled(curve, curve.code, values, stop))
    for of_run, of_code in zip(curves_of(found), curves_of(expected), strict=True):
        np.testing.assert_allclose(of_run, of_code, rtol=1e-5)
    of_positives = [made.for_positives(jnp.float32(S)) for made in (found, expected)]
    np.testing.assert_allclose(*of_positives, rtol=1e-5)


def data_of(page):
    return json.loads(re.search(r"const DATA = (.*);\n", page)[1])


def test_the_page_asks_for_nothing_else():
    page = explorer.page()
    assert re.findall(r"(?:src|href)=\"(?!data:)|url\(|import\(|fetch\(|https?://", page) == [
        "http://"  # the name of SVG
    ]
    assert set(data_of(page)["curves"]) == set(CURVES)


def test_the_copy_in_the_docs_is_the_page_of_today():
    copy = pathlib.Path(__file__).parent.parent / "docs" / "explorer.html"
    assert copy.read_text(encoding="utf-8") == explorer.page(), "dystress explore --out=" + str(
        copy
    )


def records(counts, *, edges=(-1.0, 0.0, 1.0)):
    """One record with these negatives."""
    similarity = np.stack([np.ones(len(counts)), counts, counts, 0 * np.array(counts)])
    arrays = {
        "similarity": microscope.Named(similarity[None], ("step", "kind", "similarity")),
        "similarity_edges": microscope.Named(np.array([edges]), ("step", "edge")),
    }
    return microscope.Records(np.array([7]), arrays)


@pytest.mark.parametrize(
    ("similarity", "unit"),
    [
        (similarities.sphere, [1, 0]),
        (similarities.oblique(4), [4, 0]),
        (similarities.oblique(4, mean=True), [1, 0]),
        (similarities.geodesic, [np.pi / 2, -np.pi / 2]),
        (similarities.euclidean, [1, 0]),
    ],
    ids=["sphere", "oblique", "mean", "geodesic", "euclidean"],
)
def test_the_page_has_the_unit_of_the_run_s_similarity(similarity, unit):
    """What logits have in place of s: there the page's curve is the recorded one."""
    a, b = jax.random.normal(jax.random.key(0), (2, 6, 8))
    rows = jnp.arange(6)
    compared = microscope.Compared(a, b, b, (rows, rows), (rows, rows), similarity)
    found = microscope.look(compared, temperatures.dystress(0.5, 1.0))
    arrays = {name: np.asarray(x)[None] for name, x in found.items()}
    of_run = microscope.Records.of(np.array([0]), arrays)
    np.testing.assert_allclose(data_of(explorer.page(of_run))["unit"], unit, atol=1e-5)
    (p, q), s = microscope.unit_of(of_run), found["similarity_edges"]
    expected = (p * s + q) / temperatures.dystress(0.5, 1.0)(s)
    np.testing.assert_allclose(found["curve_logit"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "usable"),
    [
        (records([2, 3]), True),
        (records([0, 0]), False),  # a method without negatives
        (records([np.nan, 1]), True),
        (records([2, 3], edges=(np.nan, np.nan, np.nan)), False),
    ],
)
def test_a_run_is_drawn_if_it_can_be(given, usable):
    found = data_of(explorer.page(given, name="</script>"))["run"]
    assert (found["usable"], found["step"], found["name"]) == (usable, 7, "</script>")
    assert explorer.page(given, name="</script>").count("</script>") == 1


def test_the_command_writes_the_page_and_says_where(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands.main(["dystress", "explore"])
    assert re.fullmatch(r"written: explore.html\n", capsys.readouterr().out)
    assert pathlib.Path("explore.html").read_text(encoding="utf-8") == explorer.page()
    with pytest.raises(SystemExit, match=r"FileError: runs/nothing cannot be read"):
        commands.main(["dystress", "explore", "runs/nothing"])
    with pytest.raises(SystemExit) as ended:
        commands.main(["dystress", "explore", "--help"])
    assert not ended.value.code


def test_the_command_draws_a_file_of_embeddings(tmp_path, capsys):
    rng = np.random.default_rng(0)
    path = tmp_path / "z.npz"
    pictures = rng.integers(0, 255, (6, 4, 4, 3), np.uint8)
    np.savez(path, features=rng.normal(size=(6, 3)), labels=np.arange(6) % 2, images=pictures)
    commands.main(["dystress", "explore", f"--embeddings={path}", f"--out={tmp_path / 'e.html'}"])
    found = data_of((tmp_path / "e.html").read_text(encoding="utf-8"))
    assert (found["run"]["name"], found["run"]["usable"]) == ("z", True)
    assert found["images"]["labels"] == [0, 1] * 3
    assert len(found["images"]["pictures"]) == 6
    for wrong in (["runs/a", f"--embeddings={path}"], [f"--embeddings={tmp_path / 'no.npz'}"]):
        with pytest.raises(SystemExit):
            commands.main(["dystress", "explore", *wrong])


def test_what_a_run_lacks_is_said_and_the_page_is_written_without_it(tmp_path, capsys):
    workdir = write(tmp_path / "r", {5: record(), 6: record(1)})

    def explored():
        commands.main(["dystress", "explore", str(workdir), f"--out={tmp_path / 'e.html'}"])
        data = data_of((tmp_path / "e.html").read_text(encoding="utf-8"))
        told = capsys.readouterr().err.splitlines()
        assert data["missing"] == told
        return data, " ".join(told)

    assert explored()[1] == ""
    (workdir / "microscope" / "00000006.npz").write_bytes(b"nothing")
    data, told = explored()
    assert (data["run"]["step"], len(data["images"]["ids"])) == (5, 24)
    assert re.fullmatch(r"r: \S*00000006.npz cannot be read: .*This record is left out.", told)
    (workdir / "microscope" / "00000005.npz").unlink()
    data, told = explored()
    assert data["run"] is data["images"] is None
    (workdir / "microscope" / "00000006.npz").unlink()
    data, told = explored()
    assert data["run"] is data["images"] is None
    assert "it has no records: none was due yet" in told
    with pytest.raises(FileError, match="it has no records: none was due yet"):
        microscope.read(workdir)


def test_the_page_begins_with_the_temperature_of_the_run(tmp_path):
    own = lambda **given: data_of(explorer.page(**given))["own"]
    assert own() is None
    found = own(temperature={"name": "dystress", "tau_min": 0.05, "tau_max": 0.7, "tau": 0.1})
    assert found == {"name": "dystress", "v": {"tau_min": 0.05, "tau_max": 0.7}, "stop": True}
    assert not own(temperature={"name": "dystress", "stop_gradient": False})["stop"]
    # What a learned one was at the last record; one that depends on the pair has no such number.
    for curve, expected in (
        (0 * record()["curve_tau"] + 0.25, 0.25),
        (record()["curve_tau"], None),
    ):
        curve = curve + (expected is None) * np.linspace(0, 1, len(curve))
        workdir = tmp_path / f"r{expected}"
        config = {"temperature": {"name": "macl", "tau": 0.1}}
        write(workdir, {5: record(curve_tau=curve)}, config=config)
        commands.main(["dystress", "explore", str(workdir), f"--out={tmp_path / 'e.html'}"])
        found = data_of((tmp_path / "e.html").read_text(encoding="utf-8"))["own"]
        assert (found and found["v"]) == (expected and {"tau": expected})
    (workdir / "config.json").write_text("[1]")
    commands.main(["dystress", "explore", str(workdir), f"--out={tmp_path / 'e.html'}"])


@pytest.mark.ci
def test_a_browser_begins_with_it_and_says_of_which_step_the_images_are(tmp_path):
    without = [name for name in record() if name.startswith("watched_")]
    records = {5: record(), 9: record(1, **dict.fromkeys(without))}
    config = {"temperature": {"name": "constant", "tau": 0.5}}
    workdir = write(tmp_path / "r", records, config=config)
    commands.main(["dystress", "explore", str(workdir), f"--out={tmp_path / 'e.html'}"])
    with opened(tmp_path / "e.html") as page:
        shown = page.evaluate("state.shown.map(t => [t.name, t.v])")
        assert shown[0] == ["constant", {"tau": 0.5}]
        assert [name for name, _ in shown] == ["constant", "dystress"]
        said = page.inner_text("#of-run")
        assert "step 9:" in said
        assert "begins with the run's own temperature" in said
        assert "The images are those of step 5" in said


def test_records_of_images_alone_are_drawn(tmp_path):
    whole = record()
    alone = {name: value for name, value in whole.items() if name.startswith("watched_")}
    recorded = microscope.of_run(write(tmp_path / "r", {5: alone}))
    data = data_of(explorer.page(recorded.records, images=recorded.images))
    assert data["run"] is None
    assert len(data["images"]["ids"]) == 24


def test_rows_that_are_left_out_are_said(tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(600, 3))
    x[:7] = np.nan
    np.savez(tmp_path / "z.npz", features=x)
    out = tmp_path / "e.html"
    commands.main(["dystress", "explore", f"--embeddings={tmp_path / 'z.npz'}", f"--out={out}"])
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "z: 7 of 600 rows are NaN or infinite.",
        "z: 512 of 593 rows are looked at, evenly spread.",
    ]
    assert data_of(out.read_text(encoding="utf-8"))["missing"] == told


@pytest.mark.ci
def test_a_browser_says_what_is_missing(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(explorer.page(), encoding="utf-8")
    with opened(path) as page:
        assert not page.is_visible("#missing")
    path.write_text(explorer.page(name="r", missing=["It has no </script>."]), encoding="utf-8")
    with opened(path) as page:
        assert page.inner_text("#missing") == "r: It has no </script>."
        assert page.locator("#charts polyline").count()


@pytest.mark.ci
def test_a_browser_lists_the_hardest_negatives_under_each_temperature(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "z.npz", features=rng.normal(size=(20, 3)), labels=np.arange(20) % 2)
    images = microscope.read_embeddings(tmp_path / "z.npz")
    path = tmp_path / "page.html"
    path.write_text(explorer.page(images=images), encoding="utf-8")
    with opened(path) as page:
        page.goto(path.as_uri() + "#t=constant,tau:0.3&t=dystress&a=4")
        page.reload()
        page.fill("#anchor", "5")
        page.keyboard.press("Enter")
        assert "a=5" in page.url
        rows = [row.split("\t") for row in page.locator("#hardest tbody tr").all_inner_texts()]
        s = np.sort(np.delete(np.float64(images.similarity[0, 5]), 5))[::-1]
        weights = np.exp(s / 0.3) / np.exp(s / 0.3).sum()
        for row, similarity, weight in zip(rows[:10], s, weights, strict=False):
            assert float(row[1]) == pytest.approx(similarity, abs=1e-3)
            assert float(row[2].rstrip(" %")) == pytest.approx(100 * weight, rel=1e-2)
        effective = np.exp(-np.sum(weights * np.log(weights)))
        assert float(rows[10][2]) == pytest.approx(effective, rel=1e-2)


@pytest.mark.ci
def test_a_browser_moves_sliders_by_keyboard_keeps_them_in_the_address_and_copies(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(explorer.page(records([2, 3])), encoding="utf-8")
    with opened(path) as page:
        said = lambda: page.inner_text("#said")
        lines = (
            "[...document.querySelectorAll('#charts polyline')].map(x => x.getAttribute('points'))"
        )
        before = page.evaluate(lines)
        page.focus("input[type=range][aria-label=tau_max]")
        page.keyboard.press("PageUp")
        value = page.input_value("input[type=number][aria-label^=tau_max]")
        assert float(value) > 0.2
        assert f"t=dystress,tau_min:0.1,tau_max:{value},stop:1" in page.url
        assert page.evaluate(lines) != before
        # A page from disk may not write to the clipboard; what it says is what it copies.
        page.get_by_role("button", name="Copy as code").nth(1).click()
        page.wait_for_function("document.getElementById('said').textContent")
        code = f"temperatures.dystress(0.1, {value}, stop_gradient=True)"
        assert said() == f"Copied: {code}"
        page.get_by_role("button", name="Copy as flags").nth(1).click()
        page.wait_for_function("document.getElementById('said').textContent.includes('--')")
        assert f"--config.temperature.tau_max={value}" in said()
        page.click("#add")
        page.click("#add")
        assert page.is_disabled("#add")
        page.fill("#n-number", "64")
        page.keyboard.press("Enter")
        floor = page.locator("#numbers tbody tr").first.inner_text().split("\t")
        # InfoNCE on the regular simplex with the constant 0.1.
        assert float(floor[1]) == pytest.approx(
            math.log1p(63 * math.exp(-(1 + 1 / 63) / 0.1)), 1e-3
        )
        charts = page.locator("#charts figure")
        named = lambda title: charts.filter(has=page.get_by_role("heading", name=title))
        # A line of the slope in the gradient and one of dlogit/ds for each temperature.
        slopes = named("slope of the logit")
        points = slopes.locator("polyline").evaluate_all(
            "all => all.map(x => [x.getAttribute('stroke-width'), x.getAttribute('points')])"
        )
        assert [width for width, _ in points] == ["2.2"] * 4 + ["1"] * 4
        drawn = [points[i][1] == points[4 + i][1] for i in range(4)]
        assert drawn == [True, False, False, True]  # the two in the middle stop tau
        assert "Thin: dlogit/ds" in slopes.inner_text()
        # The floor of a batch of 2 examples, the first point, is the lowest, and it grows with n.
        floors = named("loss floor by the number of examples").locator("polyline").nth(0)
        pixels_of = np.array(
            [point.split(",") for point in floors.get_attribute("points").split()], float
        )
        assert len(pixels_of) == 61
        n = 2.0 ** np.linspace(1, 16, 61)
        expected = np.log1p((n - 1) * np.exp(-(1 + 1 / (n - 1)) / 0.1))
        slope = np.polyfit(expected, pixels_of[:, 1], 1)
        np.testing.assert_allclose(np.polyval(slope, expected), pixels_of[:, 1], atol=0.02)
        assert slope[0] < 0
        assert page.inner_text("#constants").startswith("A run also knows cosine_schedule, ")
        table = page.inner_text("#numbers")
        page.reload()
        page.wait_for_selector("html[data-ready]")
        assert page.inner_text("#numbers") == table
        assert page.locator("#temperatures fieldset").count() == 4


IN_BROWSER = """<script>
const at = %s;
document.documentElement.replaceChildren(document.createTextNode(JSON.stringify({
  curves: at.map(([name, v, stop, s]) => s.map(x => Object.values(curvesAt(name, v, stop, x)))),
  ofAngles: at.map(([name, v, stop, s]) => s.map(x => curvesAt(name, v, stop, x, [1.5, -1.5]))),
  code: at.map(([name, v, stop]) => filled({name, v, stop}, DATA.curves[name].code)),
})));
</script>"""


def shown_by_browser(path, address=""):
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    profile = f"--user-data-dir={path.parent / 'profile'}"
    done = subprocess.run(
        [executable(), *flags, profile, path.as_uri() + address],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.ci
def test_a_browser_computes_the_same_curves_and_code(tmp_path):
    s = np.linspace(-1, 1, 200)
    cases = [
        (name, values_of(curve, which), stop)
        for name, curve in CURVES.items()
        for which in ("default", "inside")
        for stop in (True, False)
    ]
    given = json.dumps([[*case, s.tolist()] for case in cases])
    path = tmp_path / "page.html"
    page = explorer.page().replace("</html>", IN_BROWSER % given)
    path.write_text(page, encoding="utf-8")
    found = json.loads(re.search(r"\{.*\}", shown_by_browser(path), re.DOTALL)[0])
    for (name, values, stop), curves, code in zip(
        cases, found["curves"], found["code"], strict=True
    ):
        curve = CURVES[name]
        assert code == filled(curve, curve.code, values, stop)
        tau, derivative = (evaluate(curve, f, values, s) for f in (curve.tau, curve.derivative))
        through = (tau - s * derivative) / tau**2
        positive = evaluate(curve, curve.positive or curve.tau, values, s)
        expected = [tau, s / tau, 1 / tau if stop else through, through, positive]
        np.testing.assert_allclose(np.transpose(curves), expected, rtol=1e-9, atol=1e-12)
    # Of a similarity in [-3, 0], whose place between -1 and 1 the temperature sees.
    value = 1.5 * s - 1.5
    for (name, values, stop), curves in zip(cases, found["ofAngles"], strict=True):
        tau, derivative = (
            evaluate(CURVES[name], f, values, s)
            for f in (CURVES[name].tau, CURVES[name].derivative)
        )
        slope = 1 / tau if stop else (tau - value * derivative / 1.5) / tau**2
        of_page = {key: [curve[key] for curve in curves] for key in ("logit", "slope")}
        np.testing.assert_allclose(of_page["logit"], value / tau, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(of_page["slope"], slope, rtol=1e-9, atol=1e-12)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("", ["constant", "dystress"]),
        ("#n=64&p=0.5&t=temo,tau_min:0.02&t=separate&t=temo&t=linear&t=constant", 4),
        ("#n=x&p=9&t=nobody&t=dystress,tau_min:9,tau_max:0.1", ["dystress"]),
        ("#%%%", ["constant", "dystress"]),
    ],
)
def test_a_browser_shows_what_the_address_says(tmp_path, address, shown):
    path = tmp_path / "page.html"
    path.write_text(explorer.page(records([2, 3])), encoding="utf-8")
    text = shown_by_browser(path, address)
    head = re.search(r"<thead>.*?</thead>", text)[0]
    names = re.findall(r"</span> (\w+)</th>", head)
    if isinstance(shown, int):
        assert len(names) == shown
        return
    problem = ">tau_min must be at most tau_max.<" in text
    assert names == ([] if problem else shown)
    assert problem == ("tau_min:9" in address)
