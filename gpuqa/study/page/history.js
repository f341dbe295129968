// Times: how long answers took, every pass as a dot, and the course of the study.
const times = {of: null};
const STAGES = ["first", "again", "confirmed"];

function drawHistory() {
  const kinds = Object.keys(DATA.cells.map(decisive).find(Boolean)?.quantiles ?? {}).filter((kind) => DATA.cells.some((cell) => decisive(cell)?.quantiles[kind]));
  times.of ??= kinds[0] ?? null;
  const latencies = kinds.length ? [kinds.length > 1 && el("div", {class: "controls"}, choice(text("latency_of"), kinds.map((kind) => [kind, text(`of_${kind}`)]), times.of, (kind) => { times.of = kind; drawHistory(); })),
    strips(DATA.cells.filter((cell) => decisive(cell)?.quantiles[times.of]), (cell) => decisive(cell).quantiles[times.of].filter((value) => value !== null), boxPlot, "ms", text("latencies")), el("p", {class: "note-text"}, text("latencies_note"))]
    : [el("p", {}, text("latencies_none"))];
  const repeated = DATA.cells.filter((cell) => STAGES.some((stage) => cell.stages[stage]?.repeats.length));
  const passes = repeated.length ? [strips(repeated, (cell) => STAGES.flatMap((stage) => cell.stages[stage]?.repeats.map((pass) => pass.chars_per_s) ?? []), passDots, text("chart_y"), text("repeats")), el("p", {class: "note-text"}, text("repeats_note"))] : [];
  const {drift} = DATA;
  $("history").replaceChildren(el("h3", {}, text("latencies")), ...latencies.filter(Boolean), el("h3", {}, text("repeats")), ...passes,
    drift ? el("p", {}, text("drift", {change: signed(drift.change), p: pText(drift.p_value)})) : "", el("h3", {}, text("timeline")), ...timeline());
}

// A row a cell on one scale; `draw` makes what stands in a row.
function strips(cells, valuesOf, draw, unit, label) {
  const width = Math.max(300, $("history").clientWidth), narrow = width < 600, right = 14, each = narrow ? 40 : 26, top = 6;
  const left = narrow ? 12 : Math.min(330, Math.max(...cells.map((cell) => widthOf(nameOf(cell), 12))) + 34);
  const values = cells.flatMap(valuesOf), high = Math.max(...values) * 1.04, low = Math.min(...values) > high / 2 ? Math.min(...values) * 0.96 : 0;
  const x = (value) => left + (value - low) / (high - low || 1) * (width - left - right), height = top + cells.length * each + 34;
  const ticks = ticksOf(low, high, narrow ? 4 : 8), picture = svg("svg", {width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label});
  for (const tick of ticks) picture.append(svg("line", {class: "grid", x1: x(tick), x2: x(tick), y1: top, y2: height - 30}), svg("text", {class: "tick", x: x(tick), y: height - 16, "text-anchor": "middle"}, tickText(tick, ticks)));
  picture.append(svg("text", {class: "axis", x: width - right, y: height - 2, "text-anchor": "end"}, unit));
  const rows = cells.map((cell, place) => {
    const y = top + place * each + (narrow ? 28 : 14), name = `${MARKS[cell.status]} ${nameOf(cell)}`;
    const row = svg("g", {class: "strip"}, svg("rect", {x: 0, y: top + place * each, width, height: each, fill: "transparent"}),
      svg("text", {class: "label", x: narrow ? left : left - 10, y: narrow ? y - 14 : y + 4, "text-anchor": narrow ? "start" : "end"}, clipped(name, 48)), ...draw(cell, x, y));
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
  if (draw === boxPlot) return decisive(cell).quantiles[times.of].map((value, place) => value === null ? null : `${DATA.quantiles[place]} %: ${shown(value, ",.1f")} ms`);
  return STAGES.filter((stage) => cell.stages[stage]?.repeats.length).map((stage) => `${text(stage === "first" ? "first_round" : `status_${stage}`)}: ${cell.stages[stage].repeats.map((pass) => shown(pass.chars_per_s, ",.0f")).join(", ")}`);
}

function boxPlot(cell, x, y) {
  const [least, low, lower, middle, upper, high, most] = decisive(cell).quantiles[times.of], colour = colourOf(cell, chart.colour);
  const line = (from, to) => from !== null && to !== null && svg("line", {x1: x(from), x2: x(to), y1: y, y2: y, stroke: colour, "stroke-width": 1.5});
  return [line(low, lower), line(upper, high), lower !== null && svg("rect", {x: x(lower), y: y - 7, width: Math.max(1, x(upper) - x(lower)), height: 14, fill: colour, "fill-opacity": 0.35, stroke: colour}),
    middle !== null && svg("line", {x1: x(middle), x2: x(middle), y1: y - 7, y2: y + 7, stroke: "var(--ink)", "stroke-width": 2}), ...[least, most].map((value) => svg("circle", {cx: x(value), cy: y, r: 2.5, fill: colour}))].filter(Boolean);
}

function passDots(cell, x, y) {
  const colour = colourOf(cell, chart.colour), mark = {
    first: (at) => svg("circle", {cx: at, cy: y, r: 4, fill: "var(--paper)", stroke: colour, "stroke-width": 2}),
    again: (at) => svg("circle", {cx: at, cy: y, r: 4, fill: colour, "fill-opacity": 0.6}),
    confirmed: (at) => svg("path", {d: `M${at},${y - 7}l6,7l-6,7l-6,-7z`, fill: colour, stroke: "var(--paper)"}),
  };
  return STAGES.flatMap((stage) => (cell.stages[stage]?.repeats ?? []).map((pass) => mark[stage](x(pass.chars_per_s))));
}

// Every start of an engine with its passes, in the order in which they ran; when it began is known where the study noted it.
function startsOf() {
  const starts = new Map();
  for (const cell of DATA.cells) for (const stage of STAGES) {
    const measured = cell.stages[stage], passes = measured?.repeats.filter((pass) => pass.at && pass.seconds && pass.engine) ?? [];
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
  const begun = new Map(), spans = [];
  for (const {what, trial, at} of DATA.events) {
    if (what === "scoring") begun.set(trial, at);
    if (what === "scored" && begun.has(trial)) spans.push([begun.get(trial), at]);
  }
  return spans;
}

function timeline() {
  const starts = startsOf();
  if (!starts.length) return [el("p", {}, text("timeline_none"))];
  const spans = scoringOf(), zero = Math.min(...starts.map((one) => one.began)), end = Math.max(...starts.map((one) => one.to), ...spans.map((span) => span[1]));
  const width = Math.max(300, $("history").clientWidth), each = 18, clocks = readings(), rowCount = starts.length + (spans.length ? 1 : 0), height = rowCount * each + 30 + (clocks.length ? 90 : 0);
  const x = (moment) => 6 + (moment - zero) / (end - zero || 1) * (width - 16), ticks = ticksOf(0, end - zero, width < 600 ? 4 : 9);
  const picture = svg("svg", {width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": text("timeline")});
  for (const tick of ticks) picture.append(svg("line", {class: "grid", x1: x(zero + tick), x2: x(zero + tick), y1: 0, y2: rowCount * each}), svg("text", {class: "tick", x: x(zero + tick), y: rowCount * each + 14, "text-anchor": "middle"}, tickText(tick, ticks)));
  const rows = starts.map((one, place) => startRow(one, place * each, each, x));
  if (spans.length) rows.push(scoringRow(spans, starts.length * each, each, x));
  picture.append(...rows, ...clockPanel(clocks, x, rowCount * each + 36));
  roving(rows);
  const passes = starts.flatMap((one) => one.passes).length, moment = (seconds) => new Date(seconds * 1000).toLocaleString(language === "zh" ? "zh-CN" : "en-GB");
  const keys = [["start-key", "bar_start"], ["warmup-key", "bar_warmup"], ["pass-key", "bar_pass"], ...(spans.length ? [["scoring-key", "bar_scoring"]] : [])].map(([name, key]) => el("li", {}, el("span", {class: `line ${name}`}), text(key)));
  return [el("p", {}, text("span", {from: moment(zero), to: moment(end), minutes: ((end - zero) / 60).toFixed(1), starts: starts.length, passes})), picture,
    el("p", {class: "axis-note"}, text("seconds")), el("ul", {class: "legend"}, ...keys), el("p", {class: "note-text"}, text(DATA.events.length ? "timeline_note" : "timeline_guessed"))];
}

function bar(from, to, [y, each], x, attributes) {
  return svg("rect", {x: x(from), y: y + 3, width: Math.max(1, x(to) - x(from)), height: each - 6, ...attributes});
}

function startRow(one, y, each, x) {
  const row = svg("g", {class: "strip"}, svg("rect", {x: 0, y, width: x(one.to) + 8, height: each, fill: "transparent"}), bar(one.began, one.ready, [y, each], x, {class: "bar-start"}),
    bar(one.ready, one.from, [y, each], x, {class: "bar-warmup"}), ...one.passes.map((pass) => bar(pass.at, pass.at + pass.seconds, [y, each], x, {fill: colourOf(pass.cell, chart.colour), stroke: "var(--paper)"})));
  const cells = [...new Set(one.passes.map((pass) => nameOf(pass.cell)))], {stage} = one.passes[0], lasted = (from, to) => (to - from).toFixed(1);
  return told(row, () => [text(stage === "first" ? "first_round" : `status_${stage}`), ...cells.slice(0, 4), cells.length > 4 && "…",
    `${text("bar_start")} ${lasted(one.began, one.ready)} s, ${text("bar_warmup")} ${lasted(one.ready, one.from)} s, ${text("bar_pass")} ${one.passes.length} (${one.passes.reduce((sum, pass) => sum + pass.seconds, 0).toFixed(1)} s)`]);
}

function scoringRow(spans, y, each, x) {
  const row = svg("g", {class: "strip"}, svg("rect", {x: 0, y, width: x(spans.at(-1)[1]) + 8, height: each, fill: "transparent"}), ...spans.map(([from, to]) => bar(from, to, [y, each], x, {class: "bar-scoring"})));
  return told(row, () => [text("bar_scoring"), `${spans.length}: ${spans.reduce((sum, [from, to]) => sum + to - from, 0).toFixed(1)} s`]);
}

function readings() {
  return DATA.cells.flatMap((cell) => STAGES.flatMap((stage) => cell.stages[stage]?.clocks ?? [])).sort((a, b) => a.at - b.at);
}

function clockPanel(clocks, x, top) {
  if (!clocks.length) return [];
  return [["mhz", "SM MHz", "var(--c1)"], ["celsius", "°C", "var(--c2)"]].flatMap(([key, unit, colour], place) => {
    const values = clocks.map((reading) => reading[key]), low = Math.min(...values), high = Math.max(...values), y = (value) => top + place * 40 + 30 - (value - low) / (high - low || 1) * 26;
    return [svg("polyline", {points: clocks.map((reading) => `${x(reading.at)},${y(reading[key])}`).join(" "), fill: "none", stroke: colour, "stroke-width": 1.5}),
      svg("text", {class: "label", x: 8, y: top + place * 40 + 12}, `${text("clocks")}: ${low === high ? low : `${low}–${high}`} ${unit}`)];
  });
}
