// Main effects and interactions: a row each, with a bar for the interval.
const EFFECT_ROWS = 8; // of the interactions before the reader asks for all

function drawEffects() {
  const main = DATA.effects.filter((effect) => effect.changes.length === 1),
    joint = DATA.effects.filter((effect) => effect.changes.length === 2);
  if (!main.length) return $("effects").replaceChildren(el("p", {}, text("effects_none")));
  const parts = [el("p", {class: "note-text"}, text("effects_note")), effectTable(main, "pairs")];
  if (joint.length) {
    const strength = ({on}) =>
      -Math.max(...Object.values(on).map((tested) => (tested.shown ? 10 : 0) + Math.abs(tested.share)));
    const sorted = [...joint].sort((a, b) => strength(a) - strength(b)),
      place = el("div", {}, effectTable(sorted.slice(0, EFFECT_ROWS), "squares"));
    const all =
      sorted.length > EFFECT_ROWS &&
      el(
        "button",
        {
          type: "button",
          onclick: (event) => {
            place.replaceChildren(effectTable(sorted, "squares"));
            event.target.remove();
          },
        },
        text("interactions_rest", {count: sorted.length}),
      );
    parts.push(el("h3", {}, text("interactions")), el("p", {class: "note-text"}, text("interactions_note")), place, all);
  }
  $("effects").replaceChildren(...parts.filter(Boolean));
}

function effectTable(effects, groups) {
  const quantities = ["chars_per_s", "rouge_l_f1", "rouge_l_f1_judge"].filter((name) => effects.some(({on}) => on[name]));
  const widest = Object.fromEntries(
    quantities.map((name) => [
      name,
      Math.max(
        0.01,
        ...effects.flatMap(({on}) =>
          on[name]
            ? [
                Math.abs(on[name].share) * 1.4,
                ...(on[name].interval
                  ? [Math.min(Math.abs(on[name].interval.low), 1), Math.min(Math.abs(on[name].interval.high), 1)]
                  : []),
              ]
            : [],
        ),
      ),
    ]),
  );
  return el(
    "table",
    {class: "effects"},
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        el("th", {scope: "col"}, text("effect")),
        ...quantities.map((name) => el("th", {scope: "col"}, text(`on_${name}`))),
        el("th", {scope: "col", class: "number"}, text(groups)),
      ),
    ),
    el(
      "tbody",
      {},
      ...effects.map((effect) =>
        el(
          "tr",
          {},
          el("th", {scope: "row"}, changeText(effect.changes)),
          ...quantities.map((name) =>
            el("td", {"data-head": text(`on_${name}`)}, ...effectCell(effect.on[name], widest[name])),
          ),
          el("td", {class: "number", "data-head": text(groups)}, String(effect.groups)),
        ),
      ),
    ),
  );
}

function changeText(changes) {
  const [first, second] = changes.map(({axis, value, reference}) => text("instead", {axis: short(axis), value, reference}));
  return second ? text("together", {first, second}) : first;
}

function effectCell(tested, widest) {
  if (!tested) return ["–"];
  const {share, interval, shown: isShown} = tested;
  const ends = interval ? ` [${signed(interval.low)} ${"–"} ${signed(interval.high)}]` : "";
  return [
    el("span", {class: isShown ? (share > 0 ? "better" : "worse") : ""}, signed(share)),
    el("small", {}, ends),
    interval && effectBar(tested, widest),
    !isShown && el("small", {class: "open-word"}, text(interval ? "not_shown" : "no_interval")),
  ];
}

function effectBar({share, interval, shown: isShown}, widest) {
  const x = (value) => 60 + 58 * Math.max(-1, Math.min(1, value / widest));
  return svg(
    "svg",
    {class: `bar${isShown ? "" : " faint"}`, width: 120, height: 14, viewBox: "0 0 120 14", "aria-hidden": "true"},
    svg("line", {class: "zero", x1: 60, x2: 60, y1: 0, y2: 14}),
    svg("line", {class: "reach", x1: x(interval.low), x2: x(interval.high), y1: 7, y2: 7}),
    svg("circle", {cx: x(share), cy: 7, r: 4}),
  );
}
