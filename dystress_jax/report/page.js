/*CURVES*/
const by = id => document.getElementById(id);
const runs = DATA.runs, withImages = runs.map((r, i) => i).filter(i => runs[i].images);
const allSteps = [...new Set(runs.flatMap(r => r.steps))].sort((a, b) => a - b);
const state = {step: allSteps.length - 1, run: withImages[0], space: "embeddings", layout: "PCA", anchor: 0, chosen: [], thumbs: false, other: null};
// Another one than the run's, to begin with.
state.other = first(withImages.length && runs[state.run].temperature !== "constant" ? "constant" : "dystress");
let doc = null; // of the charts
const named = name => doc ? doc.get_model_by_name(name) : null;
// The last entry that is not after a step.
const at = (steps, step) => { let k = 0; steps.forEach((s, i) => { if (s <= step) k = i; }); return k; };
const gap = columns => Object.fromEntries(Object.entries(columns).map(([n, v]) => [n, v.map(x => x === null ? NaN : x)]));
const short = x => x === null || x === undefined || !isFinite(x) ? "–" : String(Number(x.toPrecision(4)));

function drawStep() {
  const step = allSteps[state.step];
  by("step").value = state.step;
  by("step-is").textContent = `${step} of ${allSteps.at(-1)}`;
  by("step").setAttribute("aria-valuetext", `step ${step}`);
  runs.forEach((run, i) => {
    if (!run.frames.length) return;
    const frame = run.frames[at(run.steps, step)], pairs = named(`pairs-${i}`), curves = named(`curves-${i}`);
    if (pairs) pairs.data = gap(frame.pairs);
    if (curves) curves.data = gap(frame.curves);
  });
  for (const m of models()) if (m.name === "now") m.location = step;
  const shown = runs.map((r, i) => i).filter(i => runs[i].steps.length), names = [...new Set(shown.flatMap(i => Object.keys(runs[i].scalars)))];
  by("numbers").tHead.replaceChildren(make("tr", {}, make("th", {scope: "col"}), ...shown.map(i => make("th", {scope: "col", textContent: `${runs[i].name}, step ${runs[i].steps[at(runs[i].steps, step)]}`}))));
  by("numbers").tBodies[0].replaceChildren(...names.map(n => make("tr", {}, make("th", {scope: "row", textContent: n.replaceAll("_", " ")}),
    ...shown.map(i => make("td", {textContent: short((runs[i].scalars[n] || [])[at(runs[i].steps, step)])})))));
  drawMap();
}

// Of what belongs to an image, the image.
const picture = (run, k) => { const im = runs[run].images; return im.pictures_of === null ? null : runs[im.pictures_of].images.pictures[k % count(im)]; };
function styled(im, k) {
  const l = im.labels[k % count(im)], c = DATA.colours, m = DATA.markers;
  if (isPartner(im, k)) return {colour: paint(l < 0 ? c[1] : c[l % c.length]), marker: "x"};
  if (l < 0) return {colour: paint(c[0]), marker: "circle"};
  return {colour: paint(c[l % c.length]), marker: m[(l + Math.floor(l / c.length)) % m.length]};
}
function places() {
  const im = runs[state.run].images, all = im.places[state.space][state.layout];
  return all[im.steps[0] === im.steps.at(-1) ? 0 : at(im.steps, allSteps[state.step])];
}
function drawMap() {
  const source = named("map");
  if (!source || state.run === undefined) return;
  const im = runs[state.run].images, p = places(), ks = p.map((_, k) => k), placedBy = im.placed_by[state.space][state.layout];
  by("layout-says").textContent = placedBy === state.layout ? "" : `${state.layout} cannot place these: it needs three images that differ, of three dimensions. They lie as by ${placedBy}.`;
  const here = im.steps[at(im.steps, allSteps[state.step])];
  if (allSteps.length && here !== allSteps[state.step]) by("layout-says").textContent += ` They lie as at step ${here}: not every record has the images.`;
  const style = ks.map(k => styled(im, k));
  source.data = {x: p.map(x => x[0]), y: p.map(x => x[1]), colour: style.map(s => s.colour), marker: ks.map((k, i) => framed(im, k) ? "square" : style[i].marker), size: ks.map(k => framed(im, k) ? 26 : 9),
    picture: ks.map(k => picture(state.run, k) ?? "data:,"), display: ks.map(() => im.pictures_of !== null ? "block" : "none"), label: ks.map(k => labelOf(im, k))};
  drawThumbs();
  named("anchor").data = {x: [p[state.anchor][0]], y: [p[state.anchor][1]]};
}
// Drawn over the markers, which are then their frames; those that are not chosen are pale.
function drawThumbs() {
  const im = runs[state.run].images, p = places(), ks = p.map((_, k) => k).filter(k => framed(im, k)), chosen = new Set(state.chosen);
  named("thumbs").data = {x: ks.map(k => p[k][0]), y: ks.map(k => p[k][1]), picture: ks.map(k => picture(state.run, k)),
    alpha: ks.map(k => chosen.size && !chosen.has(k) ? 0.3 : 1)};
}
const framed = (im, k) => state.thumbs && im.pictures_of !== null && !isPartner(im, k);
function card(im, k, says, more = {}) {
  const src = picture(state.run, k), about = labelOf(im, k);
  return make("button", {type: "button", title: about, ariaLabel: `${about}. ${says}. Make it the anchor`, onclick: () => setAnchor(k % count(im)), ...more},
    ...(src ? [make("img", {src, alt: ""})] : []), make("span", {textContent: says}));
}
function choose(rows) {
  state.chosen = rows;
  const im = runs[state.run].images;
  if (named("thumbs")) drawThumbs();
  by("chosen-title").textContent = rows.length ? `Chosen images: ${rows.length}` : "Chosen images: none yet";
  by("chosen").replaceChildren(...rows.map(k => card(im, k, isPartner(im, k) ? im.captions[k % count(im)] || "other view" : classOf(im, k))));
}
function setAnchor(k) {
  state.anchor = Math.min(count(runs[state.run].images) - 1, Math.max(0, Math.round(k) || 0));
  by("anchor").value = state.anchor;
  drawMap(); drawAnchor();
}
// The logarithm of what a negative at s weighs under the run's own temperature, by its recorded curve.
function ownLogWeight(run, s) {
  const frame = runs[run].frames.at(-1);
  if (!frame) return NaN;
  const x = frame.curves.s, y = frame.curves.log_weight, last = x.length - 1, where = (s - x[0]) / (x[last] - x[0]) * last;
  const i = Math.min(last - 1, Math.max(0, Math.floor(where))), part = Math.min(1, Math.max(0, where - i));
  return y[i] === null || y[i + 1] === null ? NaN : y[i] * (1 - part) + y[i + 1] * part;
}
function drawAnchor() {
  const im = runs[state.run].images, n = count(im), a = state.anchor;
  const src = picture(state.run, a);
  by("anchor-is").replaceChildren(...(src ? [make("img", {src, alt: "", style: "width:2.6rem;image-rendering:pixelated;vertical-align:middle"})] : []), ` ${labelOf(im, a)}`);
  by("near").replaceChildren(...im.near[a].map((k, i) => card(im, k, `${classOf(im, k)} ${im.how_near[a][i]}`)));
  const s = similaritiesOf(im, a), order = hardestOf(s, a);
  const rank = s.filter((x, j) => j !== a && x > s[a]).length + 1;
  by("of-partner").textContent = !im.partner ? "" : im.partner === "text"
    ? `Its own text “${im.captions[a]}” is number ${rank} of ${n} by similarity (${short(s[a])}). The texts that it finds first: ${bestOf(s).slice(0, 8).map(j => `“${im.captions[j]}” ${short(s[j])}`).join(", ")}.`
    : `Its other view is number ${rank} of ${n} by similarity (${short(s[a])}).`;
  by("of-text").hidden = im.partner !== "text";
  if (im.partner === "text") {
    const to = similaritiesTo(im, a);
    by("text-is").textContent = `Images that the text “${im.captions[a]}” finds`;
    by("found").replaceChildren(...bestOf(to).slice(0, 12).map(j => found(im, a, j, to[j])));
  }
  const wrong = problem(state.other);
  by("other-problem").textContent = wrong;
  const own = softmax(order.map(j => ownLogWeight(state.run, s[j]))), other = wrong ? order.map(() => NaN) : weightsUnder(state.other, order.map(j => s[j]), im.unit);
  const is = w => w.length && w.every(isFinite) ? `${short(effectiveOf(w))}` : "not known";
  by("effective").textContent = n < 2 ? "There is one image only: it has no negatives." : `Among the other ${n - 1} ${im.partner === "text" ? "texts" : "images"}, the effective number of negatives of this anchor is ${is(own)} under the run's temperature and ${is(other)} under ${state.other.name}.`;
  by("hardest").tHead.replaceChildren(make("tr", {}, ...["", "similarity", "weight, run", `weight, ${state.other.name}`].map(t => make("th", {scope: "col", textContent: t}))));
  by("hardest").tBodies[0].replaceChildren(...order.slice(0, 10).map((j, i) => {
    return make("tr", {}, negativeCell(im, a, j, picture(state.run, j)),
      make("td", {textContent: short(s[j])}), make("td", {textContent: percent(own[i])}), make("td", {textContent: percent(other[i])}));
  }));
}
// An image that a text finds; those with this very text are framed.
function found(im, a, j, s) {
  const right = im.captions[j] === im.captions[a];
  return card(im, j, `${right ? "✓ " : ""}${s.toFixed(3)}`, right ? {className: "right"} : {});
}
const ROWS = 10, COLUMNS = 8;
function drawRetrieval() {
  const im = runs[state.run].images, n = count(im), texts = [...new Set(im.ids.map((_, k) => Math.floor(k * n / Math.min(n, ROWS))))].slice(0, Math.min(n, ROWS));
  by("retrieval-place").hidden = im.partner !== "text";
  if (im.partner !== "text") return;
  const ranks = im.ids.map((_, a) => { const to = similaritiesTo(im, a); return 1 + to.filter((x, j) => x > to[a] && im.captions[j] !== im.captions[a]).length; });
  const within = k => `${ranks.filter(r => r <= k).length}`;
  by("retrieval-says").textContent = `Of the ${n} texts that are watched, ${within(1)} find their own image first and ${within(10)} among the first 10, at the last record; by guessing it would be 1 and ${Math.min(10, n)}.`;
  by("retrieval").tHead.replaceChildren(make("tr", {}, ...["text", "its image", "images that it finds, from the most similar on; its own is framed"].map((t, i) => make("th", {scope: "col", textContent: t, colSpan: i === 2 ? COLUMNS : 1}))));
  by("retrieval").tBodies[0].replaceChildren(...texts.map(a => { const to = similaritiesTo(im, a);
    return make("tr", {}, make("th", {scope: "row", textContent: im.captions[a]}), make("td", {className: "cell"}, card(im, a, to[a].toFixed(3))),
      ...bestOf(to).slice(0, COLUMNS).map(j => make("td", {className: "cell"}, found(im, a, j, to[j])))); }));
}
function otherSliders() {
  by("other-sliders").replaceChildren(...sliders(state.other, drawAnchor));
  drawAnchor();
}
function options(id, pairs, chosen, changed) {
  by(id).replaceChildren(...pairs.map(([value, text]) => make("option", {value, textContent: text, selected: value === chosen})));
  by(id).onchange = () => changed(by(id).value);
}
function spaceControls() {
  const im = runs[state.run].images;
  const spaces = {features: "features (the encoder)", embeddings: "embeddings (the loss)"};
  options("run", withImages.map(i => [String(i), runs[i].name]), String(state.run), v => { state.run = Number(v); spaceControls(); });
  options("which-space", Object.entries(spaces), state.space, v => { state.space = v; drawMap(); choose([]); });
  options("layout", Object.keys(im.places[state.space]).map(n => [n, n]), state.layout, v => { state.layout = v; drawMap(); });
  const there = [...new Set(im.labels)].filter(l => l >= 0).sort((a, b) => a - b);
  const rows = keep => im.labels.map((_, k) => k).filter(keep);
  options("class", [["", "…"], ["all", "all images"], ...there.map(l => [String(l), im.class_names[l] ?? `class ${l}`])], "", v => choose(v === "" ? [] : rows(k => v === "all" || im.labels[k] === Number(v))));
  by("classes").replaceChildren(...(there.length ? there : [-1]).slice(0, 60).map(l => { const k = im.labels.indexOf(l), {colour, marker} = styled(im, k);
    return make("li", {}, make("span", {style: `color:${colour}`, ariaHidden: "true", textContent: SIGNS[marker] + " "}), l < 0 ? "images without a class" : im.class_names[l] ?? `class ${l}`); }),
    ...(im.partner ? [make("li", {textContent: `× ${im.partner === "text" ? "texts" : "other views"} (in the space of embeddings)`})] : []));
  by("anchor").max = count(im) - 1;
  by("anchor").onchange = () => setAnchor(Number(by("anchor").value));
  by("thumbs-label").hidden = im.pictures_of === null;
  setAnchor(state.anchor); choose([]); drawRetrieval();
}
const SIGNS = {circle: "●", square: "■", triangle: "▲", diamond: "◆", inverted_triangle: "▼", hex: "⬢", star: "★", plus: "+", x: "×"};
function arrow(event) {
  const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[event.key];
  if (!way) return;
  event.preventDefault();
  const p = places(), [x, y] = p[state.anchor];
  let best = -1, least = Infinity;
  for (let k = 0; k < count(runs[state.run].images); k++) {
    const dx = p[k][0] - x, dy = p[k][1] - y, ahead = dx * way[0] + dy * way[1], aside = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
    if (k !== state.anchor && ahead > 0 && aside <= ahead && ahead + aside < least) { least = ahead + aside; best = k; }
  }
  if (best >= 0) { setAnchor(best); by("map-place").setAttribute("aria-label", `Map of images, at ${labelOf(runs[state.run].images, best)}`); }
}
const models = () => doc ? [...doc._all_models.values()] : [];
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = colour => dark.matches ? DATA.in_the_dark[colour] ?? colour : colour;
const inks = new Map(); // what each part of the charts was drawn with
function recolour() {
  for (const key of document.querySelectorAll("[data-ink]")) key.style.setProperty("--ink", paint(key.dataset.ink));
  for (const m of models()) if (m.type === "GlyphRenderer") for (const name of ["line_color", "fill_color"]) {
    const value = m.glyph[name]?.value, key = m.glyph.id + name;
    if (!inks.has(key)) inks.set(key, value);
    if (inks.get(key) in DATA.in_the_dark) m.glyph[name] = {value: paint(inks.get(key))};
  }
  const style = getComputedStyle(document.documentElement), ink = style.getPropertyValue("--ink").trim(), soft = style.getPropertyValue("--soft").trim(), line = style.getPropertyValue("--line").trim();
  for (const m of models()) {
    if (/Axis$/.test(m.type)) m.setv({axis_label_text_color: soft, axis_label_text_font_style: "normal", major_label_text_color: soft, axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: null});
    if (m.type === "Grid" && m.dimension === 1 && m.grid_line_color !== null) m.grid_line_color = line;
    if (m.type === "GlyphRenderer" && m.name === "ink") m.glyph.text_color = ink;
  }
}
let playing = null;
function play() {
  if (playing) { clearInterval(playing); playing = null; }
  else {
    if (state.step === allSteps.length - 1) state.step = 0;
    playing = setInterval(() => { if (state.step >= allSteps.length - 1) play(); else { state.step++; drawStep(); } }, 220);
  }
  by("play").textContent = playing ? "Stop" : "Play";
  by("play").setAttribute("aria-pressed", String(!!playing));
}
function begin() {
  doc = Bokeh.documents.find(d => d.roots().length) ?? null;
  recolour();
  dark.addEventListener("change", () => { recolour(); if (withImages.length) spaceControls(); });
  for (const box of document.querySelectorAll("#runs input")) box.onchange = () => {
    const shown = new Set([...document.querySelectorAll("#runs input:checked")].flatMap(b => b.dataset.run.split(" ")).map(i => "r" + i));
    for (const m of models()) if (m.type === "GlyphRenderer" && /^r\d/.test(m.name ?? "")) m.visible = m.name.split(" ").some(n => shown.has(n));
  };
  if (withImages.length) {
    by("of-space").hidden = false;
    const im = runs[state.run].images;
    if (im.partner === "") state.space = "features";
    options("other", Object.keys(DATA.curves).map(n => [n, n]), state.other.name, v => { state.other = first(v); otherSliders(); });
    spaceControls(); otherSliders();
    const source = named("map");
    if (source) source.selected.properties.indices.change.connect(() => {
      const rows = source.selected.indices;
      if (rows.length === 1) setAnchor(rows[0] % count(runs[state.run].images));
      if (rows.length) choose(rows);
    });
    by("thumbs").onchange = () => { state.thumbs = by("thumbs").checked; drawMap(); };
    by("map-place").onkeydown = arrow;
    const figure = models().find(m => m.type === "Toolbar" && m.tools.some(t => t.type === "LassoSelectTool"));
    if (figure && matchMedia("(pointer: coarse)").matches) for (const t of figure.tools) if (t.type === "LassoSelectTool" || t.type === "PanTool") t.active = false;
  }
  if (allSteps.length) {
    by("numbers-of-step").hidden = false;
    by("time").hidden = allSteps.length < 2;
    by("step").max = allSteps.length - 1;
    by("step").oninput = () => { state.step = Number(by("step").value); drawStep(); };
    by("play").onclick = play;
    drawStep();
  }
  document.documentElement.dataset.ready = "yes";
}
// The charts are there a moment after their script.
(function wait() {
  const drawn = !document.querySelector(".chart") || (window.Bokeh && Bokeh.documents.some(d => d.roots().length));
  if (drawn) begin(); else setTimeout(wait, 20);
})();
