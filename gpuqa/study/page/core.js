"use strict";
// Data, language, elements, numbers, and what all charts share. Text is only ever set as text, so no answer can become markup.
const DATA = JSON.parse(document.getElementById("data").textContent);
const TEXTS = JSON.parse(document.getElementById("texts").textContent);
const $ = (id) => document.getElementById(id);
const CELLS = new Map(DATA.cells.map((cell) => [cell.name, cell]));
const METRICS = new Map(DATA.metrics.map((metric) => [metric.key, metric]));
const VARIED = Object.keys(DATA.axes).filter((axis) => DATA.axes[axis].length > 1);
const MARKS = {winner: "★", finalist: "●", eligible: "●", open: "◐", refused: "○", dropped: "◇", failed: "✕", skipped: "–"};
let language = /^zh/i.test(navigator.languages.find((name) => /^(zh|en)/i.test(name)) ?? "en") ? "zh" : "en";

function text(key, values = {}) {
  const found = TEXTS[language][key] ?? TEXTS.en[key] ?? key;
  return found.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

function heading(key) {
  return (language === "zh" && TEXTS.metrics_zh[key]?.[0]) || METRICS.get(key)?.heading || key;
}

function meaning(key) {
  return (language === "zh" && TEXTS.metrics_zh[key]?.[1]) || METRICS.get(key)?.meaning || "";
}

// An element with attributes (`on...` are listeners; false and null are left out) and children, of which texts become text nodes.
function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function short(axis) {
  return axis.replace(/^engine\.args\./, "");
}

// A cell by what tells it from the others.
function nameOf(cell) {
  const values = VARIED.map((axis) => cell.axes[axis]).filter((value) => value !== undefined);
  return values.join(" · ") || cell.name;
}

function named(name) {
  return CELLS.has(name) ? nameOf(CELLS.get(name)) : name;
}

// A number by a Python format: ",.0f", ".4f", ",.4g", ".1%", ",d".
function shown(value, form) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  const [, comma, digits, kind] = /^(,?)(?:\.(\d+))?([dfg%]?)$/.exec(form) ?? [null, "", "", ""];
  const places = Number(digits || 0);
  if (kind === "g")
    return Number(value.toPrecision(places)).toLocaleString("en", {
      maximumSignificantDigits: places,
      useGrouping: comma !== "",
    });
  const whole = kind === "%" ? 100 * value : value;
  const out = whole.toLocaleString("en", {
    minimumFractionDigits: places,
    maximumFractionDigits: places,
    useGrouping: comma !== "",
  });
  return kind === "%" ? `${out} %` : out;
}

function metricText(key, value) {
  const metric = METRICS.get(key);
  return value === null && metric.needs ? text("needs", {count: metric.needs}) : shown(value, metric.form);
}

function signed(share, digits = 1) {
  const out = (100 * share).toFixed(digits);
  if (Number(out) === 0) return `${Math.abs(out).toFixed(digits)} %`;
  return `${Number(out) < 0 ? "−" : "+"}${out.replace("-", "")} %`;
}

function bracketed(interval, form) {
  return interval ? ` [${shown(interval[0], form)} – ${shown(interval[1], form)}]` : "";
}

function pText(p) {
  return p < 0.001 ? "< 0.001" : p.toPrecision(2);
}

function decisive(cell) {
  return cell.stages[cell.decisive];
}

// Round numbers between two ends, about so many.
function ticksOf(low, high, count) {
  const raw = (high - low) / count,
    power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= raw * 0.999);
  const ticks = [];
  for (let place = Math.ceil(low / step); place * step <= high * (1 + 1e-12); place += 1) ticks.push(place * step);
  return ticks;
}

function decimals(ticks) {
  const step = ticks.length > 1 ? ticks[1] - ticks[0] : ticks[0] || 1;
  return Math.max(
    0,
    Math.ceil(-Math.log10(Math.abs(step)) - 1e-9) + (/^[25]*25/.test(step.toPrecision(2).replace(/[0.]/g, "")) ? 1 : 0),
  );
}

function tickText(value, ticks) {
  return value.toLocaleString("en", {
    minimumFractionDigits: Math.min(6, decimals(ticks)),
    maximumFractionDigits: Math.min(6, decimals(ticks)),
  });
}

const tip = {
  show(near, lines) {
    const box = $("tip"),
      {left, right, top, bottom} = near.getBoundingClientRect();
    box.replaceChildren(...lines.filter(Boolean).map((line, place) => el("div", {class: place ? "" : "head"}, line)));
    box.hidden = false;
    const {width, height} = box.getBoundingClientRect(),
      wide = document.documentElement.clientWidth;
    const x = Math.min(Math.max(8, (left + right) / 2 - width / 2), wide - width - 8);
    const y = top - height - 8 > 4 ? top - height - 8 : bottom + 8;
    Object.assign(box.style, {left: `${x + scrollX}px`, top: `${y + scrollY}px`});
  },
  hide() {
    $("tip").hidden = true;
  },
};

// Lets one see the same of an element by pointing at it, by touching it and by reaching it with the keyboard.
function told(element, lines, label) {
  const show = () => tip.show(element, lines());
  for (const name of ["pointerenter", "focus", "click"]) element.addEventListener(name, show);
  for (const name of ["pointerleave", "blur"]) element.addEventListener(name, tip.hide);
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", label ?? lines().filter(Boolean).join("; "));
  return element;
}

// One tab stop for many elements; the arrow keys move among them.
function roving(elements) {
  elements.forEach((element, place) => {
    element.setAttribute("tabindex", place ? "-1" : "0");
    element.addEventListener("keydown", (event) => {
      const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
      if (event.key === "Escape") tip.hide();
      if (!step) return;
      event.preventDefault();
      const next = elements[(place + step + elements.length) % elements.length];
      element.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  });
}

function choice(label, options, value, onchange) {
  const select = el(
    "select",
    {onchange: (event) => onchange(event.target.value)},
    ...options.map(([key, name]) => el("option", {value: key, selected: key === value}, name)),
  );
  return el("label", {class: "choice"}, el("span", {}, label), select);
}

function check(label, on, onchange) {
  return el(
    "label",
    {class: "check"},
    el("input", {type: "checkbox", checked: on, onchange: (event) => onchange(event.target.checked)}),
    label,
  );
}

const pen = document.createElement("canvas").getContext("2d");
function widthOf(words, size) {
  pen.font = `${size}px system-ui, sans-serif`;
  return pen.measureText(words).width;
}

function colourOf(cell, axis) {
  const place = axis ? DATA.axes[axis].indexOf(cell.axes[axis]) : 0;
  return `var(--c${(Math.max(0, place) % 8) + 1})`;
}
