// Quality to the right, speed upwards. Colour is an axis of the study, shape is how a cell stands.
const chart = {x: null, colour: VARIED[0] ?? null, bars: "few"};

function drawChart() {
  const box = $("chart");
  const scores = ["rouge_l_f1_judge", "rouge_l_f1"].filter((key) =>
    DATA.cells.some((cell) => decisive(cell)?.numbers[key] != null),
  );
  chart.x ??= scores[0] ?? null;
  const controls = el(
    "div",
    {class: "controls"},
    scores.length > 1 &&
      choice(
        text("chart_x"),
        scores.map((key) => [key, heading(key)]),
        chart.x,
        (key) => {
          chart.x = key;
          drawChart();
        },
      ),
    VARIED.length > 1 &&
      choice(
        text("colour_by"),
        VARIED.map((axis) => [axis, short(axis)]),
        chart.colour,
        (axis) => {
          chart.colour = axis;
          drawChart();
          drawHistory();
        },
      ),
    choice(
      text("bars"),
      ["few", "all"].map((key) => [key, text(`bars_${key}`)]),
      chart.bars,
      (key) => {
        chart.bars = key;
        drawChart();
      },
    ),
  );
  const points = DATA.cells.map(pointOf).filter(Boolean);
  const without = DATA.cells.filter((cell) => !decisive(cell));
  if (!points.length) {
    const why = text(without.length < DATA.cells.length ? "chart_unscored" : "chart_empty");
    return box.replaceChildren(el("p", {}, why), ...withoutNumbers(without));
  }
  const frame = frameOf(points, Math.max(300, box.clientWidth));
  const picture = svg("svg", {
    width: frame.width,
    height: frame.height,
    viewBox: `0 0 ${frame.width} ${frame.height}`,
    role: "group",
    "aria-label": text("chart"),
  });
  const dots = points.sort((a, b) => a.x - b.x).map((point) => dot(point, frame));
  picture.append(
    ...axesOf(frame),
    ...floorOf(frame),
    frontOf(points, frame),
    ...boundsOf(points, frame),
    ...points.map((point) => barsOf(point, frame)),
    ...labelsOf(points, frame),
    ...dots,
  );
  roving(dots);
  nearest(picture, dots);
  box.replaceChildren(controls, picture, legend(points), ...withoutNumbers(without), ...chartNotes(points, frame));
}

function pointOf(cell) {
  const stage = decisive(cell);
  if (!stage || stage.numbers[chart.x] == null || !(stage.numbers.chars_per_s > 0)) return null;
  return {
    cell,
    x: stage.numbers[chart.x],
    y: stage.numbers.chars_per_s,
    xs: stage.intervals[chart.x],
    ys: stage.intervals.chars_per_s,
    bound: stage.bound,
  };
}

// Both scales fit the dots; bars may be longer and are cut off. The floor is in it unless that would crowd the dots.
function frameOf(points, width) {
  const height = width < 600 ? 380 : 460,
    left = 62,
    right = 18,
    top = 22,
    bottom = 46;
  let xs = padded(points.map((point) => point.x)),
    ys = points.map((point) => point.y);
  const floor = chart.x === "rouge_l_f1_judge" ? DATA.verdict.floor : null,
    span = xs[1] - xs[0];
  if (floor != null && floor > xs[0] - span && floor < xs[1] + span)
    xs = [Math.min(xs[0], floor - span * 0.04), Math.max(xs[1], floor + span * 0.04)];
  const bounds = points.map((point) => point.bound).filter((bound) => bound && bound < 1.6 * Math.max(...ys));
  const log = Math.max(...ys) / Math.min(...ys) > 12;
  let [low, high] = padded([...ys, ...bounds].map((y) => (log ? Math.log10(y) : y)));
  if (!log) low = Math.max(0, low);
  const x = (value) => left + ((value - xs[0]) / (xs[1] - xs[0])) * (width - left - right);
  const y = (value) => height - bottom - (((log ? Math.log10(value) : value) - low) / (high - low)) * (height - top - bottom);
  const clip = (value, from, to) => Math.min(Math.max(value, from), to);
  return {
    width,
    height,
    left,
    right,
    top,
    bottom,
    xs,
    ys: [low, high],
    log,
    x,
    y,
    floor,
    inX: (value) => clip(x(value), left, width - right),
    inY: (value) => clip(y(Math.max(value, 1e-9)), top, height - bottom),
  };
}

function padded(values) {
  const low = Math.min(...values),
    high = Math.max(...values),
    pad = (high - low) * 0.09 || Math.abs(high) * 0.1 || 1;
  return [low - pad, high + pad];
}

function axesOf(frame) {
  const {width, height, left, right, top, bottom} = frame,
    parts = [];
  const across = ticksOf(...frame.xs, width < 600 ? 4 : 8);
  const up = frame.log ? logTicks(frame.ys) : ticksOf(...frame.ys, 6);
  for (const tick of up)
    parts.push(
      svg("line", {class: "grid", x1: left, x2: width - right, y1: frame.y(tick), y2: frame.y(tick)}),
      svg(
        "text",
        {class: "tick", x: left - 8, y: frame.y(tick) + 4, "text-anchor": "end"},
        frame.log ? tick.toLocaleString("en") : tickText(tick, up),
      ),
    );
  for (const tick of across)
    parts.push(
      svg("line", {class: "grid", x1: frame.x(tick), x2: frame.x(tick), y1: top, y2: height - bottom}),
      svg("text", {class: "tick", x: frame.x(tick), y: height - bottom + 18, "text-anchor": "middle"}, tickText(tick, across)),
    );
  parts.push(
    svg("text", {class: "axis", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle"}, heading(chart.x)),
    svg("text", {class: "axis", x: 4, y: 12}, `${text("chart_y")} ${frame.log ? text("log_scale") : ""}`),
  );
  return parts;
}

function logTicks([low, high]) {
  const ticks = [];
  for (let power = Math.floor(low); power <= high; power += 1) ticks.push(...[1, 2, 5].map((factor) => factor * 10 ** power));
  return ticks.filter((tick) => Math.log10(tick) >= low && Math.log10(tick) <= high);
}

function floorOf(frame) {
  const {floor, top, height, bottom, left} = frame;
  if (floor == null || floor < frame.xs[0] || floor > frame.xs[1]) return [];
  const x = frame.x(floor);
  return [
    svg("rect", {class: "below", x: left, y: top, width: Math.max(0, x - left), height: height - top - bottom}),
    svg("line", {class: "floor", x1: x, x2: x, y1: top, y2: height - bottom}),
    svg("text", {class: "floor-label", x: x + 4, y: height - bottom - 6}, text("floor", {floor})),
  ];
}

// Cells of which no other is as fast and as good, by what is plotted; a dropped cell's numbers are not of all questions.
function frontOf(points, frame) {
  const front = points
    .filter(
      (point) =>
        point.cell.status !== "dropped" &&
        !points.some(
          (other) =>
            other.cell.status !== "dropped" &&
            other.x >= point.x &&
            other.y >= point.y &&
            (other.x > point.x || other.y > point.y),
        ),
    )
    .sort((a, b) => a.x - b.x);
  for (const point of points) point.front = front.includes(point);
  const path = front
    .map((point, place) => `${place ? `V${frame.y(point.y)}H` : `M${frame.left},${frame.y(point.y)}H`}${frame.x(point.x)}`)
    .join("");
  return svg("path", {class: "front", d: `${path}V${frame.height - frame.bottom}`});
}

function boundsOf(points, frame) {
  return points
    .filter((point) => point.bound && (frame.log ? Math.log10(point.bound) : point.bound) <= frame.ys[1])
    .map((point) =>
      svg("path", {
        class: "bound",
        d: `M${frame.x(point.x) - 9},${frame.y(point.bound)}h18M${frame.x(point.x)},${frame.y(point.bound)}V${frame.y(point.y)}`,
      }),
    );
}

function withoutNumbers(cells) {
  return cells.length
    ? [
        el(
          "ul",
          {class: "without"},
          ...cells.map((cell) =>
            el(
              "li",
              {},
              svgMark(cell.status, "var(--bad)"),
              el(
                "span",
                {},
                el("b", {}, `${nameOf(cell)}: `),
                el("span", {lang: "en"}, cell.sentences.join("; ") || text("without_numbers")),
              ),
            ),
          ),
        ),
      ]
    : [];
}

function chartNotes(points, frame) {
  const {floor} = frame,
    notes = [text("chart_note")],
    bounds = points.filter((point) => point.bound);
  if (floor != null && floor < frame.xs[0]) notes.push(text("floor_left", {floor}));
  if (floor != null && floor > frame.xs[1]) notes.push(text("floor_right", {floor}));
  const above = bounds.filter((point) => (frame.log ? Math.log10(point.bound) : point.bound) > frame.ys[1]),
    ends = (values, form) => [Math.min(...values), Math.max(...values)].map((value) => shown(value, form));
  if (above.length) {
    const [low, high] = ends(
        above.map((point) => point.bound),
        ",.0f",
      ),
      [least, most] = ends(
        above.map((point) => point.y / point.bound),
        ".1%",
      );
    notes.push(text("bound_above", {low, high, least, most}));
  }
  return notes.map((note) => el("p", {class: "note-text"}, note));
}
