"use strict";
// Draws the learning curves of a report. The element #data has the columns of each run.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const DASHES = ["", "7 4", "2 3", "9 3 2 3"];
const points = data.points.map((point, i) => ({
  ...point, shown: true, color: `var(--c${i % 8})`, dash: DASHES[Math.floor(i / 8) % 4],
}));
let view = null;  // [first, last] of the horizontal axis; null is the whole range

function svg(name, attributes, parent, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function choices(select, values) {
  for (const value of values) select.append(new Option(value, value));
  select.addEventListener("change", () => { if (select.id === "axis") view = null; draw(); });
}

const number = value => value === 0 ? "0"
  : Math.abs(value) >= 1e6 || Math.abs(value) < 1e-3 ? value.toExponential(2).replace(/\.?0*e\+?/, "e")
  : String(+value.toPrecision(5));

function ticks(low, high, count) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find(m => m * power >= raw), found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

function line(run, axis, metric) {
  const x = run.columns[axis] || [], y = run.columns[metric] || [], found = [];
  for (let i = 0; i < x.length; i++) if (y[i] !== null && y[i] !== undefined && isFinite(x[i])) found.push([x[i], y[i], run.columns.steps[i]]);
  return found;
}

// The mean over seeds at each step; the place on the axis is the seeds' mean, too.
function mean(lines) {
  const sums = new Map();
  for (const one of lines) for (const [x, y, step] of one) {
    const sum = sums.get(step) || [0, 0, 0];
    sums.set(step, [sum[0] + x, sum[1] + y, sum[2] + 1]);
  }
  return [...sums].sort((a, b) => a[0] - b[0]).map(([step, [x, y, n]]) => [x / n, y / n, step]);
}

const cache = new Map();
function linesOf(point, axis, metric) {
  const key = `${points.indexOf(point)}|${axis}|${metric}`;
  if (!cache.has(key)) {
    const runs = point.runs.map(run => line(run, axis, metric));
    cache.set(key, {runs, mean: mean(runs)});
  }
  return cache.get(key);
}

// Draws points into an element. `style` gives the look of each, or null to leave it out.
function plot(target, width, height, style, labels, range) {
  const axis = $("axis").value, metric = $("metric").value, seeds = $("seeds").checked;
  target.replaceChildren();
  target.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const drawn = points.map(point => [point, style(point)]).filter(([, look]) => look);
  const curves = drawn.map(([point, look]) => [point, look, linesOf(point, axis, metric)]);
  let xs = [Infinity, -Infinity], ys = [Infinity, -Infinity];
  for (const [, , found] of curves) for (const one of seeds ? found.runs : [found.mean]) for (const [x] of one) {
    xs = [Math.min(xs[0], x), Math.max(xs[1], x)];
  }
  if (range) xs = range;
  const log = $("log").checked;
  for (const [, , found] of curves) for (const one of seeds ? found.runs : [found.mean]) for (const [x, y] of one) {
    if (x >= xs[0] && x <= xs[1] && (!log || y > 0)) ys = [Math.min(ys[0], y), Math.max(ys[1], y)];
  }
  if (xs[0] > xs[1] || ys[0] > ys[1]) {
    svg("text", {x: width / 2, y: height / 2, "text-anchor": "middle"}, target, "no values");
    return null;
  }
  if (xs[0] === xs[1]) xs = [xs[0] - 1, xs[1] + 1];
  const scale = value => log ? Math.log10(value) : value;
  let [low, high] = ys.map(scale);
  const margin = (high - low) * 0.04 || Math.abs(high) * 0.01 || 1;
  [low, high] = [low - margin, high + margin];
  const box = {left: labels ? 62 : 44, right: width - 22, top: 8, bottom: height - (labels ? 40 : 22)};
  const px = x => box.left + (x - xs[0]) / (xs[1] - xs[0]) * (box.right - box.left);
  const py = y => box.bottom - (scale(y) - low) / (high - low) * (box.bottom - box.top);
  for (const tick of ticks(low, high, labels ? 6 : 3)) {
    const y = box.bottom - (tick - low) / (high - low) * (box.bottom - box.top);
    svg("line", {x1: box.left, x2: box.right, y1: y, y2: y, stroke: "var(--line)"}, target);
    svg("text", {x: box.left - 6, y: y + 4, "text-anchor": "end"}, target, number(log ? +(10 ** tick).toPrecision(3) : +tick.toPrecision(6)));
  }
  for (const tick of ticks(xs[0], xs[1], width < 500 ? 3 : 7)) {
    svg("line", {x1: px(tick), x2: px(tick), y1: box.bottom, y2: box.bottom + 4, stroke: "var(--soft)"}, target);
    svg("text", {x: px(tick), y: box.bottom + 17, "text-anchor": "middle"}, target, number(+tick.toPrecision(6)));
  }
  svg("line", {x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, stroke: "var(--soft)"}, target);
  if (labels) {
    svg("text", {x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle"}, target, axis);
  }
  const id = `clip-${target.id || Math.round(box.left * 1000 + Math.random() * 1e9)}`;
  const clip = svg("clipPath", {id}, target);
  svg("rect", {x: box.left, y: box.top - 4, width: box.right - box.left, height: box.bottom - box.top + 8}, clip);
  const group = svg("g", {"clip-path": `url(#${id})`, fill: "none", "stroke-linejoin": "round"}, target);
  const path = (values, attributes) => {
    const known = values.filter(([, y]) => !log || y > 0);
    if (known.length === 1) {
      svg("circle", {cx: px(known[0][0]), cy: py(known[0][1]), r: 3, fill: attributes.stroke}, group);
    } else if (known.length) {
      svg("path", {d: "M" + known.map(([x, y]) => `${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join("L"), ...attributes}, group);
    }
  };
  for (const [, look, found] of curves) {
    const common = {stroke: look.color, "stroke-dasharray": look.dash || "none"};
    if (seeds) for (const one of found.runs) path(one, {...common, "stroke-width": 1, opacity: 0.55});
    else path(found.mean, {...common, "stroke-width": look.width, class: "curve"});
  }
  return {box, xs, px, py, curves, seeds};
}

const chart = $("curves");
let drawn = null;

function draw() {
  const width = Math.max(chart.parentNode.clientWidth, 280), height = width < 500 ? 280 : 400;
  chart.setAttribute("aria-label", `${$("metric").value} by ${$("axis").value}`);
  drawn = plot(chart, width, height, p => p.shown ? {color: p.color, dash: p.dash, width: 2} : null, true, view);
  $("tip").hidden = true;
  drawMultiples();
}

function drawMultiples() {
  const field = $("field").value;
  $("multiples").replaceChildren();
  if (!field) return;
  const values = [...new Set(points.map(point => point.fields[field]))], most = 12;
  $("all-values").hidden = values.length <= most || $("all-values").dataset.all === "yes";
  const some = $("all-values").dataset.all === "yes" ? values : values.slice(0, most);
  for (const value of some) {
    const cell = document.createElement("div"), title = document.createElement("h4");
    cell.className = "multiple";
    title.textContent = `${field} = ${value}`;
    cell.append(title);
    const target = svg("svg", {role: "img", "aria-label": title.textContent}, cell);
    $("multiples").append(cell);
    const mine = point => point.fields[field] === value;
    const order = point => mine(point) ? {color: point.color, dash: point.dash, width: 2.2} : {color: "var(--line)", width: 1.2};
    plot(target, Math.max(cell.clientWidth, 200), 150, point => point.shown || mine(point) ? order(point) : null, false, view);
    const group = target.querySelector("g");
    if (group) for (const path of [...group.children].filter(p => p.getAttribute("stroke") !== "var(--line)")) group.append(path);
  }
}

function zoom(first, last) {
  const whole = wholeRange();
  if (!whole) return;
  first = Math.max(first, whole[0]); last = Math.min(last, whole[1]);
  if (last - first > (whole[1] - whole[0]) * 1e-4) view = last - first >= (whole[1] - whole[0]) * 0.999 ? null : [first, last];
  draw();
}

function wholeRange() {
  const axis = $("axis").value, metric = $("metric").value;
  const xs = points.filter(p => p.shown).flatMap(p => linesOf(p, axis, metric).runs.flat().map(([x]) => x));
  return xs.length ? [xs.reduce((a, b) => Math.min(a, b)), xs.reduce((a, b) => Math.max(a, b))] : null;
}

const place = event => {
  const x = event.clientX - chart.getBoundingClientRect().left;
  return drawn.xs[0] + (x - drawn.box.left) / (drawn.box.right - drawn.box.left) * (drawn.xs[1] - drawn.xs[0]);
};
let start = null, mark = null;
chart.addEventListener("pointerdown", event => {
  if (!drawn || event.button) return;
  start = {x: event.clientX - chart.getBoundingClientRect().left, value: place(event)};
  mark = svg("rect", {y: drawn.box.top, height: drawn.box.bottom - drawn.box.top, fill: "var(--focus)", opacity: 0.15}, chart);
});
window.addEventListener("pointermove", event => {
  if (!drawn) return;
  const rect = chart.getBoundingClientRect(), x = event.clientX - rect.left;
  if (start) {
    mark.setAttribute("x", Math.min(start.x, x)); mark.setAttribute("width", Math.abs(x - start.x));
  } else if (event.target === chart || chart.contains(event.target)) {
    point(event);
  } else $("tip").hidden = true;
});
window.addEventListener("pointerup", event => {
  if (!start) return;
  const first = start, x = event.clientX - chart.getBoundingClientRect().left;
  start = null; mark.remove();
  if (Math.abs(x - first.x) > 6) zoom(...[first.value, place(event)].sort((a, b) => a - b));
});
chart.addEventListener("dblclick", () => { view = null; draw(); });
chart.addEventListener("keydown", event => {
  if (!drawn) return;
  const [first, last] = drawn.xs, span = last - first;
  const moves = {
    "+": [span / 4, -span / 4], "=": [span / 4, -span / 4], "-": [-span / 2, span / 2],
    ArrowLeft: [-span / 5, -span / 5], ArrowRight: [span / 5, span / 5],
  };
  if (event.key === "0") { view = null; draw(); }
  else if (moves[event.key]) zoom(first + moves[event.key][0], last + moves[event.key][1]);
  else return;
  event.preventDefault();
});

// Names the curve nearest to the pointer, and its value.
function point(event) {
  const rect = chart.getBoundingClientRect(), at = [event.clientX - rect.left, event.clientY - rect.top];
  let best = null;
  for (const [one, , found] of drawn.curves) {
    const lines = drawn.seeds ? found.runs.map((l, i) => [one.runs[i].name, l]) : [[`${one.runs.length} seeds`, found.mean]];
    for (const [name, values] of lines) for (const [x, y] of values) {
      const distance = Math.hypot(drawn.px(x) - at[0], drawn.py(y) - at[1]);
      if (distance < (best ? best.distance : 40)) best = {distance, text: `${one.name} (${name}): ${number(y)} at ${number(x)} ${$("axis").value}`};
    }
  }
  $("tip").hidden = !best;
  if (best) $("tip").textContent = best.text;
}

choices($("metric"), data.metrics);
choices($("axis"), data.axes);
const fields = Object.keys(points[0].fields);
choices($("field"), fields);
$("by-field").hidden = !fields.length;
for (const id of ["seeds", "log"]) $(id).addEventListener("change", draw);
$("reset").addEventListener("click", () => { view = null; draw(); });
$("all-values").addEventListener("click", () => { $("all-values").dataset.all = "yes"; draw(); });
for (const one of points) {
  const button = document.createElement("button");
  button.type = "button";
  const key = svg("svg", {viewBox: "0 0 27 10", "aria-hidden": "true"}, button);
  svg("line", {x1: 1, x2: 26, y1: 5, y2: 5, stroke: one.color, "stroke-width": 3, "stroke-dasharray": one.dash || "none"}, key);
  button.append(one.name);
  button.addEventListener("click", event => {
    if (event.shiftKey) for (const other of points) other.shown = other === one;
    else one.shown = !one.shown;
    [...$("legend").children].forEach((child, i) => child.setAttribute("aria-pressed", points[i].shown));
    draw();
  });
  button.setAttribute("aria-pressed", "true");
  $("legend").append(button);
}
let known = 0;
function fit() {
  if (chart.parentNode.clientWidth !== known) { known = chart.parentNode.clientWidth; draw(); }
}
window.addEventListener("resize", fit);
window.addEventListener("beforeprint", fit);
fit();
