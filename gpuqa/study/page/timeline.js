// The course of the study: a row for each start of an engine, one for scoring, and what NVML read.

// Every start of an engine with its passes, in the order in which they ran; when it began is known where the study noted it.
function startsOf() {
  const starts = new Map();
  for (const cell of DATA.cells)
    for (const stage of STAGES) {
      const measured = cell.stages[stage],
        passes = measured?.repeats.filter((pass) => pass.at && pass.seconds && pass.engine) ?? [];
      for (const pass of passes) {
        if (!starts.has(pass.engine)) starts.set(pass.engine, {passes: [], keys: new Set(), warmup: 0, start: 0});
        starts.get(pass.engine).passes.push({...pass, cell, stage});
        starts.get(pass.engine).keys.add(measured.key);
      }
      if (passes.length) {
        const start = starts.get(passes[0].engine);
        start.warmup += measured.warmup_s;
        start.start = measured.engine_start_s;
      }
    }
  for (const start of starts.values()) {
    start.from = Math.min(...start.passes.map((pass) => pass.at));
    start.to = Math.max(...start.passes.map((pass) => pass.at + pass.seconds));
    start.began = momentOf("engine starts", start) ?? start.from - start.warmup - start.start;
    start.ready = start.start ? Math.min(start.began + start.start, start.from) : start.from;
  }
  return [...starts.values()].sort((a, b) => a.from - b.from);
}

// The last moment of a kind before the first pass of a start.
function momentOf(what, {keys, from}) {
  return DATA.events.filter((event) => event.what === what && keys.has(event.trial) && event.at <= from).at(-1)?.at;
}

// From when to when the answers of trials were scored.
function scoringOf() {
  const begun = new Map(),
    spans = [];
  for (const {what, trial, at} of DATA.events) {
    if (what === "scoring") begun.set(trial, at);
    if (what === "scored" && begun.has(trial)) spans.push([begun.get(trial), at]);
  }
  return spans;
}

function timeline() {
  const starts = startsOf();
  if (!starts.length) return [el("p", {}, text("timeline_none"))];
  const spans = scoringOf(),
    zero = Math.min(...starts.map((one) => one.began)),
    end = Math.max(...starts.map((one) => one.to), ...spans.map((span) => span[1]));
  const width = Math.max(300, $("history").clientWidth),
    each = 18,
    clocks = readings(),
    rowCount = starts.length + (spans.length ? 1 : 0),
    height = rowCount * each + 30 + (clocks.length ? 104 : 0);
  const x = (moment) => 6 + ((moment - zero) / (end - zero || 1)) * (width - 16),
    ticks = ticksOf(0, end - zero, width < 600 ? 4 : 9);
  const picture = svg("svg", {width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": text("timeline")});
  for (const tick of ticks)
    picture.append(
      svg("line", {class: "grid", x1: x(zero + tick), x2: x(zero + tick), y1: 0, y2: rowCount * each}),
      svg("text", {class: "tick", x: x(zero + tick), y: rowCount * each + 14, "text-anchor": "middle"}, tickText(tick, ticks)),
    );
  const rows = starts.map((one, place) => startRow(one, place * each, each, x));
  if (spans.length) rows.push(scoringRow(spans, starts.length * each, each, x));
  picture.append(...rows, ...clockPanel(clocks, x, rowCount * each + 36));
  roving(rows);
  const passes = starts.flatMap((one) => one.passes).length,
    moment = (seconds) => new Date(seconds * 1000).toLocaleString(language === "zh" ? "zh-CN" : "en-GB");
  const keys = [
    ["start-key", "bar_start"],
    ["warmup-key", "bar_warmup"],
    ["pass-key", "bar_pass"],
    ...(spans.length ? [["scoring-key", "bar_scoring"]] : []),
  ].map(([name, key]) => el("li", {}, el("span", {class: `line ${name}`}), text(key)));
  return [
    el(
      "p",
      {},
      text("span", {
        from: moment(zero),
        to: moment(end),
        minutes: ((end - zero) / 60).toFixed(1),
        starts: starts.length,
        passes,
      }),
    ),
    picture,
    el("p", {class: "axis-note"}, text("seconds")),
    el("ul", {class: "legend"}, ...keys),
    el("p", {class: "note-text"}, text(DATA.events.length ? "timeline_note" : "timeline_guessed")),
  ];
}

function bar(from, to, [y, each], x, attributes) {
  return svg("rect", {x: x(from), y: y + 3, width: Math.max(1, x(to) - x(from)), height: each - 6, ...attributes});
}

function startRow(one, y, each, x) {
  const row = svg(
    "g",
    {class: "strip"},
    svg("rect", {x: 0, y, width: x(one.to) + 8, height: each, fill: "transparent"}),
    bar(one.began, one.ready, [y, each], x, {class: "bar-start"}),
    bar(one.ready, one.from, [y, each], x, {class: "bar-warmup"}),
    ...one.passes.map((pass) =>
      bar(pass.at, pass.at + pass.seconds, [y, each], x, {fill: colourOf(pass.cell, chart.colour), stroke: "var(--paper)"}),
    ),
  );
  const cells = [...new Set(one.passes.map((pass) => nameOf(pass.cell)))];
  const measured = one.passes.reduce((sum, pass) => sum + pass.seconds, 0);
  const lasted = (key, seconds) => `${text(key)} ${seconds.toFixed(1)} s`;
  return told(row, () => [
    stageText(one.passes[0].stage),
    ...cells.slice(0, 4),
    cells.length > 4 && "…",
    lasted("bar_start", one.ready - one.began),
    lasted("bar_warmup", one.from - one.ready),
    `${lasted("bar_pass", measured)} (${one.passes.length})`,
  ]);
}

function scoringRow(spans, y, each, x) {
  const row = svg(
    "g",
    {class: "strip"},
    svg("rect", {x: 0, y, width: x(spans.at(-1)[1]) + 8, height: each, fill: "transparent"}),
    ...spans.map(([from, to]) => bar(from, to, [y, each], x, {class: "bar-scoring"})),
  );
  return told(row, () => [
    text("bar_scoring"),
    `${spans.length}: ${spans.reduce((sum, [from, to]) => sum + to - from, 0).toFixed(1)} s`,
  ]);
}

function readings() {
  return DATA.cells.flatMap((cell) => STAGES.flatMap((stage) => cell.stages[stage]?.clocks ?? [])).sort((a, b) => a.at - b.at);
}

function clockPanel(clocks, x, top) {
  if (!clocks.length) return [];
  return [
    ["mhz", "SM MHz", "var(--c1)"],
    ["celsius", "°C", "var(--c2)"],
  ].flatMap(([key, unit, colour], place) => {
    const values = clocks.map((reading) => reading[key]),
      low = Math.min(...values),
      high = Math.max(...values),
      y = (value) => top + place * 46 + 42 - ((value - low) / (high - low || 1)) * 22;
    return [
      svg("polyline", {
        points: clocks.map((reading) => `${x(reading.at)},${y(reading[key])}`).join(" "),
        fill: "none",
        stroke: colour,
        "stroke-width": 1.5,
      }),
      svg(
        "text",
        {class: "label", x: 8, y: top + place * 46 + 12},
        `${text("clocks")}: ${low === high ? low : `${low}–${high}`} ${unit}`,
      ),
    ];
  });
}
