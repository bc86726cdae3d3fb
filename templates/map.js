// A result as a table: `map` has axes (name, labels), the parts of cells' names, flat values,
// std_error, texts and reasons for absent values, the unit, and colours over `limits`.

// JSON has no NaN (null here) and no infinities (texts here).
function toNumber(cell) {
  return cell === null ? NaN : cell === "inf" ? Infinity : cell === "-inf" ? -Infinity : cell;
}
function significant(value, digits) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(digits))) : String(value).replace("Infinity", "∞");
}
// The error to two significant digits, the value as far.
function estimate(value, error) {
  if (!(error > 1e-5 && error < 1e4) || Math.abs(value) > 1e6)
    return significant(value, 4) + (Number.isNaN(error) ? "" : " ± " + significant(error, 2));
  const decimals = Math.max(0, 1 - Math.floor(Math.log10(error)));
  return value.toFixed(decimals) + " ± " + error.toFixed(decimals);
}
// All numbers of a table alike.
function fixed(value, decimals) {
  if (!Number.isFinite(value)) return significant(value);
  return decimals === null ? value.toExponential(2) : value.toFixed(decimals).replace(/^-(?=[0.]+$)/, "");
}
function reasonsOf(map) {
  const reasons = new Map();
  for (const reason of map.absent) for (const at of reason.cells) reasons.set(at, reason);
  return reasons;
}
function errorAt(map, at) {
  return map.std_error ? toNumber(map.std_error[at]) : NaN;
}
function describe(map, reasons, index) {
  const place = part => part.labels[part.axes.reduce((at, axis) => at * map.axes[axis].labels.length + index[axis], 0)];
  const at = map.axes.reduce((at, axis, i) => at * axis.labels.length + index[i], 0);
  const reason = reasons.get(at);
  const value = reason ? `${reason.name} (${reason.meaning})`
    : `${estimate(toNumber(map.values[at]), errorAt(map, at))} ${map.unit}`;
  const names = map.parts.map(part => part.name ? `${part.name} ${place(part)}` : place(part));
  return `${names.join(", ")}: ${map.texts ? "`" + map.texts[at] + "` " : ""}${value}`;
}
function step(map, value) {
  const part = (value - map.limits[0]) / (map.limits[1] - map.limits[0]);
  return Math.round(Math.min(1, Math.max(0, part)) * (map.colors.length - 1));
}

const tip = add(document.body, "div", "", "mono");
tip.id = "tip";
tip.setAttribute("aria-hidden", "true");
function showTip(text, cell) {
  tip.textContent = text;
  tip.style.display = "block";
  const box = cell.getBoundingClientRect();
  const left = Math.min(box.left, window.innerWidth - tip.offsetWidth - 8);
  const below = box.bottom + tip.offsetHeight + 6 < window.innerHeight;
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = (below ? box.bottom + 4 : box.top - tip.offsetHeight - 4) + "px";
}
function hideTip() { tip.style.display = "none"; }

// Cells by row: Tab enters at one of them, arrows and Home, End move, and what is pointed at or has
// the focus is told.
function walk(table, rows, tell) {
  const place = new Map();
  rows.forEach((row, r) => row.forEach((cell, c) => { place.set(cell, [r, c]); cell.tabIndex = -1; }));
  let entry = rows[0][0];
  entry.tabIndex = 0;
  const told = (event, withTip) => {
    const cell = event.target.closest("td"), at = place.get(cell);
    if (at) tell(at, cell, withTip);
  };
  table.addEventListener("mouseover", event => told(event, true));
  table.addEventListener("mouseleave", hideTip);
  table.addEventListener("focusout", hideTip);
  table.addEventListener("focusin", event => {
    if (!place.has(event.target)) return;
    entry.tabIndex = -1;
    entry = event.target;
    entry.tabIndex = 0;
    told(event, event.target.matches(":focus-visible"));
  });
  table.addEventListener("keydown", event => {
    const [r, c] = place.get(event.target) || [];
    if (r === undefined) return;
    const all = event.ctrlKey, last = rows[r].length - 1;
    const to = {
      ArrowLeft: [r, c - 1], ArrowRight: [r, c + 1], ArrowUp: [r - 1, c], ArrowDown: [r + 1, c],
      Home: [all ? 0 : r, 0], End: [all ? rows.length - 1 : r, last],
    }[event.key];
    const next = to && rows[to[0]] && rows[to[0]][to[1]];
    if (to) event.preventDefault();
    if (next) next.focus();
  });
}

// The lines of text of a cell: its own text, its value, the value's error.
function linesAt(map, reasons, at) {
  const reason = reasons.get(at), value = toNumber(map.values[at]);
  if (reason) return [reason.name];
  const lines = map.texts ? [map.texts[at]] : [];
  lines.push(fixed(value, map.decimals));
  if (!Number.isNaN(errorAt(map, at))) lines.push("±" + fixed(errorAt(map, at), map.decimals));
  return lines;
}

function grid(root, map, index, readout) {
  const inner = map.axes.slice(-2), reasons = reasonsOf(map);
  const [row, col] = inner;
  const first = index.reduce((at, i, axis) => at * map.axes[axis].labels.length + i, 0);
  const offset = (r, c) => (first * row.labels.length + r) * col.labels.length + c;
  root.replaceChildren();
  const table = add(root, "table", undefined, "map");
  table.setAttribute("role", "grid");
  add(table, "caption", `${map.title}; rows: ${row.name}, columns: ${col.name}; ${map.unit}`, "hidden");
  const head = add(add(table, "thead"), "tr");
  add(head, "th", row.name + " \\ " + col.name, "corner");
  for (const label of col.labels) {
    const cell = add(head, "th");
    add(cell, "span", label);
    cell.scope = "col";
  }
  const body = add(table, "tbody");
  const cells = row.labels.map((label, r) => {
    const line = add(body, "tr");
    add(line, "th", label).scope = "row";
    return col.labels.map((_, c) => {
      const at = offset(r, c), reason = reasons.get(at), value = toNumber(map.values[at]);
      const cell = add(line, "td");
      cell.style.background = reason ? reason.color : map.colors[step(map, value)];
      cell.style.color = reason ? reason.ink : map.inks[step(map, value)];
      return cell;
    });
  });
  walk(table, cells, ([r, c], cell, withTip) => {
    const text = describe(map, reasons, [...index, r, c]);
    readout.textContent = text;
    if (withTip) showTip(text, cell);
  });
  return () => fit(root, table, cells, (r, c) => linesAt(map, reasons, offset(r, c)), map, (r, c) => reasons.get(offset(r, c)));
}

// No spread into `Math.max`: a call takes only so many arguments.
const widest = texts => texts.reduce((most, text) => Math.max(most, text.length), 0);
// Makes cells as large as the window allows, and writes into them what then has room: the largest
// font that holds all lines, or else fewer lines, or none.
function fit(root, table, cells, linesOf, map, reasonOf) {
  const lines = cells.map((row, r) => row.map((_, c) => linesOf(r, c)));
  const all = lines.flat(), cols = cells[0].length;
  const [rowLabels, colLabels] = map.axes.slice(-2).map(axis => axis.labels);
  const corner = table.querySelector(".corner").textContent;
  const roomX = (root.clientWidth - widest([...rowLabels, corner]) * 7.4 - 24) / cols;
  const roomY = (window.innerHeight - 250) / cells.length;
  // A text may be cut; a number may not.
  const texts = map.texts ? Math.min(8, widest(all.map(cell => cell[0]))) : 0;
  const size = { w: Math.min(260, Math.max(18, texts * 6.8 + 6, Math.floor(roomX))), h: 0 };
  size.h = Math.min(130, 2 * size.w, Math.max(18, Math.floor(roomY)));
  const chars = n => Math.max(texts, widest(all.flatMap(cell => cell.slice(map.texts && cell.length > 1 ? 1 : 0, n))));
  let n = widest(all), font = 17;
  const fits = () => chars(n) * font * 0.61 + 4 <= size.w && n * font * 1.3 + 4 <= Math.max(size.h, roomY < 18 ? 0 : 20);
  while (n > 0 && !fits()) {
    font -= 1;
    if (font < 11) { n -= 1; font = 17; }
  }
  table.style.setProperty("--w", size.w + "px");
  table.style.setProperty("--h", size.h + "px");
  table.style.setProperty("--font", font + "px");
  table.classList.toggle("small", n === 0);
  table.classList.toggle("tiny", size.w < 14);
  table.classList.toggle("upright", widest(colLabels) * 7.4 > size.w);
  cells.forEach((row, r) => row.forEach((cell, c) => {
    cell.textContent = lines[r][c].slice(0, n || undefined).join("\n");
    const reason = reasonOf(r, c);
    if (reason && n === 0) cell.dataset.mark = reason.mark; else delete cell.dataset.mark;
  }));
}

function bars(root, map, readout) {
  const reasons = reasonsOf(map), axis = map.axes[0] || { name: "", labels: [""] };
  const ends = axis.labels.flatMap((_, i) => {
    const value = toNumber(map.values[i]), error = errorAt(map, i) || 0;
    return [value - error, value + error];
  }).filter(Number.isFinite);
  const low = ends.reduce((a, b) => Math.min(a, b), 0);
  const high = ends.reduce((a, b) => Math.max(a, b), 0) || (low < 0 ? 0 : 1);
  const percent = value => 100 * (Math.min(high, Math.max(low, value)) - low) / (high - low);
  root.replaceChildren();
  const table = add(root, "table", undefined, "bars");
  add(table, "caption", `${map.title}; ${map.unit}`, "hidden");
  const head = add(add(table, "thead"), "tr");
  for (const [i, name] of [axis.name, "", map.unit].entries()) {
    const cell = add(head, i === 1 ? "td" : "th", name);
    if (i !== 1) cell.scope = "col";
  }
  const body = add(table, "tbody");
  const cells = axis.labels.map((label, i) => {
    const line = add(body, "tr");
    add(line, "th", label).scope = "row";
    const bar = add(add(line, "td"), "div", undefined, "bar");
    bar.setAttribute("aria-hidden", "true");
    const value = toNumber(map.values[i]), error = errorAt(map, i), reason = reasons.get(i);
    add(bar, "div", undefined, "zero").style.left = percent(0) + "%";
    const part = (name, from, to) => {
      const node = add(bar, "div", undefined, name);
      node.style.left = percent(from) + "%";
      node.style.width = percent(to) - percent(from) + "%";
      return node;
    };
    if (!reason) part("fill", Math.min(0, value), Math.max(0, value)).style.background = value < 0 ? map.negative : map.positive;
    if (!reason && Number.isFinite(error)) part("error", value - error, value + error);
    const shown = Number.isNaN(error) ? fixed(value, map.decimals) : estimate(value, error);
    return [add(line, "td", (map.texts ? map.texts[i] + "  " : "") + (reason ? reason.name : shown))];
  });
  walk(table, cells, ([r], cell, withTip) => {
    readout.textContent = describe(map, reasons, map.axes.length ? [r] : []);
  });
  return () => {
    const h = Math.max(18, Math.min(48, Math.floor((window.innerHeight - 230) / cells.length)));
    table.style.setProperty("--h", h + "px");
  };
}

function colorKey(root, map) {
  const key = add(root, "div", undefined, "key");
  if (map.axes.length > 1) {
    const scale = add(key, "span", undefined, "scale mono");
    add(scale, "span", significant(map.ends[0], 4));
    const bar = add(scale, "div");
    bar.style.background = "linear-gradient(to right, " + map.colors.slice(map.shown[0], map.shown[1] + 1).join(",") + ")";
    bar.setAttribute("role", "img");
    bar.setAttribute("aria-label", "colour scale");
    add(scale, "span", significant(map.ends[1], 4) + "  " + map.unit);
  }
  for (const reason of map.absent) {
    const item = add(key, "span");
    const swatch = add(item, "span", reason.mark, "swatch mono");
    swatch.style.background = reason.color;
    swatch.style.color = reason.ink;
    add(item, "span", `${reason.name}: ${reason.meaning}`, "note");
  }
  if (map.note) add(root, "p", map.note, "note");
}
function download(root, [name, text]) {
  const link = add(add(root, "p"), "a", `Download ${name}`);
  link.download = name;
  link.href = "data:text/csv;charset=utf-8," + encodeURIComponent(text);
}

// The whole map with its choices of leading indices, the readout and the key of colours.
function showMap(root, map) {
  const chosen = map.axes.slice(0, -2).map(() => 0);
  const choices = add(root, "div", undefined, "choices");
  const readout = add(root, "div", "Point at a cell, or walk over the cells with Tab and the arrow keys.", "readout mono");
  readout.setAttribute("role", "status");
  const scroll = add(root, "div", undefined, "scroll");
  let resize;
  const draw = () => {
    resize = map.axes.length < 2 ? bars(scroll, map, readout) : grid(scroll, map, chosen, readout);
    resize();
  };
  map.axes.slice(0, -2).forEach((axis, i) => {
    const select = add(add(choices, "label", axis.name + " "), "select");
    axis.labels.forEach((text, value) => { add(select, "option", text).value = value; });
    select.onchange = () => { chosen[i] = Number(select.value); draw(); };
  });
  draw();
  new ResizeObserver(() => resize()).observe(root);
  window.addEventListener("resize", () => resize());
  colorKey(root, map);
  if (map.file) download(root, map.file);
}
