// The temperatures of the library as functions; the explorer and the report share them.
const scope = {abs: Math.abs, atanh: Math.atanh, cos: Math.cos, exp: Math.exp, log: Math.log, max: Math.max,
  min: Math.min, sign: Math.sign, sin: Math.sin, sqrt: Math.sqrt, pi: Math.PI, where: (c, a, b) => c ? a : b};
const cache = {};
function formula(curve, text) {
  // Numbers of the curve in, a function of s out.
  const key = curve + "|" + text, c = DATA.curves[curve];
  if (!cache[key]) {
    const names = c.parameters.map(p => p[0]);
    const helpers = c.helpers.map(([name, f]) => `const ${name} = ${f};`).join("");
    cache[key] = new Function("scope", "v", "s",
      `const {${Object.keys(scope).join(",")}} = scope; const {${names.join(",")}} = v; ${helpers} return ${text};`);
  }
  return (v, s) => cache[key](scope, v, s);
}
// What the tests call: the curves of a temperature at a similarity.
// Temperatures see similarities on the scale of the cosine; a logit has the similarity's own value, a s + b.
function curvesAt(name, v, stop, s, [a, b] = [1, 0]) {
  const c = DATA.curves[name], tau = formula(name, c.tau)(v, s), slope = formula(name, c.derivative)(v, s);
  const value = a * s + b, through = (tau - value * slope / a) / tau ** 2;
  return {tau, logit: value / tau, slope: stop ? 1 / tau : through, through,
    positive: c.positive ? formula(name, c.positive)(v, s) : tau};
}
const first = name => ({name, stop: DATA.curves[name].stop_gradient === true,
  v: Object.fromEntries(DATA.curves[name].parameters.map(p => [p[0], p[1]]))});
function problem(t) {
  const v = t.v;
  if ("tau_min" in v && v.tau_min > v.tau_max) return "tau_min must be at most tau_max.";
  if ("depth" in v && v.depth >= v.highest) return "depth must be less than highest.";
  return "";
}
// Of each negative its share of the gradient, from the logarithms of what it weighs.
function softmax(logs) {
  const top = Math.max(...logs.filter(x => x < Infinity)), each = logs.map(x => x > -Infinity ? Math.exp(x - top) : 0);
  const total = each.reduce((sum, x) => sum + x, 0);
  return each.map(x => x / total);
}
const logWeight = (t, s, unit) => { const c = curvesAt(t.name, t.v, t.stop, s, unit); return c.logit + Math.log(Math.abs(c.slope)); };
const make = (tag, given = {}, ...inside) => {
  const node = document.createElement(tag);
  for (const [k, v] of Object.entries(given)) k in node ? node[k] = v : node.setAttribute(k, v);
  node.append(...inside);
  return node;
};
const shortest = x => String(Number(x.toPrecision(6)));
// The controls of one temperature; `changed` is called after each change.
function sliders(t, changed) {
  const c = DATA.curves[t.name], rows = [];
  for (const [key, , low, high] of c.parameters) {
    const range = make("input", {type: "range", min: low, max: high, step: "any", value: t.v[key], ariaLabel: key});
    range.step = (high - low) / 1000; range.value = t.v[key];
    const exact = make("input", {type: "number", min: low, max: high, step: "any", value: t.v[key], ariaLabel: key + ", as a number"});
    range.oninput = () => { t.v[key] = Number(Number(range.value).toPrecision(4)); exact.value = t.v[key]; changed(); };
    exact.onchange = () => { const x = Number(exact.value); t.v[key] = isFinite(x) ? Math.min(high, Math.max(low, x)) : t.v[key];
      exact.value = range.value = t.v[key]; exact.value = t.v[key]; changed(); };
    rows.push(make("label", {}, key, range, exact));
  }
  if (c.stop_gradient !== null) {
    const stop = make("input", {type: "checkbox", checked: t.stop});
    stop.onchange = () => { t.stop = stop.checked; changed(); };
    rows.push(make("label", {className: "choice"}, stop, "stop_gradient: tau counts as a number in the gradient"));
  }
  return rows;
}
