// The report of a selection; explorer_page.js stands before it.

const LISTED = 30; // ids that are named
const count = (n) => n.toLocaleString("en");

function about(sample) {
  const where = [`Place ${count(sample.place)} of ${count(data.among)} by ${data.score}`, sample.chosen ? "selected" : "not selected"];
  if (sample.source) where.push(`source ${sample.source}`);
  where.push(`${count(sample.tokens)} tokens${sample.dropped ? `, ${count(sample.dropped)} of them cut on the left` : ""}`);
  const losses = Object.entries(sample.means).map(([model, nats]) => `${model} ${digits(nats)}`);
  const told = (name, text) => [make("p", {}, make("b", {}, name)), make("p", { class: "text", tabindex: 0 }, text)];
  return [
    make("p", {}, `${where.join("; ")}.`),
    ...(losses.length ? [make("p", {}, `Loss of the response in nats a token: ${losses.join(", ")}.`)] : []),
    ...told("Instruction", sample.instruction), ...told("Response", sample.response),
    ...(sample.context ? told("Context, its beginning", sample.context) : []),
  ];
}

const colour = (row) => (row.chosen ? "other" : "noise");

function tell({ rows, order, chosen }) {
  const now = new Set(chosen);
  const [enter, leave] = [chosen.filter((i) => !rows[i].chosen), order.filter((i) => rows[i].chosen && !now.has(i))];
  const named = (what, some) => {
    const more = some.length > LISTED ? ` and ${count(some.length - LISTED)} more` : "";
    return make("p", {}, make("b", {}, `${what} ${count(some.length)}: `), some.slice(0, LISTED).map((i) => rows[i].id).join(", ") + more);
  };
  const seen = byId("sample").value;
  const place = order.findIndex((i) => rows[i].id === seen) + 1;
  return [
    enter.length + leave.length
      ? `Of the ${count(chosen.length)} chosen now, ${count(chosen.length - enter.length)} are in the selection.`
      : `The ${count(chosen.length)} chosen now are those of the selection.`,
    ...(enter.length ? [named("Enter", enter)] : []), ...(leave.length ? [named("Leave", leave)] : []),
    ...(place ? [make("p", { class: "note" }, `The sample above, ${seen}, has place ${count(place)} of ${count(rows.length)} now.`)] : []),
  ];
}

byId("again")?.addEventListener("click", () => {
  const start = { alpha: data.alpha, variant: data.variant, form: "sum", temperature: 0 };
  for (const [id, value] of Object.entries(start)) if (byId(id)) byId(id).value = value;
  byId("alpha").dispatchEvent(new Event("input"));
});
explore({ about, colour, tell });
