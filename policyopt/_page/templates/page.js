"use strict";
(() => {
const content = JSON.parse(document.getElementById("content").textContent);
const byId = (id) => document.getElementById(id);

// --- Numbers, letter by letter as the command line shows them (policyopt/_cli/output.py) ---

/** Like Python's f"{x:.{digits}f}" of x >= 0: ties go to the even digit, where toFixed goes up. */
const fixedOf = (x, digits) => {
  if (x >= 1e21) return BigInt(x) + (digits ? `.${"0".repeat(digits)}` : "");
  const exact = x.toFixed(Math.min(digits + 60, 100));
  const cut = exact.indexOf(".") + 1 + digits;
  if (!/^50*$/.test(exact.slice(cut))) return x.toFixed(digits);
  const down = exact.slice(0, digits ? cut : cut - 1);
  return "02468".includes(down.at(-1)) ? down : x.toFixed(digits);
};
const fixed = (x, digits) => (x < 0 || Object.is(x, -0) ? "-" : "") + fixedOf(Math.abs(x), digits);
const grouped = (text) => text.replace(/^(-?\d+)/, (whole) => whole.replace(/\B(?=(\d{3})+$)/g, ","));
const stripped = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
const number = (x, digits = 4) => {
  if (x === 0) return "0";
  const [mantissa, tens] = x.toExponential(digits - 1).split("e");
  const e = Number(tens);
  if (e >= digits) return grouped(fixed(x, 0));
  if (e < -4) return `${stripped(mantissa)}e-${String(-e).padStart(2, "0")}`;
  return stripped(fixed(x, digits - 1 - e));
};
const percent = (x, digits = 2) => fixed(100 * x, digits);
const points = (x, digits = 2) => (x < 0 || Object.is(x, -0) ? "" : "+") + fixed(100 * x, digits);
/** Like Python's repr of a float: the command has to name the very budget. */
const exactly = (x) => {
  const [mantissa, tens] = Math.abs(x).toExponential().split("e");
  const e = Number(tens), digits = mantissa.replace(".", ""), sign = x < 0 ? "-" : "";
  if (x === 0) return "0.0";
  if (e < -4 || e >= 16) return `${sign}${mantissa}e${e < 0 ? "-" : "+"}${String(Math.abs(e)).padStart(2, "0")}`;
  if (e < 0) return `${sign}0.${"0".repeat(-e - 1)}${digits}`;
  if (digits.length <= e + 1) return `${sign}${digits.padEnd(e + 1, "0")}.0`;
  return `${sign}${digits.slice(0, e + 1)}.${digits.slice(e + 1)}`;
};
/** A true minus sign: as wide as the plus, and read aloud. */
const minus = (text) => text.replace(/(?<!e)-(?=[\d.])/g, "−");
const interval = (three, text) =>
  three[1] === null || three[1] === undefined ? "[not stated]" : `[${text(three[1])}, ${text(three[2])}]`;
const whole = (n) => grouped(String(n));

// --- Elements: text goes in as text, never as markup ---

const SVG = "http://www.w3.org/2000/svg";
const put = (node, attributes, children) => {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
};
const make = (name, attributes, ...children) => put(document.createElement(name), attributes, children);
const draw = (name, attributes, ...children) => put(document.createElementNS(SVG, name), attributes, children);
const say = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const set = (node, name, value) => { if (node.getAttribute(name) !== value) node.setAttribute(name, value); };
const show = (node, shown) => { node.hidden = !shown; };
/** A text that may be broken behind its joints: names are long. */
const soft = (text) => text.split(/(?<=[:=,/+])(?=\S)/).flatMap((part, i) => (i ? [make("wbr", {}), part] : [part]));
const own = (node, colour) => { if (colour) node.style.setProperty("--own", colour); return node; };
const idle = window.requestIdleCallback ? (call) => requestIdleCallback(call, { timeout: 500 }) : (call) => setTimeout(call, 60);

// --- Look: light, dark, or as the reader's machine has it ---

const retheme = [];
for (const input of document.querySelectorAll("input[name=look]")) {
  input.addEventListener("change", () => {
    document.documentElement.dataset.look = input.value;
    retheme.forEach((call) => call());
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => retheme.forEach((call) => call()));

// --- The explorer ---

const SHAPES = [
  "M-5,0A5,5 0 1 0 5,0A5,5 0 1 0 -5,0Z", "M-4.5,-4.5H4.5V4.5H-4.5Z", "M0,-5.8L5.6,4.4H-5.6Z",
  "M0,-6.2L6.2,0L0,6.2L-6.2,0Z", "M0,5.8L5.6,-4.4H-5.6Z",
];
const STAR = "M0,-8L2,-2.6L7.6,-2.5L3.2,1L4.7,6.5L0,3.3L-4.7,6.5L-3.2,1L-7.6,-2.5L-2,-2.6Z";
const SMALL = "M-3.2,0A3.2,3.2 0 1 0 3.2,0A3.2,3.2 0 1 0 -3.2,0Z";
const CROSS = "M-4.5,-4.5L4.5,4.5M4.5,-4.5L-4.5,4.5";
const BEST = 5;

function explore(x) {
  const unit = x.unit, names = x.exits.map((one) => one.name), K = names.length;
  const fullModel = x.cascade ? `${names[K - 1]} alone` : "the full model";
  const state = { mode: "budget", at: x.start, floor: 0, method: 0, many: 1000 };
  state.method = Math.max(x.methods.findIndex((m) => m.label === x.chosen), 0);

  // The best five are those that the fit rows say are best on average: test rows choose nothing.
  const stated = (m) => m.levels.length ? m.at.reduce((sum, level) => sum + (m.levels[Math.max(level, 0)].expected_quality[0] ?? 0), 0) / m.at.length : -1;
  const ranked = x.methods.map((m, i) => [stated(m), i]).sort((a, b) => b[0] - a[0] || a[1] - b[1]);
  const colour = Array(x.methods.length).fill(null), shape = Array(x.methods.length).fill(SMALL);
  ranked.slice(0, BEST).forEach(([, i], rank) => {
    colour[i] = `var(--c${rank})`;
    shape[i] = SHAPES[rank];
  });

  const floors = (() => {
    const all = x.methods.flatMap((m) => m.levels.map((level) => 100 * (level.expected_quality[0] ?? 0)));
    const low = Math.min(...all), high = Math.max(...all);
    const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1].find((s) => (high - low) / s <= 150) || 2;
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9; i++) found.push(Number((i * step).toFixed(2)) / 100);
    return found.length ? found : [low / 100];
  })();
  state.floor = Math.max(floors.findIndex((f) => f >= x.full.quality[0] - 0.005), 0);

  /** The level of a method that is shown; null where it cannot do what is asked for. */
  const levelOf = (m) => {
    if (state.mode === "budget") return m.levels[m.at[state.at]] || null;
    let best = null;
    for (const level of m.levels) {
      const reaches = level.expected_quality[0] >= floors[state.floor] - 1e-12;
      if (reaches && (best === null || level.expected_cost[0] < best.expected_cost[0])) best = level;
    }
    return best;
  };
  const asked = () =>
    state.mode === "budget" ? `${number(x.budgets[state.at])} ${unit}` : `${percent(floors[state.floor])} %`;

  // Key numbers
  const key = (title) => {
    const parts = { title: make("dt", {}, title), big: make("dd", {}), small: make("dd", {}), value: document.createTextNode(""), after: make("small", {}) };
    parts.big.append(parts.value, parts.after);
    byId("keys").append(make("div", {}, parts.title, parts.big, parts.small));
    return parts;
  };
  const tell = (parts, value, after, small) => { say(parts.value, value); say(parts.after, after); say(parts.small, small); };
  const word = x.word === "accuracy" ? "Accuracy" : "Quality";
  const reference = x.methods.find((m) => m.label === x.reference);
  const keys = {
    cost: key(`Mean cost per ${x.per}`), quality: key(word), saved: key("Cost saved"),
    full: key(`Against ${fullModel}`), reference: key(`Against ${reference ? reference.label : x.reference}`),
  };
  const verdictOf = (three) => (three[1] > 0 ? "better" : three[2] < 0 ? "worse" : "cannot be told apart");
  const difference = (parts, three, more = "") => {
    if (!three) return tell(parts, "–", "", more);
    tell(parts, minus(points(three[0])), " points", three[1] === null ? "[not stated]" : minus(`${interval(three, points)} ${verdictOf(three)}`) + more);
  };

  // Methods: the legend, the choice, and the point on every curve in numbers
  const rows = x.methods.map((m, i) => {
    const input = make("input", { type: "radio", name: "method", value: i });
    input.checked = i === state.method;
    input.addEventListener("change", () => { state.method = i; update(); });
    const mark = own(draw("path", { d: shape[i], class: colour[i] ? "spot best" : "spot" }), colour[i]);
    const swatch = draw("svg", { width: 16, height: 16, viewBox: "-8 -8 16 16", "aria-hidden": "true" }, mark);
    const cells = [0, 1, 2].map(() => make("td", { class: "num" }));
    const row = own(make("tr", {}, make("th", { scope: "row" }, make("label", {}, input, swatch, make("span", {}, soft(m.title)))), ...cells), colour[i]);
    row.addEventListener("click", (event) => { if (!event.target.closest("label") && !input.checked) input.click(); });
    return { row, cells, input };
  });
  byId("methods").append(
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Method"), make("th", { scope: "col", class: "num" }, "Cost"),
      make("th", { scope: "col", class: "num" }, `${word} %`), make("th", { scope: "col", class: "num" }, x.cascade ? "To last" : "To full"))),
    make("tbody", {}, rows.map((r) => r.row)),
  );
  byId("methods").parentElement.classList.toggle("tall", rows.length > 12);

  // The rule: thresholds, one set or two
  const sets = byId("thresholds");
  const threshold = names.slice(0, -1).map((name) => {
    const cells = [make("td", { class: "num" }), make("td", { class: "num" })];
    return { cells, row: make("tr", {}, make("th", { scope: "row" }, name), cells) };
  });
  const setHeads = [make("th", { scope: "col", class: "num" }, "Leave at or above"), make("th", { scope: "col", class: "num" }, "")];
  const ruleTable = make("div", { class: "scroll", tabindex: 0, role: "group", "aria-labelledby": "rule-title" }, make("table", {},
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, x.cascade ? "Model" : "Exit"), setHeads)), make("tbody", {}, threshold.map((t) => t.row))));
  const ruleWords = make("p", { class: "words" });
  sets.append(ruleWords, ruleTable);

  /** Put a value and its interval into a cell. */
  const put3 = (cell, three, text) => cell.replaceChildren(...(three && three[0] !== null ? [minus(text(three[0])), " ", make("small", {}, minus(interval(three, text)))] : ["–"]));

  // Stated beside realised
  const statedRows = ["Cost", `${word} %`].map((title) => {
    const cells = [0, 1].map(() => make("td", { class: "num" }));
    return { cells, row: make("tr", {}, make("th", { scope: "row" }, title), cells) };
  });
  byId("stated").append(
    make("thead", {}, make("tr", {}, make("td", {}), ...["Fit", "Test rows"].map((t) => make("th", { scope: "col", class: "num" }, t)))),
    make("tbody", {}, statedRows.map((r) => r.row)));
  const certificate = { words: document.createTextNode("") };
  certificate.box = make("p", { class: "certificate" }, make("strong", {}, "Certificate"), certificate.words);
  byId("certificate").append(certificate.box);

  // By class
  const classes = x.classes && x.methods.some((m) => m.levels.some((level) => level.by_class)) ? x.classes : null;
  show(byId("by-class-card"), classes);
  byId("rule-pair").classList.toggle("alone", !classes);
  const heat = classes ? classes.names.map((name, c) => {
    const cells = names.map(() => make("td", { class: "num" }));
    return { cells, row: make("tr", {}, make("th", { scope: "row" }, soft(name)), make("td", { class: "num rows" }, whole(classes.rows[c])), cells) };
  }) : [];
  if (classes) {
    byId("by-class").parentElement.classList.toggle("tall", heat.length > 12);
    byId("by-class").append(
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Class"), make("th", { scope: "col", class: "num" }, "Rows"),
        names.map((name) => make("th", { scope: "col", class: "num" }, name)))),
      make("tbody", {}, heat.map((h) => h.row)));
    say(byId("by-class-words"), `Percent of a class's rows that ${x.cascade ? "stop at each model" : "leave at each exit"}.` +
      (classes.dropped ? ` ${whole(classes.dropped)} classes with fewer rows are not shown.` : ""));
  }

  // What a thousand or a million come to
  const bill = ["This policy", fullModel.replace(/^the f/, "F"), "Saved"].map((title) => {
    const cells = [0, 1].map(() => make("td", { class: "num" }));
    return { cells, row: make("tr", {}, make("th", { scope: "row" }, title), cells) };
  });
  const billHead = make("th", { scope: "col", class: "num" }, unit);
  byId("price").append(
    make("thead", {}, make("tr", {}, make("td", {}), billHead, make("th", { scope: "col", class: "num" }, "95 % interval"))),
    make("tbody", {}, bill.map((b) => b.row)));

  const chart = frontier(), flow = flows();

  function update() {
    const chosen = x.methods[state.method], level = levelOf(chosen);
    const shownAt = asked(), range = byId("slider");
    say(byId("slider-value"), shownAt);
    set(range, "aria-valuetext", shownAt);
    range.style.setProperty("--at", `${(100 * range.value) / Math.max(range.max, 1)}%`);
    rows.forEach((r, i) => {
      const here = levelOf(x.methods[i]);
      say(r.cells[0], here ? minus(number(here.cost[0])) : "–");
      say(r.cells[1], here ? minus(percent(here.quality[0])) : "–");
      say(r.cells[2], here ? minus(points(here.to_full[0])) : "–");
      r.row.classList.toggle("now", i === state.method);
    });
    say(byId("about"), chosen.about || "");
    chart.update(level);
    byId("setting-words").classList.toggle("warn", !level);
    const budget = level ? level.budget : null;  // fit at it writes the very file
    const what = state.mode === "budget" ? `${chosen.label} at a budget of ${shownAt}` : `${chosen.label} for ${word.toLowerCase()} of at least ${shownAt}`;
    if (!level) {
      const least = state.mode === "budget"
        ? `The least budget that it can meet is ${number(x.budgets[chosen.at.findIndex((l) => l >= 0)] ?? NaN)} ${unit}.`
        : `The most that its fit states is ${percent(Math.max(...chosen.levels.map((l) => l.expected_quality[0] ?? 0)))} %.`;
      announce(`${what}: cannot be met. ${chosen.levels.length ? least : ""}`);
      for (const parts of Object.values(keys)) tell(parts, "–", "", "");
    } else {
      announce(sentence(level, what, budget));
      tell(keys.cost, minus(number(level.cost[0])), ` ${unit}`, minus(interval(level.cost, number)));
      tell(keys.quality, minus(percent(level.quality[0])), " %", minus(interval(level.quality, percent)));
      const saved = level.cost.map((c) => 1 - c / x.full.cost);
      tell(keys.saved, minus(percent(saved[0], 1)), " %", minus(`${number(x.full.cost - level.cost[0])} ${unit} per ${x.per}`));
      difference(keys.full, level.to_full);
      if (chosen.label === x.reference) tell(keys.reference, "–", "", "chosen: it is this one");
      else difference(keys.reference, level.to_reference, level.to_reference ? ", at equal cost" : "not at this cost");
    }
    const two = level && level.thresholds && level.thresholds.length > 1;
    show(ruleTable, level && level.thresholds && K > 1);
    setHeads[1].hidden = !two;
    if (level && level.thresholds) {
      const share = level.share ?? 0;
      say(ruleWords, two ? `Two sets of thresholds are mixed, so that the budget is met: ${percent(1 - share, 1)} % of rows go by the first, ${percent(share, 1)} % by the second.` : "");
      say(setHeads[0], two ? `First set, leave at or above` : "Leave at or above");
      if (two) say(setHeads[1], "Second set");
      threshold.forEach((t, k) => {
        say(t.cells[0], minus(level.thresholds[0][k]));
        t.cells[1].hidden = !two;
        if (two) say(t.cells[1], minus(level.thresholds[1][k]));
      });
    } else say(ruleWords, level ? "After each answer the policy asks the model that is worth most, and stops where none is worth its cost." : "–");
    statedRows.forEach((r, j) => {
      const [fit, test, text] = j ? [level?.expected_quality, level?.quality, percent] : [level?.expected_cost, level?.cost, number];
      put3(r.cells[0], fit, text);
      put3(r.cells[1], test, text);
    });
    show(certificate.box, level && level.certificate);
    if (level && level.certificate) say(certificate.words, level.certificate);
    heat.forEach((h, c) => h.cells.forEach((cell, k) => {
      const share = level && level.by_class ? level.by_class[c][k] : null;
      say(cell, share === null ? "–" : percent(share, 1));
      cell.style.setProperty("--share", share === null ? 0 : share.toFixed(3));
    }));
    say(byId("price-words"), `${whole(state.many)} ${x.per}s, at what the test rows cost in the mean.`);
    const n = state.many, sums = level ? level.cost.map((c) => c * n) : null, full = x.full.cost * n;
    const lines = sums ? [[sums[0], sums[1], sums[2]], [full, null, null], [full - sums[0], full - sums[2], full - sums[1]]] : [];
    bill.forEach((b, i) => {
      say(b.cells[0], sums ? minus(number(lines[i][0])) : "–");
      say(b.cells[1], sums && lines[i][1] !== null ? minus(interval(lines[i], number)) : "–");
    });
    const words = level ? `${chosen.command[0]}${exactly(budget)}${chosen.command[1]}`.split(" ") : ["–"];
    byId("command").replaceChildren(...words.flatMap((part, i) => [i ? " " : "", make("span", {}, part)]));
    byId("copy").disabled = byId("download").disabled = !level;
    say(byId("take-words"), "");
    flow.update(level);
  }

  // A sentence for people; said aloud once the slider rests
  let waiting = 0;
  function announce(text) {
    say(byId("setting-words"), text);
    clearTimeout(waiting);
    waiting = setTimeout(() => say(byId("live"), text), 500);
  }
  const sentence = (level, what, budget) => {
    const saved = 1 - level.cost[0] / x.full.cost, [gap, low, high] = level.to_full;
    const spends = Math.abs(saved) < 0.0005 ? `costs what ${fullModel} does` : `costs ${percent(Math.abs(saved), 1)} % ${saved > 0 ? "less" : "more"} than ${fullModel}`;
    const worth = low === null ? `has ${x.word} ${minus(points(gap))} points from its`
      : low <= 0 && high >= 0 ? `its ${x.word} cannot be told apart from that of ${fullModel}` : `its ${x.word} is ${percent(Math.abs(gap))} points ${gap < 0 ? "below" : "above"} that of ${fullModel}`;
    const by = state.mode === "budget" ? (budget === x.budgets[state.at] ? "" : ` (the same policy as at ${number(budget)} ${unit})`) : ` (by what its fit states, at a budget of ${number(budget)} ${unit})`;
    return `${what}${by} ${spends}, and ${worth}.`.replace(/ %/g, "\u00a0%");
  };

  // The chart: built once for a width, then only attributes change
  function frontier() {
    const place = byId("chart");
    let parts = null, width = 0;
    const levels = x.methods.flatMap((m) => m.levels);
    const costs = [...levels.map((l) => l.cost[0]), x.full.cost, x.budgets[0]].filter((c) => c > 0);
    const worth = [...levels.map((l) => l.quality[0]), x.full.quality[0]];
    const lowest = Math.min(...worth), top = Math.max(...worth, ...(x.bound ? x.bound.filter((b) => b !== null) : []));
    const qLow = lowest - 0.05 * (top - lowest || 0.1), qHigh = Math.min(top + 0.06 * (top - lowest || 0.1), Math.max(1.002, top));
    let cLow = Math.min(...costs), cHigh = Math.max(...costs, x.budgets.at(-1));
    const log = cHigh / cLow > 8;
    if (log) { cLow /= 1.06; cHigh *= 1.06; } else { const pad = 0.03 * (cHigh - cLow || cHigh); cLow = Math.max(cLow - pad, 0); cHigh += pad; }

    const ticks = (low, high, most) => {
      const raw = (high - low) / most, ten = 10 ** Math.floor(Math.log10(raw));
      const step = ten * ([1, 2, 2.5, 5, 10].find((s) => s * ten >= raw) || 10);
      const found = [];
      for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-12); i++) found.push(Number((i * step).toPrecision(12)));
      return found;
    };
    const octaves = (low, high, most) => {
      let found = [];
      for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++) for (const s of [1, 2, 5]) found.push(Number((s * 10 ** e).toPrecision(3)));
      found = found.filter((t) => t >= low && t <= high);
      return found.length > most ? found.filter((t) => /^[0.]*1/.test(String(t).replace(/e.*/, ""))) : found;
    };

    function build() {
      width = place.clientWidth;
      if (!width) return;
      // As high as what stands beside it, where something does
      place.replaceChildren();
      const card = place.parentElement, beside = card.nextElementSibling, abreast = beside.offsetTop === card.offsetTop;
      const room = abreast ? beside.offsetHeight - card.firstElementChild.offsetHeight - byId("chart-key").offsetHeight - 62 : 0;
      const height = Math.round(Math.min(Math.max(0.66 * width, 270, room), Math.max(1.15 * width, 270)));
      const left = 54, right = 12, above = 10, below = 44;
      const X = (c) => left + (width - left - right) * (log ? Math.log(Math.max(c, cLow) / cLow) / Math.log(cHigh / cLow) : (c - cLow) / (cHigh - cLow));
      const Y = (q) => above + (height - above - below) * (1 - (q - qLow) / (qHigh - qLow));
      const line = (cs, qs) => cs.map((c, i) => [c, qs[i]]).filter(([c, q]) => c !== null && q !== null && q >= qLow).map(([c, q], i) => `${i ? "L" : "M"}${X(c).toFixed(1)},${Y(q).toFixed(1)}`).join("");
      const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "" });
      const pitch = log ? octaves(cLow, cHigh, width / 45) : ticks(cLow, cHigh, width / 75);
      for (const t of pitch) svg.append(draw("line", { class: "grid", x1: X(t), x2: X(t), y1: above, y2: height - below }), draw("text", { x: X(t), y: height - below + 17, "text-anchor": "middle" }, number(t)));
      const rise = ticks(100 * qLow, 100 * qHigh, height / 52);
      for (const t of rise) svg.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: Y(t / 100), y2: Y(t / 100) }), draw("text", { x: left - 7, y: Y(t / 100) + 4, "text-anchor": "end" }, number(t)));
      svg.append(draw("text", { x: (left + width - right) / 2, y: height - 7, "text-anchor": "middle" }, clip(`realised cost per ${x.per} [${unit}]${log ? ", log scale" : ""}`, (width - left) / 6)));
      svg.append(draw("text", { x: 12, y: (above + height - below) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(above + height - below) / 2})` }, `${x.word} [%]`));
      if (x.bound) svg.append(draw("path", { class: "bound", d: line(x.budgets, x.bound) }));
      svg.append(draw("path", { class: "mix", d: line(x.budgets, x.singles) }));
      const askedLine = draw("line", { class: "asked" });
      svg.append(askedLine);
      const curves = x.methods.map((m, i) => {
        const sorted = [...m.levels].sort((a, b) => a.cost[0] - b.cost[0]);
        return own(draw("path", { class: colour[i] ? "curve best" : "curve", d: line(sorted.map((l) => l.cost[0]), sorted.map((l) => l.quality[0])) }), colour[i]);
      });
      const grey = draw("g", {}), best = draw("g", {});
      curves.forEach((c, i) => (colour[i] ? best : grey).append(c));
      svg.append(grey, best);
      x.exits.forEach((one, k) => {
        if (k === K - 1 || one.quality < qLow || one.cost < cLow || one.cost > cHigh) return;
        svg.append(draw("path", { class: "cross", d: CROSS, transform: `translate(${X(one.cost)},${Y(one.quality)})` }, draw("title", {}, one.name)));
      });
      svg.append(draw("path", { class: "full", d: STAR, transform: `translate(${X(x.full.cost)},${Y(x.full.quality[0])})` }));
      const spots = x.methods.map((m, i) => own(draw("path", { class: colour[i] ? "spot best" : "spot", d: shape[i] }), colour[i]));
      svg.append(...spots);
      const across = draw("path", { class: "bar" });
      svg.append(across);
      place.replaceChildren(svg);
      parts = { svg, X, Y, askedLine, curves, spots, across, grey, best, height, left, right, above, below };
    }

    function update(level) {
      if (!parts) build();
      if (!parts) return;
      const { X, Y, above, below, height, left, right } = parts;
      x.methods.forEach((m, i) => {
        const here = levelOf(m), now = i === state.method;
        parts.spots[i].style.display = here ? "" : "none";
        if (here) set(parts.spots[i], "transform", `translate(${X(here.cost[0]).toFixed(1)},${Y(here.quality[0]).toFixed(1)})`);
        for (const node of [parts.spots[i], parts.curves[i]]) if (node.classList.contains("now") !== now) node.classList.toggle("now", now);
      });
      if (parts.front !== state.method) {
        parts.front = state.method;
        parts.best.append(parts.curves[state.method]);
        parts.svg.insertBefore(parts.spots[state.method], parts.across);
      }
      const at = state.mode === "budget" ? X(x.budgets[state.at]) : Y(floors[state.floor]);
      const ends = state.mode === "budget" ? [at, at, above, height - below] : [left, width - right, at, at];
      ["x1", "x2", "y1", "y2"].forEach((name, i) => set(parts.askedLine, name, ends[i].toFixed(1)));
      parts.across.style.display = level ? "" : "none";
      if (level) {
        const [cx, cl, ch] = level.cost.map((c) => (c === null ? NaN : X(c))), [qy, ql, qh] = level.quality.map((q) => (q === null ? NaN : Y(q)));
        const bars = (ch - cl > 0 ? `M${cl.toFixed(1)},${qy.toFixed(1)}H${ch.toFixed(1)}M${cl.toFixed(1)},${(qy - 4).toFixed(1)}v8M${ch.toFixed(1)},${(qy - 4).toFixed(1)}v8` : "")
          + (ql - qh > 0 ? `M${cx.toFixed(1)},${ql.toFixed(1)}V${qh.toFixed(1)}M${(cx - 4).toFixed(1)},${ql.toFixed(1)}h8M${(cx - 4).toFixed(1)},${qh.toFixed(1)}h8` : "");
        set(parts.across, "d", bars || "M0,0");
      }
      const m = x.methods[state.method];
      set(parts.svg, "aria-label", `${word} in percent against realised cost in ${unit}, ${x.methods.length} methods. ` + (level
        ? `${m.title}: cost ${minus(number(level.cost[0]))}, ${x.word} ${percent(level.quality[0])} %. ${fullModel}: cost ${number(x.full.cost)}, ${x.word} ${percent(x.full.quality[0])} %.` : ""));
    }

    // A press on the chart, and a drag, ask for what lies there
    const seek = (event) => {
      if (!parts) return;
      const box = parts.svg.getBoundingClientRect();
      const scale = width / box.width, px = (event.clientX - box.left) * scale, py = (event.clientY - box.top) * scale;
      const list = state.mode === "budget" ? x.budgets.map((b) => Math.abs(parts.X(b) - px)) : floors.map((f) => Math.abs(parts.Y(f) - py));
      move(list.indexOf(Math.min(...list)));
    };
    place.addEventListener("pointerdown", (event) => { if (event.button === 0) { seek(event); place.setPointerCapture(event.pointerId); } });
    place.addEventListener("pointermove", (event) => { if (place.hasPointerCapture(event.pointerId)) seek(event); });
    new ResizeObserver(() => {
      if (Math.abs(place.clientWidth - width) < 2) return;
      build();
      update(levelOf(x.methods[state.method]));
    }).observe(place);

    const icon = (child) => draw("svg", { width: 22, height: 14, viewBox: "-11 -7 22 14", "aria-hidden": "true", class: "chart-icon chart" }, child);
    const item = (child, text) => make("li", {}, icon(child), text);
    byId("chart-key").append(...[
      item(draw("path", { class: "full", d: STAR, transform: "scale(.8)" }), x.cascade ? fullModel : "full model"),
      item(draw("path", { class: "cross", d: CROSS }), x.cascade ? "one model alone" : "always one exit"),
      item(draw("path", { class: "mix", d: "M-10,0H10" }), "best mix of those"),
      x.bound ? item(draw("path", { class: "bound", d: "M-10,0H10" }), "hindsight bound, not deployable") : null,
      item(draw("path", { class: "bar", d: "M-9,0H9M-9,-4v8M9,-4v8" }), "95 % interval"),
    ].filter(Boolean));
    if (x.methods.length > BEST) byId("chart-key").append(make("li", {}, "In colour: the five that fit rows say are best on average."));
    return { update };
  }

  // Exit shares as a flow; of routing, who is asked after whom
  function flows() {
    const place = byId("flow");
    const ramp = (k) => `color-mix(in oklab, var(--early), var(--late) ${Math.round((100 * k) / Math.max(K - 1, 1))}%)`;
    const THICK = 84, TOP = 22, DROP = 46, HIGH = TOP + THICK + DROP;
    const svg = draw("svg", { height: HIGH, "aria-hidden": "true" });
    const ribbons = names.map((_, k) => { const p = draw("path", { class: "ribbon" }); p.style.fill = ramp(k); return p; });
    const on = names.slice(0, -1).map(() => draw("text", { "text-anchor": "middle", y: TOP - 7 }));
    svg.append(...ribbons, draw("text", { x: 2, y: TOP - 7 }, "all"), ...on);
    const leaves = names.map((name, k) => {
      const share = make("strong", {});
      return { share, item: make("li", { title: `${name}: ${number(x.exits[k].cost)} ${unit}` }, share, make("span", {}, name)) };
    });
    const inner = make("div", { class: "flow-inner" }, svg, make("ol", { class: "leaves", style: "" }, leaves.map((l) => l.item)));
    inner.style.minWidth = `${K * 54}px`;
    inner.querySelector("ol").style.cssText = "list-style:none;margin:0;padding:0";
    const steady = make("div", { class: "flow", tabindex: 0, role: "group", "aria-labelledby": "flow-title" }, inner);
    const tree = make("div", { class: "flow", tabindex: 0, role: "group", "aria-labelledby": "flow-title" });
    const words = make("p", { class: "words about" });
    place.append(steady, tree, words);
    let width = 0, last = null, drawnWays = null;

    function update(level) {
      last = level;
      const ways = level && level.ways;
      show(steady, !ways);
      show(tree, Boolean(ways));
      if (ways) return drawWays(ways);
      say(words, level ? `${percent(level.exit_share[0], 1)} % of ${whole(x.rows)} rows ${x.cascade ? "are answered by the first model alone" : "leave at the first exit"}; ${percent(level.exit_share[K - 1], 1)} % ${x.cascade ? "reach the last model" : "go through the whole model"}.` : "");
      if (!width) width = inner.clientWidth;
      if (!width) return;
      set(svg, "width", String(width));
      const step = width / K, shares = level ? level.exit_share : Array(K).fill(0);
      let rest = 1;
      shares.forEach((share, k) => {
        const thick = THICK * share, gap = thick > 4 && k < K - 1 ? 1.5 : 0;
        const bottom = TOP + THICK * rest, above = bottom - Math.max(thick - gap, 1);
        const w = Math.max(0.72 * step * share, 2), mid = (k + 0.5) * step, end = HIGH;
        const l = mid - w / 2, r = mid + w / 2, bend = Math.min(18, step / 3);
        set(ribbons[k], "d", share > 0
          ? `M0,${above.toFixed(2)}H${(r - bend).toFixed(2)}Q${r.toFixed(2)},${above.toFixed(2)} ${r.toFixed(2)},${(above + bend).toFixed(2)}V${end}H${l.toFixed(2)}V${(bottom + bend / 2).toFixed(2)}Q${l.toFixed(2)},${bottom.toFixed(2)} ${(l - bend / 2).toFixed(2)},${bottom.toFixed(2)}H0Z` : "M0,0");
        rest = Math.max(rest - share, 0);
        say(leaves[k].share, level ? `${percent(share, 1)} %` : "–");
        if (k < K - 1) {
          set(on[k], "x", ((k + 1) * step).toFixed(1));
          say(on[k], level && rest >= 0.0005 ? `${percent(rest, 1)} %${step >= 100 ? " go on" : ""}` : "");
        }
      });
    }

    function drawWays(ways) {
      if (drawnWays === ways) return;
      drawnWays = ways;
      const deep = Math.max(...ways.map((w) => w.path.length)), room = Math.max(tree.clientWidth, deep * 96);
      const high = 300, gap = 5, column = room / deep, bar = 12;
      const find = (path) => ways.filter((w) => w.path.length === path.length + 1 && path.every((m, i) => w.path[i] === m)).sort((a, b) => b.share - a.share);
      const out = draw("svg", { width: room, height: 10, "aria-hidden": "true" }), streams = draw("g", {}), bars = draw("g", {}), texts = draw("g", {});
      const put = (way, top, depth, from) => {
        const size = way.share * high, left = (depth - 1) * column, tone = `color-mix(in oklab, var(--early), var(--late) ${Math.round((100 * way.path.at(-1)) / Math.max(K - 1, 1))}%)`;
        if (from) {
          const [x0, y0, colourFrom] = from, x1 = left, c = (x0 + x1) / 2;
          const s = draw("path", { class: "way-stream", d: `M${x0},${y0}C${c},${y0} ${c},${top} ${x1},${top}V${top + size}C${c},${top + size} ${c},${y0 + size} ${x0},${y0 + size}Z` });
          s.style.fill = colourFrom;
          streams.append(s);
        }
        const b = draw("rect", { x: left, y: top, width: bar, height: Math.max(size, 1) });
        b.style.fill = tone;
        const stop = draw("rect", { x: left, y: top + size - way.stop * high, width: bar, height: Math.max(way.stop * high, 0) });
        stop.style.fill = "var(--rest)";
        const told = `${names[way.path.at(-1)]} ${percent(way.share, 0)} %`;
        b.append(draw("title", {}, `${told}, ${percent(way.stop, 1)} % stop`));
        bars.append(b, stop);
        let leave = top, next = top;
        for (const child of find(way.path)) {
          next = put(child, next, depth + 1, [left + bar, leave, tone]);
          leave += child.share * high;
        }
        const most = (column - bar) / 6.6, called = [names[way.path.at(-1)], `${percent(way.share, 0)} %`];
        (told.length > most && size >= 30 ? called : [told]).forEach((line, i) => texts.append(draw("text", { class: "name", x: left + bar + 5, y: top + 11 + 14 * i }, clip(line, most))));
        const grey = way.stop * high;
        if (grey >= 12 && size > 30) texts.append(draw("text", { x: left + bar + 5, y: Math.max(top + size - grey / 2 + 4, top + 25) }, clip(`${percent(way.stop, 1)} % stop`, (column - bar) / 6.6)));
        return Math.max(top + Math.max(size, 15), next - gap) + gap;
      };
      let top = 2;
      for (const first of find([])) top = put(first, top, 1, null);
      set(out, "height", String(top + 2));
      out.append(streams, bars, texts);
      tree.replaceChildren(out);
      const said = find([]).map((w) => `${percent(w.share, 1)} % of rows ask ${names[w.path[0]]} first, and ${percent(w.stop, 1)} % stop there`);
      say(words, `${said.join("; ")}. Bars are as high as the share of rows; the grey part stops there.`);
    }
    new ResizeObserver(() => {
      if (inner.clientWidth && Math.abs(inner.clientWidth - width) > 1) { width = inner.clientWidth; drawnWays = null; update(last); }
    }).observe(place);
    return { update };
  }

  // Controls
  const slider = byId("slider");
  const rescale = () => {
    const budget = state.mode === "budget", last = (budget ? x.budgets : floors).length - 1;
    slider.max = last;
    slider.value = budget ? state.at : state.floor;
    say(byId("slider-label"), budget ? `Mean cost per ${x.per}, at most` : `${word}, at least`);
    say(byId("slider-low"), budget ? number(x.budgets[0]) : percent(floors[0]));
    say(byId("slider-high"), budget ? number(x.budgets[last]) : percent(floors[last]));
  };
  const move = (to) => {
    state[state.mode === "budget" ? "at" : "floor"] = to;
    slider.value = to;
    update();
  };
  slider.addEventListener("input", () => move(Number(slider.value)));
  for (const input of document.querySelectorAll("input[name=mode]")) {
    input.addEventListener("change", () => { state.mode = input.value; rescale(); update(); });
  }
  for (const input of document.querySelectorAll("input[name=many]")) {
    input.addEventListener("change", () => { state.many = Number(input.value); update(); });
  }
  const takeWords = byId("take-words");
  const select = () => {
    getSelection().selectAllChildren(byId("command"));
    takeWords.textContent = "The command is selected: copy it with Ctrl+C or ⌘C.";
  };
  byId("copy").addEventListener("click", () => {
    const text = byId("command").textContent;
    if (!navigator.clipboard) return select();
    navigator.clipboard.writeText(text).then(() => { takeWords.textContent = "Copied."; }, select);
  });
  let pieces = null;
  const unpack = async () => {
    const packed = atob(JSON.parse(byId("chunks").textContent));
    const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };
  byId("download").addEventListener("click", async () => {
    const level = levelOf(x.methods[state.method]);
    try {
      pieces ??= unpack();
      const all = await pieces;
      const url = URL.createObjectURL(new Blob([level.file.map((i) => all[i]).join("")], { type: "application/json" }));
      const link = make("a", { href: url, download: "policy.json" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
      takeWords.textContent = "Saved as policy.json: byte for byte what the command writes.";
    } catch (error) {
      pieces = null;
      takeWords.textContent = `This browser cannot unpack the policy (${error.message}): run the command.`;
    }
  });
  rescale();
  update();
  return { state, levelOf, move, update };
}

const clip = (text, most) => (text.length <= most ? text : `${text.slice(0, Math.max(Math.floor(most) - 1, 1))}…`);

// --- Panels: figures at rest by plotly, tables, items ---

const TEXT = {
  text: (v) => String(v),
  number: (v, digits) => minus(digits === 0 ? grouped(fixed(v, 0)) : number(v, digits ?? 4)),
  percent: (v, digits) => minus(percent(v, digits ?? 2)),
  points: (v, digits) => minus(points(v, digits ?? 2)),
};
TEXT.interval = TEXT.number;
const LETTERS = "abcdefghijklmnopqrstuvwxyz";
const letter = (i) => (i < 26 ? LETTERS[i] : `${LETTERS[Math.floor(i / 26) - 1]}${LETTERS[i % 26]}`);

let tables = 0;
function tableOf(t, title) {
  const numeric = t.columns.map((c) => c.kind !== "text");
  const body = make("tbody", {});
  const heads = t.columns.map((c, i) => {
    const button = make("button", { type: "button", title: c.title || null, "aria-label": c.name ? null : c.title || `column ${i + 1}` }, c.name);
    const head = make("th", { scope: "col", class: numeric[i] ? "num" : null }, button);
    button.addEventListener("click", () => {
      const next = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && !numeric[i]) ? "ascending" : "descending";
      heads.forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", next);
      sort = [i, next === "ascending" ? 1 : -1];
      fill();
    });
    return head;
  });
  let sort = null, budget = null;
  const longest = Math.max(4, ...t.rows.map((row) => String(row[0] ?? "").length));
  const cell = (value, c, i) => {
    const text = TEXT[c.kind] || TEXT.text, tag = i ? "td" : "th";
    const node = make(tag, { scope: i ? null : "row", class: numeric[i] ? "num" : null });
    if (!i) node.style.minWidth = `min(${longest + 1}ch, 8.5rem)`;
    if (value === null || value === undefined) node.append("–");
    else if (Array.isArray(value)) {
      node.append(value[0] === null ? "–" : text(value[0], c.digits));
      if (value[0] !== null) node.append(" ", make("small", {}, interval(value, (v) => text(v, c.digits))));
    } else {
      node.append(...(numeric[i] ? [text(value, c.digits)] : soft(text(value, c.digits))));
      if (!numeric[i] && String(value).length > 28) node.classList.add("long");
    }
    return node;
  };
  const order = (v) => (Array.isArray(v) ? v[0] : v);
  const fill = () => {
    let at = t.rows.map((_, r) => r).filter((r) => !t.budget || t.budget[r] === budget);
    if (sort) {
      const [i, sign] = sort;
      at.sort((a, b) => {
        const [p, q] = [order(t.rows[a][i]), order(t.rows[b][i])];
        if (p === null || q === null) return (p === null) - (q === null);
        return sign * (numeric[i] ? p - q : String(p).localeCompare(String(q), "en", { numeric: true }));
      });
    }
    const many = t.group ? [...new Set(at.map((r) => t.group[r]))].filter((g) => at.filter((r) => t.group[r] === g).length > 1).sort((a, b) => a - b) : [];
    const alike = (g) => (many.includes(g) ? make("span", { class: "equal" }, many.length > 1 ? `alike ${letter(many.indexOf(g))}` : "alike") : "");
    body.replaceChildren(...at.map((r) => {
      const row = make("tr", {}, t.columns.map((c, i) => cell(t.rows[r][i], c, i)));
      if (t.group) row.append(make("td", {}, alike(t.group[r])));
      return row;
    }));
    table.parentElement?.classList.toggle("tall", at.length > 14);
  };
  const head = make("tr", {}, heads);
  if (t.group) head.append(make("th", { scope: "col" }, make("span", { class: "hidden" }, "not told apart")));
  const said = [t.caption, t.group && !/alike/.test(t.caption) ? "Rows marked alike cannot be told apart by statistics." : ""].filter(Boolean).join(" ");
  const name = `table-${++tables}`, caption = said ? make("p", { class: "caption", id: name }, said) : null;
  const table = make("table", { "aria-describedby": said ? name : null }, make("thead", {}, head), body);
  const box = make("div", { class: "card" });
  if (t.budget) {
    const budgets = [...new Set(t.budget)].sort((a, b) => a - b);
    budget = budgets[Math.floor((budgets.length - 1) / 2)];
    const choice = make("select", {}, budgets.map((b) => make("option", { value: b }, number(b))));
    choice.selectedIndex = budgets.indexOf(budget);
    const paper = make("p", { class: "paper" });
    const told = () => { paper.textContent = `Budget ${number(budget)}`; };
    choice.addEventListener("change", () => { budget = budgets[choice.selectedIndex]; told(); fill(); });
    told();
    if (budgets.length > 1) box.append(make("label", { class: "bar-of-table" }, "Budget", choice), paper);
  }
  if (caption) box.append(caption);
  box.append(make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": `${title}, table` }, table));
  fill();
  return box;
}

function itemsOf(items) {
  return make("ul", { class: "items" }, items.map((one) => make("li", { class: "card" },
    make("h3", {}, one.title),
    one.image && one.image.startsWith("data:image/") ? make("img", { src: one.image, alt: `Sample: ${one.title}` }) : null,
    one.text ? make("p", { tabindex: 0 }, one.text) : null,
    one.facts && one.facts.length ? make("dl", { class: "facts" }, one.facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value))))) : null,
  )));
}

// Colours of figures are the page's: each known colour stands for a variable, light and dark
const KNOWN = {
  "0072b2": "--c0", "d55e00": "--c1", "009e73": "--c2", "cc79a7": "--c3", "e69f00": "--c4", "56b4e9": "--c5",
  "000000": "--ink", "7a4e2d": "--c4",
};
const computed = (variable) => {
  const probe = make("span", {});
  probe.style.cssText = `color:var(${variable});position:absolute;visibility:hidden`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return found;
};
const palette = () => {
  const found = Object.fromEntries(["--ink", "--soft", "--line", "--edge", "--card", "--rest", "--c0", "--c1", "--c2", "--c3", "--c4", "--c5"].map((v) => [v, computed(v)]));
  const rgb = (v, alpha) => (alpha === undefined ? `rgb(${found[v]})` : `rgba(${found[v]},${alpha})`);
  const swap = (text) => {
    const hex = /^#([0-9a-f]{6})([0-9a-f]{2})?$/i.exec(text), parts = /^rgba?\(([\d., ]+)\)$/i.exec(text);
    const numbers = parts ? parts[1].split(",").map(Number) : hex ? [0, 2, 4].map((i) => parseInt(hex[1].slice(i, i + 2), 16)).concat(hex[2] ? parseInt(hex[2], 16) / 255 : []) : null;
    if (!numbers) return /^(black)$/i.test(text) ? rgb("--ink") : /^(gr[ae]y)$/i.test(text) ? rgb("--edge") : text;
    const code = numbers.slice(0, 3).map((n) => n.toString(16).padStart(2, "0")).join("");
    if (KNOWN[code]) return rgb(KNOWN[code], numbers[3]);
    const [a, b, c] = numbers; // greys: strong ones are text, faint ones lines
    if (a !== b || b !== c) return text;
    return rgb(a < 60 ? "--ink" : a < 110 ? "--soft" : a < 160 ? "--edge" : a < 200 ? "--rest" : "--line", numbers[3]);
  };
  const opaque = (text, faint) => {
    const parts = /^rgba\(([\d., ]+)\)$/i.exec(text);
    if (!parts) return text;
    const [alpha, ...rest] = parts[1].split(",").map(Number).reverse();
    const part = faint * alpha;
    return `rgb(${rest.reverse().map((n, i) => Math.round(part * n + (1 - part) * found["--card"][i]))})`;
  };
  const recolour = (value, key, faint = 1) => {
    if (typeof value === "string") return /colou?r$/i.test(key) ? swap(value) : value;
    // Scales are opaque, and faint where cells are written on, so that ink can be read there
    if (/colorscale/i.test(key) && Array.isArray(value)) return value.map((v) => (Array.isArray(v) ? [v[0], opaque(swap(v[1]), faint)] : opaque(swap(v), faint)));
    if (Array.isArray(value)) return /colou?r$|colorway/i.test(key) ? value.map((v) => recolour(v, "color", faint)) : /^(data|shapes|annotations|transforms|updatemenus)$/.test(key) ? value.map((v) => recolour(v, "", faint)) : value;
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, recolour(v, k, value.texttemplate ? 0.5 : faint)]));
    return value;
  };
  return { rgb, recolour };
};

const figures = [];
const coarse = matchMedia("(pointer: coarse)").matches;
function drawFigure(slot, figure, width) {
  const { rgb, recolour } = palette();
  const font = { family: getComputedStyle(document.documentElement).fontFamily, size: width ? 11 : 13, color: rgb("--soft") };
  const layout = recolour(structuredClone(figure.layout || {}), "");
  const types = (figure.data || []).map((trace) => trace.type), cells = types.includes("heatmap");
  const across = (figure.data || []).some((trace) => trace.type === "bar" && trace.orientation === "h");
  const axis = (given, name) => ({
    automargin: true, ...(cells || (types.includes("bar") && (across ? "y" : "x") === name[0]) ? { showgrid: false, zeroline: false } : {}), ...given,
    title: given.title ? { ...given.title, font } : undefined,
    gridcolor: rgb("--line"), zerolinecolor: rgb("--line"), linecolor: rgb("--edge"), tickcolor: rgb("--edge"),
  });
  const few = (slot.clientWidth || width || 700) < 560;
  for (const name of Object.keys(layout)) if (/^[xy]axis\d*$/.test(name)) layout[name] = axis(layout[name], name);
  layout.xaxis ??= axis({}, "x");
  layout.yaxis ??= axis({}, "y");
  const legend = { bgcolor: "rgba(0,0,0,0)", ...layout.legend, font: { ...font, ...(layout.legend || {}).font, color: rgb("--ink") } };
  let lines = 0;
  if (few) {  // the legend below, in as many lines as it needs
    let left = 0;
    for (const trace of figure.data || []) {
      if (!trace.name || trace.showlegend === false) continue;
      const long = 7 * trace.name.length + 50;
      if (left < long) { lines += 1; left = (slot.clientWidth || 340) - 20; }
      left -= long;
    }
    Object.assign(legend, { orientation: "h", tracegroupgap: 0, x: 0, xanchor: "left", yref: "container", y: 0.01, yanchor: "bottom", maxheight: 1 });
  }
  Object.assign(layout, {
    font, legend, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: !width, width: width || undefined,
    margin: { l: 56, r: 16, t: layout.title ? 48 : 24, b: 48, ...(few ? {} : layout.margin) },
    height: layout.height || (few ? 350 + 21 * lines : 430), dragmode: coarse ? false : layout.dragmode || "zoom",
    colorway: ["--c0", "--c1", "--c2", "--c3", "--c4", "--c5", "--ink"].map((v) => rgb(v)),
    hoverlabel: { bgcolor: rgb("--card"), bordercolor: rgb("--edge"), font: { ...font, color: rgb("--ink") } },
  });
  for (const note of layout.annotations || []) note.font = { ...note.font, color: (note.font || {}).color || rgb("--ink") };
  const data = recolour(structuredClone(figure.data || []), "data");
  for (const trace of data) if ((trace.mode || "").includes("text")) { trace.cliponaxis = false; layout.margin.r = Math.max(layout.margin.r, 44); }
  for (const trace of data) if (trace.type === "heatmap" && trace.texttemplate) trace.textfont = { ...trace.textfont, color: rgb("--ink") };
  for (const trace of data) if (trace.type === "heatmap" || trace.colorbar) trace.colorbar = { outlinewidth: 0, thickness: 12, ...trace.colorbar };
  // A mark's label stands on the side that has room
  const xs = data.flatMap((trace) => (Array.isArray(trace.x) ? trace.x : [])).filter((v) => typeof v === "number");
  const middle = xs.length ? (xs.reduce((a, b) => Math.min(a, b)) + xs.reduce((a, b) => Math.max(a, b))) / 2 : 0;
  for (const mark of layout.shapes || []) if (mark.label && mark.x0 === mark.x1) mark.label = { xanchor: mark.x0 > middle ? "right" : "left", ...mark.label };
  slot.style.minHeight = "0";
  return Plotly.react(slot, data, layout, { responsive: !width, displayModeBar: false, displaylogo: false, scrollZoom: false });
}

function figureOf(panel) {
  const views = panel.views || [["", panel.figure]];
  const slot = make("div", { class: "plot", role: "img", "aria-label": panel.alt || panel.title });
  const state = { slot, now: 0, drawn: false };
  state.draw = (width) => {
    if (typeof Plotly === "undefined") return;
    state.drawn = true;
    try {
      drawFigure(slot, views[state.now][1], width);
    } catch (error) {
      slot.replaceChildren(make("p", { class: "failed" }, `This figure cannot be drawn: ${error.message}`));
    }
  };
  const box = make("div", { class: "card" });
  if (views.length > 1) {
    const name = `view-${figures.length}`;
    box.append(make("fieldset", { class: "switch small controls" }, make("legend", { class: "hidden" }, `View of ${panel.title}`), views.map(([label], i) => {
      const input = make("input", { type: "radio", name, value: i });
      input.checked = i === 0;
      input.addEventListener("change", () => { state.now = i; Plotly.purge(slot); state.draw(); });
      return make("label", {}, input, make("span", {}, label));
    })));
  }
  box.append(slot);
  figures.push(state);
  return box;
}

function panels() {
  for (const section of document.querySelectorAll("section[data-panel]")) {
    const panel = content.panels[Number(section.dataset.panel)], slot = section.querySelector(".slot");
    if (panel.figure || panel.views) slot.append(figureOf(panel));
    if (panel.table) slot.append(tableOf(panel.table, panel.title));
    if (panel.items && panel.items.length) slot.append(itemsOf(panel.items));
  }
}

function drawFigures() {
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) idle(() => ready(figures.find((f) => f.slot === entry.target)));
  }, { rootMargin: "400px" });
  const ready = (figure) => { if (!figure.drawn) { seen.unobserve(figure.slot); figure.draw(); } };
  figures.forEach((figure) => seen.observe(figure.slot));
  // In quiet, one after the other, so that they are there when the reader comes
  const rest = () => {
    const next = figures.find((f) => !f.drawn);
    if (next && typeof Plotly !== "undefined") { ready(next); idle(rest); } else performance.mark("figures");
  };
  idle(rest);
  retheme.push(() => figures.forEach((f) => { if (f.drawn) f.draw(); }));
  addEventListener("beforeprint", () => { document.documentElement.dataset.paper = ""; figures.forEach((f) => f.draw(660)); });
  addEventListener("afterprint", () => { delete document.documentElement.dataset.paper; figures.forEach((f) => f.draw()); });
}

const api = content.explorer ? explore(content.explorer) : null;
panels();
performance.mark("numbers");
addEventListener("DOMContentLoaded", drawFigures);
window.policyopt = { content, explorer: api, figures, text: { number, percent, points, exactly, interval } };
})();
