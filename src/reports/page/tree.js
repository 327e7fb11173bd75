// A search's tree, made when it is opened: steps from left to right, children beside their parents,
// the best first. One step alone (best-of-n, the baseline) is a list of candidates.

const ROW = 1.7; // em, height of a candidate
const COLUMN = 9; // em, width of a step
const BOX = 6.4; // em, what of it the candidate takes; the rest is for the lines

/** Rows for drawing: each step's nodes in an order in which no two lines cross. */
function layout(tree) {
  const steps = [];
  for (const [step, nodes] of tree.entries()) {
    const place = new Map(step ? steps[step - 1].map((node, row) => [node.slot, row]) : []);
    const listed = nodes.map(([slot, parent, score, logProb, kept, reason]) => {
      const node = { step, slot, parent, score, logProb, kept: Boolean(kept), reason };
      return { ...node, won: node.kept && step === tree.length - 1, onPath: false };
    });
    const above = (node) => place.get(node.parent) ?? 0;
    const rank = (node) => node.score ?? -Infinity; // without a score: last
    steps.push(listed.sort((a, b) => above(a) - above(b) || (rank(b) > rank(a)) - (rank(b) < rank(a))));
  }
  let slot = steps.at(-1)?.find((node) => node.won)?.slot;
  for (const nodes of [...steps].reverse()) {
    const node = nodes.find((other) => other.slot === slot);
    if (!node) break;
    node.onPath = true;
    slot = node.parent;
  }
  return steps;
}

function candidate(node, digits, leaves, name) {
  const state = node.won ? "won" : node.kept ? "kept" : "pruned";
  const from = node.parent === null ? "" : `, continues ${node.parent}`;
  const item = make("span", {
    className: `node ${state}${node.onPath ? " path" : ""}`,
    role: "listitem",
    title: node.reason ?? `log-probability ${number(node.logProb, 3)}`,
  });
  item.dataset.slot = node.slot;
  item.dataset.step = node.step;
  if (leaves) {
    const file = String(node.slot).padStart(3, "0");
    item.append(playButton(`${leaves}/${file}.wav`, `candidate ${node.slot} of ${name}`));
  }
  item.append(
    unseen(`step ${node.step + 1}, candidate `),
    make("span", { className: "slot" }, String(node.slot)),
    unseen(`${from}: `),
    make("b", {}, node.reason ? "no score" : number(node.score, digits)),
    unseen(node.reason ? `, ${node.reason}` : `, ${state}`),
  );
  return item;
}

function lines(steps, rows) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${steps.length * COLUMN} ${rows * ROW}`);
  svg.setAttribute("aria-hidden", "true");
  for (const [step, nodes] of steps.entries()) {
    if (!step) continue;
    for (const [row, node] of nodes.entries()) {
      const parentRow = steps[step - 1].findIndex((other) => other.slot === node.parent);
      if (parentRow < 0) continue;
      const [x1, x2] = [(step - 1) * COLUMN + BOX, step * COLUMN];
      const [y1, y2] = [(parentRow + 0.5) * ROW, (row + 0.5) * ROW];
      const middle = (x1 + x2) / 2;
      const path = document.createElementNS(svg.namespaceURI, "path");
      path.setAttribute("d", `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`);
      path.setAttribute("class", node.onPath ? "path" : node.kept ? "kept" : "pruned");
      svg.append(path);
    }
  }
  // The path to the winner is drawn last, over the others.
  svg.append(...svg.querySelectorAll(".kept"), ...svg.querySelectorAll(".path"));
  return svg;
}

/** clip: one method's clip of a prompt, as src/reports/page/__init__.py has it. */
function drawTree(clip, name, digits) {
  const steps = layout(clip.tree);
  const last = steps.length - 1;
  const nodes = steps.map((listed, step) =>
    listed.map((node) => candidate(node, digits, step === last && audio ? clip.leaves : null, name)),
  );
  if (steps.length < 2) {
    return make("div", { className: "pool", role: "list" }, ...nodes.flat());
  }
  const rows = Math.max(...steps.map((listed) => listed.length));
  const drawing = make("div", { className: "drawing", role: "list" }, lines(steps, rows));
  drawing.style.width = `${(steps.length - 1) * COLUMN + BOX + 1}em`;
  drawing.style.height = `${rows * ROW}em`;
  for (const [step, items] of nodes.entries()) {
    for (const [row, item] of items.entries()) {
      item.style.left = `${step * COLUMN}em`;
      item.style.top = `${row * ROW}em`;
      drawing.append(item);
    }
  }
  const heads = steps.map((_, step) => {
    const head = make("span", { className: "step" }, `step ${step + 1}`);
    head.style.width = `${COLUMN}em`;
    return head;
  });
  const label = `Search tree of ${name}`;
  return make(
    "div",
    { className: "tree", role: "region", tabIndex: 0, "aria-label": label },
    make("div", { className: "steps", "aria-hidden": "true" }, ...heads),
    drawing,
  );
}
