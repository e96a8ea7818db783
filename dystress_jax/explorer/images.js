// Images that are compared with each other; the explorer and the report share this.
const count = im => im.ids.length;
function classOf(im, k) { const l = im.labels[k % count(im)]; return l < 0 ? "no class" : im.class_names[l] ?? `class ${l}`; }
// Beyond the images come what belongs to them: texts, or other views.
const isPartner = (im, k) => k >= count(im);
function labelOf(im, k) {
  const own = k % count(im), what = isPartner(im, k) ? (im.partner === "text" ? "text" : "other view") + " of " : "";
  const caption = im.captions[own] ? `: ${im.captions[own]}` : "", known = im.class_names.length ? `, ${classOf(im, own)}` : "";
  return `${what}${im.split} ${im.ids[own]}${known}${caption}`;
}
const matrices = new Map();
function matrixOf(im) {
  if (!matrices.has(im)) matrices.set(im, new Int16Array(Uint8Array.from(atob(im.similarity), c => c.charCodeAt(0)).buffer));
  return matrices.get(im);
}
// The similarities of an image to all, or to all that belongs to them.
const similaritiesOf = (im, anchor) => im.ids.map((_, j) => matrixOf(im)[anchor * count(im) + j] / 32767 * im.largest);
// The similarities of all images to what belongs to one of them, such as its text.
const similaritiesTo = (im, anchor) => im.ids.map((_, j) => matrixOf(im)[j * count(im) + anchor] / 32767 * im.largest);
const bestOf = s => s.map((_, j) => j).sort((i, j) => s[j] - s[i]);
// All but the anchor itself and what belongs to it, the most similar first.
const hardestOf = (s, anchor) => bestOf(s).filter(j => j !== anchor);
const effectiveOf = weights => Math.exp(-weights.reduce((sum, x) => sum + (x > 0 ? x * Math.log(x) : 0), 0));
const percent = x => !isFinite(x) ? "–" : `${(100 * x).toPrecision(3)} %`;
// The first cell of a row of the hardest negatives.
function negativeCell(im, anchor, j, src) {
  const same = im.labels[j] >= 0 && im.labels[j] === im.labels[anchor], text = im.partner === "text";
  const name = text && im.captions[j] ? `“${im.captions[j]}”` : im.class_names.length ? classOf(im, j) : labelOf(im, j);
  return make("th", {scope: "row", className: same ? "same" : ""},
    ...(src && !text ? [make("img", {src, alt: "", style: "width:2.2rem;image-rendering:pixelated;vertical-align:middle"}), " "] : []), name + (same ? " (same class)" : ""));
}
// Just inside -1 and 1, behind which what is clipped has no slope.
const weightsUnder = (t, values, unit) => softmax(values.map(s => logWeight(t, Math.max(-0.999999, Math.min(0.999999, s)), unit)));
