"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const digits = (x, n = 3) => x.toLocaleString("en", { maximumFractionDigits: n, minimumFractionDigits: n });
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
  const sorted = [...values].sort((a, b) => a - b);
  const place = (x) => (sorted.indexOf(x) + sorted.lastIndexOf(x)) / 2 + 1;
  return values.map((x) => place(x) / values.length);
}

function cam(nll, shares, form, temperature) {
  const a = softmax(nll.map((x) => -x));
  const b = form === "sum" ? shares : softmax(shares.map((x) => x / temperature));
  const size = (v) => Math.sqrt(sum(v.map((x) => x * x)));
  return 1 - sum(a.map((x, i) => x * b[i])) / (size(a) * size(b));
}

function hmp(rows, reader) {
  const gap = (name) => minMax(rows.map((row) => Math.exp(name === "long" ? row.long : row.readers[name])));
  const [other, long] = [gap(reader), gap("long")];
  return softmax(other.map((x, i) => x - long[i]));
}

function combine(h, c, variant, alpha) {
  if (variant === "rank") [h, c] = [ranks(h), ranks(c)];
  if (variant === "softmax_both") c = softmax(c);
  return h.map((x, i) => alpha * x + (1 - alpha) * c[i]);
}

/** Chance that a wanted sample scores above an unwanted one, ties half. */
function auc(rows, scores) {
  let [above, pairs] = [0, 0];
  rows.forEach((a, i) => a.far && rows.forEach((b, j) => {
    if (b.far) return;
    pairs += 1;
    above += scores[i] > scores[j] ? 1 : scores[i] === scores[j] ? 0.5 : 0;
  }));
  return above / pairs;
}

function skipPositions(turns, target, strategy, jumps = 2) {
  const total = sum(turns);
  const plain = [...Array(total).keys()];
  const draw = (n) => Math.floor(Math.random() * n); // 0 .. n - 1
  const some = (from, n) => {
    const left = [...from];
    return [...Array(Math.min(n, left.length))].map(() => left.splice(draw(left.length), 1)[0]);
  };
  if (strategy === "normal") return plain;
  if (strategy === "randpos") return some([...Array(target).keys()], total).sort((a, b) => a - b);
  const outer = turns.slice(0, -1).map((_, i) => sum(turns.slice(0, i + 1)));
  const inner = some(plain.slice(1).filter((x) => !outer.includes(x)), jumps);
  const places = { pose: [1 + draw(Math.floor((total + 1) / 2))], skip_outer: outer, skip_inner: inner, skip_all: [...outer, ...inner] };
  const cuts = places[strategy].sort((a, b) => a - b);
  const skip = draw(target - total + 1);
  const ends = [0, ...cuts.slice(1).map(() => draw(skip + 1)).sort((a, b) => a - b), skip];
  const jumped = cuts.map((_, k) => ends[k + 1] - ends[k]);
  let shift = 0;
  return plain.map((x) => (cuts.forEach((cut, k) => (shift += cut === x ? jumped[k] : 0)), x + shift));
}

// 1 · A sample -----------------------------------------------------------------------------------------------

function showSample() {
  const id = byId("sample").value;
  const [sample, row] = [data.shown[id], data.pool.find((each) => each.id === id)];
  const need = row.far ? "needs far evidence" : row.noise ? "noise" : "needs nothing far";
  byId("about").replaceChildren(make("b", {}, row.kind.replaceAll("_", " ")), ` (${need}). ${sample.question}`);
  const most = Math.max(1, ...Object.values(sample.losses).flat());
  byId("losses").replaceChildren(...Object.entries(sample.losses).map(([reader, losses]) => {
    const first = sample.tokens.length - losses.length;
    const shown = losses.map((nats, i) => make("span", {
      title: `${digits(nats)} nats`, style: `background: color-mix(in srgb, var(--far) ${Math.round((80 * nats) / most)}%, transparent)`,
    }, sample.tokens[first + i].trim()));
    const mean = digits(sum(losses) / losses.length, 2);
    return make("p", {}, make("b", {}, `${reader}, ${mean} nats a token: `), ...shown);
  }));
  const importance = softmax(row.nll.map((x) => -x));
  const scale = [Math.max(...importance), Math.max(...row.attention)];
  byId("segments").replaceChildren(...sample.segments.map((text, i) => make(
    "div", { class: `segment${sample.evidence.includes(i) ? " evidence" : ""}` }, make("span", { class: "note" }, String(i)),
    make("div", { title: `importance ${digits(importance[i])}, attention ${digits(row.attention[i])}` },
      make("div", { class: "bar important", style: `width: ${(100 * importance[i]) / scale[0]}%` }),
      make("div", { class: "bar attended", style: `width: ${(100 * row.attention[i]) / scale[1]}%` })),
    make("p", {}, text))));
  const head = make("tr", {}, ...["score", "value", `place among ${data.pool.length}`].map((name) => make("th", {}, name)));
  byId("scores").replaceChildren(head, ...Object.entries(sample.scores).map(([name, [value, place]]) => make(
    "tr", {}, make("td", {}, name), make("td", { class: "n" }, value.toLocaleString("en", { maximumSignificantDigits: 4 })), make("td", { class: "n" }, String(place)))));
}

// 2 · A pool -------------------------------------------------------------------------------------------------

function showRanking() {
  const [alpha, temperature] = [Number(byId("alpha").value), 10 ** Number(byId("temperature").value)];
  byId("alphaValue").value = digits(alpha, 2);
  byId("temperatureValue").value = digits(temperature, 3);
  byId("temperature").disabled = byId("form").value === "sum";
  const rows = data.pool;
  const mismatch = rows.map((row) => cam(row.nll, row.attention, byId("form").value, temperature));
  const scores = combine(hmp(rows, byId("reader").value), mismatch, byId("variant").value, alpha);
  const order = rows.map((_, i) => i).sort((a, b) => scores[b] - scores[a]);
  const count = Math.round(data.share * rows.length);
  const chosen = order.slice(0, count).map((i) => rows[i]);
  const share = (test) => `${Math.round((100 * chosen.filter(test).length) / count)} %`;
  byId("found").textContent = `AUC ${digits(auc(rows, scores), 2)}. Of the ${count} chosen, ${share((row) => row.far)} need far evidence, ` +
    `${share((row) => row.noise)} are noise.`;
  const [width, height] = [Math.max(600, 4 * rows.length), 90];
  const low = Math.min(...scores), range = Math.max(...scores) - low || 1;
  const bars = order.map((i, place) => {
    const high = 8 + ((scores[i] - low) / range) * (height - 8);
    const colour = rows[i].far ? "far" : rows[i].noise ? "noise" : "near";
    return make("rect", { x: (place * width) / rows.length, y: height - high, width: (0.8 * width) / rows.length, height: high, fill: `var(--${colour})` },
      make("title", {}, `${rows[i].id}: ${digits(scores[i], 4)}`));
  });
  const edge = (count * width) / rows.length;
  const line = make("line", { x1: edge, x2: edge, y1: 0, y2: height, stroke: "var(--ink)", "stroke-width": 2 });
  byId("ranking").setAttribute("width", width);
  byId("ranking").setAttribute("height", height);
  byId("ranking").replaceChildren(...bars, line);
  const kinds = {};
  for (const row of chosen) kinds[row.kind] = (kinds[row.kind] || 0) + 1;
  const told = Object.entries(kinds).sort((a, b) => b[1] - a[1]).map(([kind, n]) => `${n} ${kind.replaceAll("_", " ")}`);
  byId("chosen").textContent = `Chosen: ${told.join(", ")}.`;
}

// 3 · Pairs --------------------------------------------------------------------------------------------------

function showPairs() {
  const { rows, planted, segments, threshold } = data.pairs;
  const [cell, n] = [Math.max(12, Math.floor(460 / segments.length)), segments.length];
  const linked = new Set(planted.map(([i, j]) => `${i} ${j}`));
  const squares = rows.map(([i, j, strength, distance, specificity]) => {
    const colour = strength > 0 ? "var(--far)" : "var(--near)";
    const square = make("rect", {
      x: j * cell + 30, y: i * cell + 4, width: cell - 1, height: cell - 1, tabindex: -1,
      fill: `color-mix(in srgb, ${colour} ${Math.round(100 * Math.min(1, Math.abs(strength)))}%, var(--faint))`,
    }, make("title", {}, `i ${i}, j ${j}: ${digits(strength, 2)}`));
    square.addEventListener("click", () => pick(square, i, j, strength, distance, specificity, linked.has(`${i} ${j}`), threshold));
    return square;
  });
  const frames = planted.map(([i, j]) => make("rect", {
    x: j * cell + 30, y: i * cell + 4, width: cell - 1, height: cell - 1, fill: "none", stroke: "var(--link)", "stroke-width": 2.5,
    style: "pointer-events: none",
  }));
  const names = [...Array(n).keys()].filter((i) => i % 5 === 0).flatMap((i) => [
    make("text", { x: 4, y: i * cell + cell }, String(i)), make("text", { x: i * cell + 30, y: n * cell + 18 }, String(i))]);
  byId("matrix").setAttribute("width", n * cell + 34);
  byId("matrix").setAttribute("height", n * cell + 24);
  byId("matrix").replaceChildren(...squares, ...frames, ...names);
  const first = rows.findIndex(([i, j]) => linked.has(`${i} ${j}`));
  squares[Math.max(0, first)].dispatchEvent(new Event("click"));
}

function pick(square, i, j, strength, distance, specificity, linked, threshold) {
  document.querySelectorAll("#matrix .picked").forEach((each) => each.classList.remove("picked"));
  square.classList.add("picked");
  const told = `Strength ${digits(strength, 2)} (${strength > threshold ? "above" : "below"} the threshold), distance ${digits(distance, 2)}, ` +
    `specificity ${digits(specificity, 2)}. ${linked ? "A planted link." : "No planted link."}`;
  byId("picked").replaceChildren(make("p", {}, told), make("p", {}, make("b", {}, `Segment ${j}: `), data.pairs.segments[j]),
    make("p", {}, make("b", {}, `Segment ${i}: `), data.pairs.segments[i]));
}

// 4 · Positions ----------------------------------------------------------------------------------------------

const STRATEGIES = { normal: "ordinary", pose: "PoSE", skip_outer: "Skip-Outer", skip_inner: "Skip-Inner", skip_all: "Skip-All", randpos: "RandPos" };

function showPositions() {
  const [target, turns] = [Number(byId("target").value), data.turns];
  byId("targetValue").value = target.toLocaleString("en");
  const ids = skipPositions(turns, target, byId("strategy").value);
  const [width, height] = [900, 56];
  const colours = ["var(--near)", "var(--attended)", "var(--far)"];
  const turn = (token) => turns.findIndex((_, k) => token < sum(turns.slice(0, k + 1)));
  const ticks = ids.map((id, token) => make("rect", { x: (id * width) / target, y: 6, width: 1, height: 30, fill: colours[turn(token)] }));
  const ends = [make("text", { x: 0, y: 52 }, "0"), make("text", { x: width, y: 52, "text-anchor": "end" }, target.toLocaleString("en"))];
  byId("positions").setAttribute("width", width);
  byId("positions").setAttribute("height", height);
  byId("positions").replaceChildren(make("line", { x1: 0, x2: width, y1: 36, y2: 36, stroke: "var(--faint)" }), ...ticks, ...ends);
  const answer = ids[turns[0] + turns[1]];
  byId("distance").textContent = `${ids.length} tokens: document, question, response. From the first token to the response ` +
    `${(answer - ids[0]).toLocaleString("en")} positions, from the question to the response ${(answer - ids[turns[0]]).toLocaleString("en")}.`;
}

// ------------------------------------------------------------------------------------------------------------

const option = (value, text) => make("option", { value }, text);
byId("sample").append(...Object.keys(data.shown).map((id) => option(id, id)));
byId("reader").append(...Object.keys(data.pool[0].readers).map((name) => option(name, {
  stretched: "short model, stretched (as published)", window: `long model, last ${data.window} tokens`,
}[name] || `long model, ${name}`)));
byId("strategy").append(...Object.entries(STRATEGIES).map(([value, text]) => option(value, text)));
byId("strategy").value = "skip_outer";
byId("sample").value = Object.keys(data.shown).find((id) => id.includes("paraphrase")) || Object.keys(data.shown)[0];
byId("alpha").value = data.alpha;
Object.assign(byId("target"), { max: data.target, value: data.target });
byId("sample").addEventListener("input", showSample);
for (const id of ["alpha", "variant", "reader", "form", "temperature"]) byId(id).addEventListener("input", showRanking);
for (const id of ["strategy", "target"]) byId(id).addEventListener("input", showPositions);
byId("again").addEventListener("click", showPositions);
showSample();
showRanking();
showPairs();
showPositions();
