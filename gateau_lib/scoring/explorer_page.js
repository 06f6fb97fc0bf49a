"use strict";
// What the study's explorer and the report of a selection share. A page's own script follows; it calls `explore`.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const digits = (x, n = 3) => x.toLocaleString("en", { maximumFractionDigits: n, minimumFractionDigits: n });
const significant = (x) => x.toLocaleString("en", Number.isInteger(x) ? {} : { maximumSignificantDigits: 4 });
const SVG = "http://www.w3.org/2000/svg";

/** A new element; attributes and children are given. Text is text, never markup. */
function make(name, attributes = {}, ...children) {
  const inside = ["svg", "rect", "line", "text", "title", "g", "path"].includes(name);
  const node = inside ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// The formulas, as in the library ----------------------------------------------------------------------------

const sum = (values) => values.reduce((a, b) => a + b, 0);

function softmax(values) {
  const most = Math.max(...values);
  const powers = values.map((x) => Math.exp(x - most));
  const total = sum(powers);
  return powers.map((x) => x / total);
}

function minMax(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return values.map((x) => (high > low ? (x - low) / (high - low) : 0));
}

/** Ranks in (0, 1], ties share the mean of theirs. */
function ranks(values) {
  const [first, last] = [new Map(), new Map()];
  [...values].sort((a, b) => a - b).forEach((x, i) => {
    if (!first.has(x)) first.set(x, i);
    last.set(x, i);
  });
  return values.map((x) => ((first.get(x) + last.get(x)) / 2 + 1) / values.length);
}

function cam(nll, shares, form, temperature) {
  const a = softmax(nll.map((x) => -x));
  const b = form === "sum" ? shares : softmax(shares.map((x) => x / temperature));
  const size = (v) => Math.sqrt(sum(v.map((x) => x * x)));
  return 1 - sum(a.map((x, i) => x * b[i])) / (size(a) * size(b));
}

function hmp(rows, reader) {
  const gap = (name) => {
    const losses = rows.map((row) => (name === "long" ? row.long : row.readers[name]));
    const most = Math.max(...losses); // min-max forgets the factor, and a perplexity of exp(710) overflows
    return minMax(losses.map((x) => Math.exp(x - most)));
  };
  const [other, long] = [gap(reader), gap("long")];
  return softmax(other.map((x, i) => x - long[i]));
}

function combine(h, c, variant, alpha) {
  if (variant === "rank") [h, c] = [ranks(h), ranks(c)];
  if (variant === "softmax_both") c = softmax(c);
  return h.map((x, i) => alpha * x + (1 - alpha) * c[i]);
}

/** Places in `rows` of the first `count` of an order; twins and sources that have given their quota are passed over. */
function within(order, rows, count, quotas = new Map()) {
  const [taken, given] = [[], new Map()];
  for (const i of order) {
    const { source = "", twin = false } = rows[i];
    const before = given.get(source) || 0;
    if (twin || taken.length >= count || before >= (quotas.get(source) ?? Infinity)) continue;
    given.set(source, before + 1);
    taken.push(i);
  }
  return taken;
}

// A sample ---------------------------------------------------------------------------------------------------

/** What is known of the sample that is looked at: its row in the pool, and what only those shown whole have. */
function sampleShown() {
  const id = byId("sample").value;
  return { id, ...data.pool?.find((each) => each.id === id), ...data.shown[id] };
}

function showSample(about) {
  const sample = sampleShown();
  byId("about").replaceChildren(...about(sample));
  if (sample.losses) showLosses(sample);
  if (sample.nll) showSegments(sample);
  else byId("segments").replaceChildren();
  const among = data.among ?? data.pool.length;
  const head = make("tr", {}, ...["score", "value", `place among ${among.toLocaleString("en")}`].map((name) => make("th", {}, name)));
  byId("scores").replaceChildren(head, ...Object.entries(sample.scores).map(([name, [value, place]]) => make(
    "tr", {}, make("td", {}, name), make("td", { class: "n" }, significant(value)), make("td", { class: "n" }, place.toLocaleString("en")))));
}

function showLosses(sample) {
  const most = Math.max(1, ...Object.values(sample.losses).flat());
  byId("losses").replaceChildren(...Object.entries(sample.losses).map(([reader, losses]) => {
    const first = sample.tokens.length - losses.length;
    const shown = losses.map((nats, i) => make("span", {
      title: `${digits(nats)} nats`, style: `background: color-mix(in srgb, var(--other) ${Math.round((80 * nats) / most)}%, transparent)`,
    }, sample.tokens[first + i].trim()));
    const mean = digits(sum(losses) / losses.length, 2);
    return make("p", {}, make("b", {}, `${reader}, ${mean} nats a token: `), ...shown);
  }));
}

function showSegments(sample) {
  const seen = { importance: softmax(sample.nll.map((x) => -x)), attention: sample.attention };
  const [important, attended] = [Math.max(...seen.importance), Math.max(...seen.attention)];
  const order = sample.segments.map((_, i) => i);
  const first = seen[byId("order")?.value];
  if (first) order.sort((a, b) => first[b] - first[a]);
  byId("segments").replaceChildren(...order.map((i) => make(
    "div", { class: `segment${sample.evidence?.includes(i) ? " evidence" : ""}` }, make("span", { class: "note" }, String(i)),
    make("div", { title: `importance ${digits(seen.importance[i])}, attention ${digits(seen.attention[i])}` },
      make("div", { class: "bar important", style: `width: ${(100 * seen.importance[i]) / important}%` }),
      make("div", { class: "bar attended", style: `width: ${(100 * seen.attention[i]) / (attended || 1)}%` })),
    make("p", {}, sample.segments[i]))));
}

// A pool, ranked anew ----------------------------------------------------------------------------------------

/** What stands on a control, or what holds where the page has none of that name. */
const setting = (id, otherwise) => byId(id)?.value ?? otherwise;

/** The pool under the page's settings: scores in its order, places from the best, places of the chosen ones. */
function rankAnew() {
  const [rows, form] = [data.pool, setting("form", "sum")];
  const temperature = 10 ** Number(setting("temperature", 0));
  // The table's own value where there is one: what is kept of the segments is rounded.
  const mismatch = rows.map((row) => (form === "sum" && row.cam !== undefined ? row.cam : cam(row.nll, row.attention, form, temperature)));
  const guidance = hmp(rows, setting("reader", Object.keys(rows[0].readers)[0]));
  const scores = combine(guidance, mismatch, setting("variant", "rank"), Number(setting("alpha", data.alpha)));
  const order = rows.map((_, i) => i).sort((a, b) => scores[b] - scores[a]);
  const count = data.count ?? Math.round(data.share * rows.length);
  return { scores, order, chosen: within(order, rows, count, new Map(data.quotas)) };
}

function showRanking({ colour, tell }) {
  byId("alphaValue").value = digits(Number(byId("alpha").value), 2);
  if (byId("form")) {
    byId("temperatureValue").value = digits(10 ** Number(byId("temperature").value), 3);
    byId("temperature").disabled = byId("form").value === "sum";
  }
  const [rows, { scores, order, chosen }] = [data.pool, rankAnew()];
  const [found, ...more] = tell({ rows, scores, order, chosen });
  byId("found").textContent = found;
  byId("chosen").replaceChildren(...more);
  const [width, height] = [Math.max(600, Math.min(4 * rows.length, 2400)), 90];
  const low = Math.min(...scores), range = Math.max(...scores) - low || 1;
  const taken = new Set(chosen);
  const edge = chosen.length && order.indexOf(chosen.at(-1)) + 1;
  const passed = edge > chosen.length; // over some, so that no line parts the chosen from the others
  const bars = order.map((i, place) => {
    const high = 8 + ((scores[i] - low) / range) * (height - 8);
    return make("rect", {
      x: (place * width) / rows.length, y: height - high, width: (0.8 * width) / rows.length, height: high,
      fill: `var(--${colour(rows[i])})`, opacity: passed && !taken.has(i) ? 0.35 : 1,
    }, make("title", {}, `${rows[i].id}: ${digits(scores[i], 4)}`));
  });
  const at = (edge * width) / rows.length;
  const line = make("line", { x1: at, x2: at, y1: 0, y2: height, stroke: "var(--ink)", "stroke-width": 2 });
  byId("ranking").setAttribute("width", width);
  byId("ranking").setAttribute("height", height);
  byId("ranking").replaceChildren(...bars, ...(passed ? [] : [line]));
}

/** Fill the page, and again at every change. `about(sample)` and `tell(ranking)` give what a page says of them as text or nodes, the first
 *  of `tell` in one sentence; `colour(row)` names the variable of a bar's colour; `readers`: what the pool's readers are called;
 *  `first`: the sample that is seen first. */
function explore({ about, colour, tell, readers = {}, first }) {
  const option = (value, text) => make("option", { value }, text);
  const [look, rank] = [() => showSample(about), () => data.pool && showRanking({ colour, tell })];
  byId("sample").append(...(data.listed || Object.keys(data.shown)).map((id) => option(id, id)));
  if (first) byId("sample").value = first;
  byId("reader")?.append(...Object.keys(data.pool[0].readers).map((name) => option(name, readers[name] || name)));
  // A weight between two steps of the slider stays as it is.
  if (byId("alpha") && Math.abs(100 * data.alpha - Math.round(100 * data.alpha)) > 1e-9) byId("alpha").step = "any";
  for (const id of ["alpha", "variant"]) if (byId(id) && data[id] !== undefined) byId(id).value = data[id];
  for (const id of ["sample", "order"]) byId(id)?.addEventListener("input", look);
  for (const id of ["sample", "alpha", "variant", "reader", "form", "temperature"]) byId(id)?.addEventListener("input", rank);
  look();
  rank();
}
