// What only the study's planted samples have; explorer_page.js stands before it.

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

const named = (kind) => kind.replaceAll("_", " ");

function about(sample) {
  const need = sample.far ? "needs far evidence" : sample.noise ? "noise" : "needs nothing far";
  return [make("p", {}, make("b", {}, named(sample.kind)), ` (${need}). ${sample.question}`)];
}

// 2 · A pool -------------------------------------------------------------------------------------------------

const colour = (row) => (row.far ? "far" : row.noise ? "noise" : "near");

function tell({ rows, scores, chosen }) {
  const share = (test) => `${Math.round((100 * chosen.filter((i) => test(rows[i])).length) / chosen.length)} %`;
  const kinds = {};
  for (const i of chosen) kinds[rows[i].kind] = (kinds[rows[i].kind] || 0) + 1;
  const told = Object.entries(kinds).sort((a, b) => b[1] - a[1]).map(([kind, n]) => `${n} ${named(kind)}`);
  return [`AUC ${digits(auc(rows, scores), 2)}. Of the ${chosen.length} chosen, ${share((row) => row.far)} need far evidence, ` +
    `${share((row) => row.noise)} are noise.`, `Chosen: ${told.join(", ")}.`];
}

// 3 · Pairs --------------------------------------------------------------------------------------------------

function showPairs() {
  const { rows, planted, segments, threshold } = data.pairs;
  const [cell, n] = [Math.max(12, Math.floor(460 / segments.length)), segments.length];
  const linked = new Set(planted.map(([i, j]) => `${i} ${j}`));
  const squares = rows.map(([i, j, strength, distance, specificity]) => {
    const colour = strength > 0 ? "var(--attended)" : "var(--important)";
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
  const colours = ["var(--important)", "var(--attended)", "var(--other)"];
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

const readers = { stretched: "short model, stretched (as published)", window: `long model, last ${data.window} tokens` };
for (const name of Object.keys(data.pool[0].readers)) readers[name] ??= `long model, ${name}`;
byId("strategy").append(...Object.entries(STRATEGIES).map(([value, text]) => make("option", { value }, text)));
byId("strategy").value = "skip_outer";
Object.assign(byId("target"), { max: data.target, value: data.target });
for (const id of ["strategy", "target"]) byId(id).addEventListener("input", showPositions);
byId("again").addEventListener("click", showPositions);
explore({ about, colour, tell, readers, first: Object.keys(data.shown).find((id) => id.includes("paraphrase")) });
showPairs();
showPositions();
