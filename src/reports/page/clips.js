// The table of clips: a body for each prompt, a row for each method. Trees are made when opened.

const table = document.getElementById("clips");
const COLUMNS = run.measures.length + 2;

function head() {
  const names = run.measures.map((measure) =>
    make(
      "th",
      { scope: "col", role: "columnheader", className: measure.evidence ? "" : "own" },
      `${measure.name} ${measure.arrow}`,
      make("small", { title: measure.role }, measure.short),
    ),
  );
  const first = make("th", { scope: "col", role: "columnheader" }, "clip");
  const search = make("th", { scope: "col", role: "columnheader" }, "search");
  return make(
    "thead",
    { role: "rowgroup" },
    make("tr", { role: "row" }, first, ...names, search),
  );
}

/** A clip's number less the baseline's; null where one of them is not there. */
function difference(prompt, method, index) {
  const [own, base] = [prompt.clips[method], prompt.clips[run.baseline]];
  if (method === run.baseline || own?.scores === undefined || base?.scores === undefined) return null;
  const [a, b] = [own.scores[index], base.scores[index]];
  return a === null || b === null ? null : a - b;
}

function scoreCell(prompt, method, index) {
  const measure = run.measures[index];
  const clip = prompt.clips[method];
  const cell = make("td", { role: "cell", className: measure.evidence ? "" : "own" });
  const mark = measure.evidence ? "" : ` (${measure.short})`;
  cell.dataset.measure = `${measure.name} ${measure.arrow}${mark}`;
  const value = clip.scores[index];
  if (value === null) {
    const reason = clip.unjudged[measure.name] ?? "the records have no number for it";
    cell.append(make("details", {}, make("summary", {}, "unjudged"), reason));
    return cell;
  }
  cell.append(make("span", { className: "value" }, number(value, measure.digits)));
  const change = difference(prompt, method, index);
  const towards = measure.evidence && change !== null ? Math.sign(change * measure.better) : 0;
  const way = { [-1]: "worse", 0: "", 1: "better" }[towards];
  const text = change === null ? "" : signed(change, measure.digits);
  // Empty for the baseline, so that the numbers of all methods stand below each other.
  cell.append(" ", make("small", { className: way }, text));
  if (way) cell.append(unseen(` ${way} than the baseline`));
  return cell;
}

function size(tree) {
  if (tree.length > 1) return `tree, ${tree.length} steps`;
  const count = tree[0]?.length ?? 0;
  return count === 1 ? "1 candidate" : `${count} candidates`;
}

/** What the winner's number is made of, and what the search has spent. */
function account(clip) {
  const parts = Object.entries(clip.parts).map(([name, value]) => `${name} ${number(value, 3)}`);
  const about = [];
  if (parts.length) about.push(`The winner's ${run.measures[0].name}: ${parts.join(", ")}.`);
  if (clip.log_prob !== null) about.push(`Its log-probability: ${number(clip.log_prob, 3)}.`);
  about.push(`${clip.frames.toLocaleString("en")} frames, ${clip.scored} clips scored.`);
  return about.join(" ");
}

function legend(clip, method) {
  const steps = clip.tree.length > 1;
  const entries = steps
    ? [["kept", "kept and continued"], ["pruned", "pruned"], ["won", "won"]]
    : [["pruned", "passed over"], ["won", "won"]];
  const order = steps ? "Below each other: the best first, per parent. " : "The best first. ";
  return make(
    "p",
    { className: "legend" },
    method in run.summaries ? `${method}: ${run.summaries[method]}. ` : "",
    order,
    "Number of the candidate, then its score. ",
    ...entries.map(([state, text]) => make("span", { className: `node ${state}` }, text)),
  );
}

function openTree(button, prompt, method) {
  const row = button.closest("tr");
  const open = button.getAttribute("aria-expanded") !== "true";
  button.setAttribute("aria-expanded", String(open));
  if (!open) {
    row.nextElementSibling.remove();
    return;
  }
  const clip = prompt.clips[method];
  const name = `${method}, ${prompt.id}`;
  const cell = make(
    "td",
    { colSpan: COLUMNS, role: "cell" },
    make("p", { className: "account" }, account(clip)),
    legend(clip, method),
    drawTree(clip, name, run.measures[0].digits),
  );
  const opened = make("tr", { className: "opened", role: "row" }, cell);
  opened.dataset.method = method;
  row.after(opened);
}

function clipRow(prompt, method) {
  const clip = prompt.clips[method];
  const name = `${method}, ${prompt.id}`;
  const first = make("th", { scope: "row", role: "rowheader" });
  if (clip.audio && audio) first.append(playButton(clip.audio, name));
  else if (audio) first.append(make("span", { className: "play no-play" }));
  first.append(make("span", {}, method));
  if (clip.silent) first.append(" ", make("small", { className: "silent" }, clip.silent));
  const row = make("tr", { className: "clip", role: "row" }, first);
  row.dataset.method = method;
  if (clip.failed !== undefined) {
    const reason = make("td", { role: "cell", colSpan: COLUMNS - 1, className: "failed" });
    reason.append(make("b", {}, "failed"), ` ${clip.failed}`);
    row.append(reason);
    return row;
  }
  row.append(...run.measures.map((_, index) => scoreCell(prompt, method, index)));
  const more = make("td", { role: "cell", className: "more" });
  if (clip.tree.length) {
    const button = make("button", { type: "button", "aria-expanded": "false" }, size(clip.tree));
    button.append(unseen(` of ${name}`));
    button.addEventListener("click", () => openTree(button, prompt, method));
    more.append(button);
  }
  row.append(more);
  return row;
}

function promptBody(prompt) {
  const about = make("th", { scope: "rowgroup", role: "rowheader", colSpan: COLUMNS });
  about.append(make("span", { className: "caption", dir: "auto" }, prompt.text));
  about.append(" ", make("span", { className: "id" }, prompt.id));
  if (prompt.reference && audio) {
    const reference = make("span", { className: "reference" });
    reference.append(playButton(prompt.reference, `reference, ${prompt.id}`), "reference");
    about.append(" ", reference);
  }
  const heading = make("tr", { className: "prompt", role: "row" }, about);
  heading.dataset.method = "reference";
  const methods = run.methods.filter((method) => method in prompt.clips);
  const rows = methods.map((method) => clipRow(prompt, method));
  return make("tbody", { role: "rowgroup" }, heading, ...rows);
}

const bodies = run.prompts.map((prompt, order) => ({ prompt, order, body: promptBody(prompt) }));
table.append(head(), ...bodies.map(({ body }) => body));
