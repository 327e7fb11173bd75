// Sorting and filtering. Bodies are moved and hidden, never made again: what is open stays open.

const form = document.getElementById("choose");
const field = (id) => document.getElementById(id);

function option(value, text) {
  return make("option", { value }, text);
}

function fillForm() {
  const sort = field("sort");
  sort.append(option("order", "order of the run"), option("text", "prompt"));
  const kinds = [
    ["value", "Score, the best first", ""],
    ["difference", "Difference to the baseline, the best first", "difference in "],
  ];
  for (const [kind, label, words] of kinds) {
    if (kind === "difference" && !run.methods.some((method) => method !== run.baseline)) continue;
    const group = make("optgroup", { label });
    for (const [index, measure] of run.measures.entries()) {
      const name = `${measure.name} ${measure.arrow} (${measure.short})`;
      group.append(option(`${kind}:${index}`, `${words}${name}`));
    }
    sort.append(group);
  }
  for (const method of run.methods) {
    field("of-method").append(option(method, method));
    const box = make("input", { type: "checkbox", name: "method", value: method, checked: true });
    field("methods").append(make("label", { className: "check" }, box, ` ${method}`));
  }
  const searched = run.methods.filter((method) => method !== run.baseline);
  field("of-method").value = searched.at(-1) ?? run.methods[0] ?? "";
}

/** What to sort by: lower comes first; null comes last, reversed or not. */
function sortKey({ prompt, order }) {
  const [kind, index] = field("sort").value.split(":");
  const method = field("of-method").value;
  if (kind === "order") return order;
  if (kind === "text") return prompt.text.toLowerCase();
  const value =
    kind === "value"
      ? (prompt.clips[method]?.scores?.[index] ?? null)
      : difference(prompt, method, index);
  return value === null ? null : -value * run.measures[index].better;
}

function sortBodies() {
  const way = field("reversed").checked ? -1 : 1;
  const keyed = bodies.map((entry) => ({ ...entry, key: sortKey(entry) }));
  keyed.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
    return (a.key < b.key ? -way : a.key > b.key ? way : 0) || a.order - b.order;
  });
  table.append(...keyed.map(({ body }) => body));
  field("of").hidden = !field("sort").value.includes(":");
}

/** Whether a clip is in the state that is asked for. */
const STATES = {
  "": () => true,
  failed: (clip) => clip.failed !== undefined,
  unjudged: (clip) => Object.keys(clip.unjudged ?? {}).length > 0,
};

function filterBodies() {
  const boxes = [...form.querySelectorAll("input[name=method]")];
  const methods = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
  const words = field("text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = STATES[field("state").value];
  let count = 0;
  for (const { prompt, body } of bodies) {
    const text = `${prompt.id} ${prompt.text}`.toLowerCase();
    const clips = Object.entries(prompt.clips).filter(([method]) => methods.has(method));
    const fits =
      words.every((word) => text.includes(word)) && clips.some(([, clip]) => wanted(clip));
    body.hidden = !fits;
    count += fits;
    for (const row of body.querySelectorAll("tr.clip, tr.opened")) {
      row.hidden = !methods.has(row.dataset.method);
    }
  }
  field("count").textContent = `${count} of ${bodies.length} prompts`;
}

fillForm();
sortBodies();
filterBodies();
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", (event) => {
  if (["sort", "of-method", "reversed"].includes(event.target.id)) sortBodies();
  else filterBodies();
});
