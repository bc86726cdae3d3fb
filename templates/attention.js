// Attention patterns over one text: thumbnails of all heads, and enlarged ones. A head has a name
// and a flat pattern `[dest, src]`; rows are destinations (queries).

// From white at 0 to dark blue at 1.
function blue(part) {
  const mix = (a, b) => Math.round(a + (b - a) * Math.min(1, Math.max(0, part)));
  return `rgb(${mix(255, 8)},${mix(255, 48)},${mix(255, 107)})`;
}
const BLUES = Array.from({ length: 255 }, (_, i) => blue(i / 254));
const ON_BLUES = BLUES.map((_, i) => i > 120 ? "#fff" : "#222");
const GREY = "rgb(96,96,96)";

function paint(canvas, pattern, n) {
  canvas.width = canvas.height = n;
  const context = canvas.getContext("2d");
  pattern.forEach((p, i) => {
    context.fillStyle = typeof p === "number" ? blue(p) : GREY;
    context.fillRect(i % n, Math.floor(i / n), 1, 1);
  });
}
// One button per head; Enter or a click chooses it.
function thumbnails(root, heads, n, choose) {
  return heads.map((head, h) => {
    const button = add(root, "button");
    button.type = "button";
    paint(add(button, "canvas"), head.pattern, n);
    add(button, "span", head.name, "mono");
    if (head.label) add(button, "span", head.label, "label");
    button.title = head.label ? `${head.name} ${head.label}` : head.name;
    button.setAttribute("aria-label", `attention of head ${button.title}`);
    button.setAttribute("aria-pressed", "false");
    button.onclick = () => choose(h, button);
    return button;
  });
}
// The head's pattern as a table, below the text in which each token shows where it attends, or
// who attends to it.
function enlarge(root, head, tokens, mode) {
  const n = tokens.length;
  const weight = (dest, src) => head.pattern[dest * n + src];
  const say = p => typeof p === "number" ? significant(p, 3) : "NaN";
  const text = add(root, "div", undefined, "text");
  const readout = add(root, "div", "", "readout mono");
  readout.setAttribute("role", "status");
  const point = at => {
    const from = mode() === "from";
    const weights = tokens.map((_, i) => from ? weight(at, i) : weight(i, at));
    const best = weights.reduce((best, p, i) => p > weights[best] ? i : best, 0);
    shown.forEach((token, i) => {
      token.style.background = typeof weights[i] === "number" ? blue(weights[i]) : GREY;
      token.style.color = weights[i] > 0.47 ? "#fff" : "#222";
      token.classList.toggle("at", i === at);
      token.title = `${tokens[i]}@${i}: ${say(weights[i])}`;
    });
    readout.textContent = `${tokens[at]}@${at} ${from ? "attends most to" : "is attended to most by"} `
      + `${tokens[best]}@${best}: ${say(weights[best])}`;
  };
  const shown = tokens.map((token, i) => {
    const node = add(text, "button", token, "token");
    node.type = "button";
    node.onmouseenter = node.onfocus = () => point(i);
    return node;
  });
  point(n - 1);
  // Beyond this a table of all pairs is too much for a browser.
  if (n > 128) {
    const canvas = add(root, "canvas");
    paint(canvas, head.pattern, n);
    canvas.style.cssText = "width: min(90vw, 80vh); image-rendering: pixelated; border: 1px solid #888";
    return;
  }
  const labels = tokens.map((token, i) => `${token}@${i}`);
  const axes = [{ name: "from", labels }, { name: "to", labels }];
  const absent = head.pattern.flatMap((p, i) => p === null ? [i] : []);
  const nan = { name: "NaN", meaning: "the computation's result is not a number", mark: "NaN", color: GREY, ink: "#fff", cells: absent };
  showMap(add(root, "div"), {
    title: `attention of head ${head.name}`, axes, unit: "attention", values: head.pattern,
    parts: axes.map((axis, i) => ({ name: axis.name, axes: [i], labels })),
    std_error: null, texts: null, absent: absent.length ? [nan] : [], note: null,
    limits: [0, 1], ends: [0, 1], shown: [0, 254], colors: BLUES, inks: ON_BLUES, decimals: 2,
  });
}
// A choice of what tokens show; returns how to read it.
function chooseMode(root, changed) {
  const select = add(add(add(root, "p"), "label", "A token shows "), "select");
  const choices = { from: "where it attends (it is the destination)", to: "who attends to it (it is the source)" };
  for (const [value, text] of Object.entries(choices)) add(select, "option", text).value = value;
  select.onchange = changed;
  return () => select.value;
}
// Thumbnails of all heads; those chosen are enlarged below.
function showAttention(root, attention) {
  add(root, "p", "Choose heads to enlarge them; then point at a token, or at a cell of a pattern. Rows of a "
    + "pattern are destinations (queries), columns are sources (keys); white is 0, dark blue is 1.");
  const chosen = new Set();
  const mode = chooseMode(root, () => draw());
  const thumbs = add(root, "div", undefined, "thumbs");
  const panels = add(root, "div");
  const draw = () => {
    panels.replaceChildren();
    for (const h of [...chosen].sort((a, b) => a - b)) {
      const panel = add(panels, "section", undefined, "panel");
      add(panel, "h3", `Head ${attention.heads[h].name}`);
      enlarge(panel, attention.heads[h], attention.tokens, mode);
    }
  };
  const choose = (h, button) => {
    if (!chosen.delete(h)) chosen.add(h);
    button.setAttribute("aria-pressed", chosen.has(h));
    draw();
  };
  const buttons = thumbnails(thumbs, attention.heads, attention.tokens.length, choose);
  choose(0, buttons[0]);
}
