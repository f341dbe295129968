// The cells on the chart: their shapes, what they tell, and what the shapes and colours mean.
const HALF = 6; // of a dot, px

function barsOf({cell, x, y, xs, ys}, frame) {
  const across = xs ? `M${frame.inX(xs[0])},${frame.y(y)}H${frame.inX(xs[1])}` : "";
  const up = ys ? `M${frame.x(x)},${frame.inY(ys[0])}V${frame.inY(ys[1])}` : "";
  return svg("path", {
    class: `bars${chart.bars === "few" && cell.status !== "winner" ? " few" : ""}`,
    d: across + up,
    stroke: colourOf(cell, chart.colour),
    "data-cell": cell.name,
  });
}

function shape(status, x, y, colour) {
  const solid = {fill: colour, stroke: "var(--paper)", "stroke-width": 1.5},
    hollow = {fill: "var(--paper)", stroke: colour, "stroke-width": 2.5};
  if (status === "winner") return svg("path", {d: star(x, y, 11), ...solid});
  if (status === "dropped") return svg("path", {d: `M${x},${y - 8}l8,8l-8,8l-8,-8z`, ...hollow, "stroke-dasharray": "3 2"});
  if (["failed", "skipped"].includes(status))
    return svg("path", {d: `M${x - 5},${y - 5}l10,10m0,-10l-10,10`, stroke: colour, "stroke-width": 2.5});
  const circle = svg("circle", {cx: x, cy: y, r: HALF, ...(status === "refused" || status === "open" ? hollow : solid)});
  if (status === "open")
    return svg("g", {}, circle, svg("path", {d: `M${x},${y - HALF}a${HALF},${HALF} 0 0 0 0,${2 * HALF}z`, fill: colour}));
  if (status === "finalist")
    return svg("g", {}, circle, svg("circle", {cx: x, cy: y, r: HALF + 4, fill: "none", stroke: colour, "stroke-width": 1.5}));
  return circle;
}

function star(x, y, radius) {
  const corner = (place) => [
    x + radius * (place % 2 ? 0.45 : 1) * Math.sin((Math.PI * place) / 5),
    y - radius * (place % 2 ? 0.45 : 1) * Math.cos((Math.PI * place) / 5),
  ];
  return `M${Array.from({length: 10}, (_, place) =>
    corner(place)
      .map((value) => value.toFixed(1))
      .join(","),
  ).join("L")}z`;
}

function dot(point, frame) {
  const {cell, x, y} = point,
    place = [frame.x(x), frame.y(y)];
  const mark = svg(
    "g",
    {class: "dot", "data-cell": cell.name},
    svg("circle", {cx: place[0], cy: place[1], r: 14, fill: "transparent"}),
    shape(cell.status, ...place, colourOf(cell, chart.colour)),
  );
  point.at = place;
  for (const [name, on] of [
    ["focus", true],
    ["blur", false],
  ])
    mark.addEventListener(name, () => near(cell, on));
  const lines = () => [
    `${MARKS[cell.status]} ${nameOf(cell)} (${text(`status_${cell.status}`)})`,
    text("tip_speed", {speed: shown(y, ",.0f"), interval: bracketed(point.ys, ",.0f")}),
    text("tip_quality", {name: heading(chart.x), score: shown(x, ".4f"), interval: bracketed(point.xs, ".4f")}),
    point.bound && text("tip_bound", {share: shown(y / point.bound, ".1%")}),
    ...cell.sentences,
  ];
  return told(mark, lines);
}

// Shows the intervals of one cell, or of none.
function near(cell, on) {
  for (const bars of document.querySelectorAll(".bars")) bars.classList.toggle("near", on && bars.dataset.cell === cell.name);
}

// A finger or a pointer need not hit: the nearest dot within 30 px tells.
function nearest(picture, dots) {
  const distance = (element, event) => {
    const {left, right, top, bottom} = element.lastChild.getBoundingClientRect();
    return Math.hypot(event.clientX - (left + right) / 2, event.clientY - (top + bottom) / 2);
  };
  const find = (event) => dots.map((element) => [distance(element, event), element]).sort((a, b) => a[0] - b[0])[0];
  const look = (event) => {
    const [away, element] = find(event);
    near(CELLS.get(element.dataset.cell), away < 30);
    if (away < 30) element.dispatchEvent(new PointerEvent("pointerenter"));
    else tip.hide();
  };
  picture.addEventListener("pointermove", look);
  picture.addEventListener("pointerdown", look);
  picture.addEventListener("pointerleave", tip.hide);
}

function legend(points) {
  const states = [...new Set(DATA.cells.map((cell) => cell.status))];
  const key = (colour, name) => el("li", {}, svgMark("eligible", colour), name);
  return el(
    "ul",
    {class: "legend"},
    ...(chart.colour
      ? DATA.axes[chart.colour].map((value) => key(colourOf({axes: {[chart.colour]: value}}, chart.colour), value))
      : []),
    ...states.map((status) => el("li", {class: "state"}, svgMark(status, "var(--ink)"), text(`status_${status}`))),
    el("li", {}, el("span", {class: "line front-key"}), text("front")),
    points.some((point) => point.bound) && el("li", {}, el("span", {class: "line bound-key"}), text("bound")),
  );
}

function svgMark(status, colour) {
  return svg("svg", {width: 24, height: 24, viewBox: "0 0 24 24", "aria-hidden": "true"}, shape(status, 12, 12, colour));
}
