// Times: how long answers took and every pass as a dot; below them the course of the study (timeline.js).
const times = {of: null};
const STAGES = ["first", "again", "confirmed"];

function drawHistory() {
  const kinds = Object.keys(DATA.cells.map(decisive).find(Boolean)?.quantiles ?? {}).filter((kind) =>
    DATA.cells.some((cell) => decisive(cell)?.quantiles[kind]),
  );
  times.of ??= kinds[0] ?? null;
  const latencies = kinds.length
    ? [
        kinds.length > 1 &&
          el(
            "div",
            {class: "controls"},
            choice(
              text("latency_of"),
              kinds.map((kind) => [kind, text(`of_${kind}`)]),
              times.of,
              (kind) => {
                times.of = kind;
                drawHistory();
              },
            ),
          ),
        strips(
          DATA.cells.filter((cell) => decisive(cell)?.quantiles[times.of]),
          (cell) => decisive(cell).quantiles[times.of].filter((value) => value !== null),
          boxPlot,
          "ms",
          text("latencies"),
        ),
        el("p", {class: "note-text"}, text("latencies_note")),
      ]
    : [el("p", {}, text("latencies_none"))];
  const repeated = DATA.cells.filter((cell) => STAGES.some((stage) => cell.stages[stage]?.repeats.length));
  const passes = repeated.length
    ? [
        strips(
          repeated,
          (cell) => STAGES.flatMap((stage) => cell.stages[stage]?.repeats.map((pass) => pass.chars_per_s) ?? []),
          passDots,
          text("chart_y"),
          text("repeats"),
        ),
        el("p", {class: "note-text"}, text("repeats_note")),
      ]
    : [];
  const {drift} = DATA;
  $("history").replaceChildren(
    el("h3", {}, text("latencies")),
    ...latencies.filter(Boolean),
    el("h3", {}, text("repeats")),
    ...passes,
    drift ? el("p", {}, text("drift", {change: signed(drift.change), p: pText(drift.p_value)})) : "",
    el("h3", {}, text("timeline")),
    ...timeline(),
  );
}

// A row a cell on one scale; `draw` makes what stands in a row.
function strips(cells, valuesOf, draw, unit, label) {
  const width = Math.max(300, $("history").clientWidth),
    narrow = width < 600,
    right = 14,
    each = narrow ? 40 : 26,
    top = 6;
  const left = narrow ? 12 : Math.min(330, Math.max(...cells.map((cell) => widthOf(nameOf(cell), 12))) + 34);
  const values = cells.flatMap(valuesOf),
    high = Math.max(...values) * 1.04,
    low = Math.min(...values) > high / 2 ? Math.min(...values) * 0.96 : 0;
  const x = (value) => left + ((value - low) / (high - low || 1)) * (width - left - right),
    height = top + cells.length * each + 34;
  const ticks = ticksOf(low, high, narrow ? 4 : 8),
    picture = svg("svg", {width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label});
  for (const tick of ticks)
    picture.append(
      svg("line", {class: "grid", x1: x(tick), x2: x(tick), y1: top, y2: height - 30}),
      svg("text", {class: "tick", x: x(tick), y: height - 16, "text-anchor": "middle"}, tickText(tick, ticks)),
    );
  picture.append(svg("text", {class: "axis", x: width - right, y: height - 2, "text-anchor": "end"}, unit));
  const rows = cells.map((cell, place) => {
    const y = top + place * each + (narrow ? 28 : 14),
      name = `${MARKS[cell.status]} ${nameOf(cell)}`;
    const row = svg(
      "g",
      {class: "strip"},
      svg("rect", {x: 0, y: top + place * each, width, height: each, fill: "transparent"}),
      svg(
        "text",
        {class: "label", x: narrow ? left : left - 10, y: narrow ? y - 14 : y + 4, "text-anchor": narrow ? "start" : "end"},
        clipped(name, 48),
      ),
      ...draw(cell, x, y),
    );
    return told(row, () => [name, ...stripLines(cell, draw)]);
  });
  picture.append(...rows);
  roving(rows);
  return picture;
}

function clipped(name, length) {
  return name.length > length ? `${name.slice(0, length - 1)}…` : name;
}

function stripLines(cell, draw) {
  if (draw === boxPlot) {
    const line = (value, place) => (value === null ? null : `${DATA.quantiles[place]} %: ${shown(value, ",.1f")} ms`);
    return decisive(cell).quantiles[times.of].map(line);
  }
  return STAGES.filter((stage) => cell.stages[stage]?.repeats.length).map((stage) => {
    const speeds = cell.stages[stage].repeats.map((pass) => shown(pass.chars_per_s, ",.0f"));
    return `${stageText(stage)}: ${speeds.join(", ")}`;
  });
}

function stageText(stage) {
  return text(stage === "first" ? "first_round" : `status_${stage}`);
}

function boxPlot(cell, x, y) {
  const [least, low, lower, middle, upper, high, most] = decisive(cell).quantiles[times.of],
    colour = colourOf(cell, chart.colour);
  const line = (from, to) =>
    from !== null && to !== null && svg("line", {x1: x(from), x2: x(to), y1: y, y2: y, stroke: colour, "stroke-width": 1.5});
  return [
    line(low, lower),
    line(upper, high),
    lower !== null &&
      svg("rect", {
        x: x(lower),
        y: y - 7,
        width: Math.max(1, x(upper) - x(lower)),
        height: 14,
        fill: colour,
        "fill-opacity": 0.35,
        stroke: colour,
      }),
    middle !== null &&
      svg("line", {x1: x(middle), x2: x(middle), y1: y - 7, y2: y + 7, stroke: "var(--ink)", "stroke-width": 2}),
    ...[least, most].map((value) => svg("circle", {cx: x(value), cy: y, r: 2.5, fill: colour})),
  ].filter(Boolean);
}

function passDots(cell, x, y) {
  const colour = colourOf(cell, chart.colour),
    mark = {
      first: (at) => svg("circle", {cx: at, cy: y, r: 4, fill: "var(--paper)", stroke: colour, "stroke-width": 2}),
      again: (at) => svg("circle", {cx: at, cy: y, r: 4, fill: colour, "fill-opacity": 0.6}),
      confirmed: (at) => svg("path", {d: `M${at},${y - 7}l6,7l-6,7l-6,-7z`, fill: colour, stroke: "var(--paper)"}),
    };
  return STAGES.flatMap((stage) => (cell.stages[stage]?.repeats ?? []).map((pass) => mark[stage](x(pass.chars_per_s))));
}
