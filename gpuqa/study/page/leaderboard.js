// Two tables: the finalists as they were measured again, and the first round of all cells. Columns and order are the reader's.
const board = {columns: null, intervals: false, sort: {}};

function drawLeaderboard() {
  const narrow = document.documentElement.clientWidth < 600,
    terminal = ["chars_per_s", "rouge_l_f1_judge", "rouge_l_f1"];
  board.columns ??= new Set(
    DATA.metrics.filter(({key, usual}) => (narrow ? terminal.includes(key) : usual)).map(({key}) => key),
  );
  const again = DATA.cells.filter((cell) => cell.stages.again),
    redraw = (change) => {
      change();
      drawLeaderboard();
    };
  const pick = el(
    "details",
    {
      class: "pick",
      open: board.open,
      ontoggle: (event) => {
        board.open = event.target.open;
      },
    },
    el("summary", {}, text("columns")),
    el(
      "div",
      {class: "boxes"},
      ...DATA.metrics.map(({key}) =>
        check(heading(key), board.columns.has(key), (on) =>
          redraw(() => (on ? board.columns.add(key) : board.columns.delete(key))),
        ),
      ),
    ),
  );
  const parts = [
    el(
      "div",
      {class: "controls"},
      check(text("show_intervals"), board.intervals, (on) =>
        redraw(() => {
          board.intervals = on;
        }),
      ),
      pick,
    ),
  ];
  if (again.length) {
    const rows = again.flatMap((cell) =>
      ["again", "confirmed"].filter((stage) => cell.stages[stage]).map((stage) => rowOf(cell, stage)),
    );
    parts.push(el("h3", {}, text("again")), el("p", {class: "note-text"}, text("again_note")), ...boardTable("again", rows));
  }
  const first = DATA.cells.map((cell) => rowOf(cell, "first"));
  parts.push(
    el("h3", {}, text(again.length ? "first_round" : "all_cells")),
    again.length ? el("p", {class: "note-text"}, text("first_round_note")) : "",
    ...boardTable("first", first),
  );
  if (DATA.cells.some((cell) => cell.status === "dropped")) parts.push(el("p", {class: "note-text"}, text("dropped_note")));
  if (DATA.cells.some((cell) => cell.kept)) parts.push(el("p", {class: "note-text"}, text("kept_note")));
  parts.push(
    el(
      "details",
      {class: "meanings"},
      el("summary", {}, text("legend")),
      el(
        "dl",
        {},
        ...DATA.metrics
          .filter(({key}) => board.columns.has(key))
          .flatMap(({key, unit}) => [el("dt", {}, heading(key)), el("dd", {}, meaning(key) + (unit ? ` (${unit})` : ""))]),
      ),
    ),
  );
  $("leaderboard").replaceChildren(...parts);
  hintAtColumns();
}

// Says above each table that is wider than the page that there is more beside it.
function hintAtColumns() {
  for (const box of document.querySelectorAll("#leaderboard .scroll"))
    box.previousElementSibling.hidden = box.scrollWidth <= box.clientWidth;
}

function rowOf(cell, stage) {
  const measured = cell.stages[stage],
    state = stage === "confirmed" ? "confirmed" : stage === "first" && cell.stages.again ? "again" : cell.status;
  return {
    cell,
    measured,
    state,
    dropped: cell.status === "dropped",
    sentences: state === "again" || state === "confirmed" ? [] : cell.sentences,
  };
}

function boardTable(group, rows) {
  const sort = board.sort[group],
    columns = DATA.metrics.filter(({key}) => board.columns.has(key)),
    kept = rows.some(({cell}) => cell.kept);
  const value = ({cell, measured}) => (sort.key === "cell" ? nameOf(cell) : measured?.numbers[sort.key]);
  const sorted = sort ? [...rows].sort((a, b) => compared(value(a), value(b), sort.down)) : rows;
  const head = (key, name, title) =>
    el(
      "th",
      {
        scope: "col",
        class: key === "cell" ? "cell" : "number",
        title,
        "aria-sort": sort?.key === key ? (sort.down ? "descending" : "ascending") : "none",
      },
      el(
        "button",
        {
          type: "button",
          onclick: () => {
            board.sort[group] = {key, down: sort?.key === key ? !sort.down : key !== "cell"};
            drawLeaderboard();
            document.querySelector(`[data-group="${group}"] [data-key="${key}"]`)?.focus();
          },
          "data-key": key,
          "aria-label": text("sort_by", {heading: name}),
        },
        name,
        el("span", {"aria-hidden": "true"}, sort?.key === key ? (sort.down ? " ▾" : " ▴") : ""),
      ),
    );
  const box = el(
    "div",
    {class: "scroll", tabindex: "0", role: "region", "aria-label": text(group === "again" ? "again" : "first_round")},
    el(
      "table",
      {class: "board", "data-group": group},
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          head("cell", text("cell")),
          el("th", {scope: "col"}, text("status")),
          ...columns.map(({key}) => head(key, heading(key), meaning(key))),
          kept && el("th", {scope: "col"}, text("kept")),
        ),
      ),
      el("tbody", {}, ...sorted.flatMap((row) => boardRow(row, columns, kept))),
    ),
  );
  return [el("p", {class: "more-columns", "aria-hidden": "true"}, text("more_columns")), box];
}

function compared(a, b, down) {
  if (a == null || b == null) return (a == null) - (b == null); // what has no number comes last either way
  const order = typeof a === "string" ? a.localeCompare(b) : a - b;
  return down ? -order : order;
}

function boardRow({cell, measured, state, dropped, sentences}, columns, kept) {
  const why = el(
    "tr",
    {class: "why", hidden: true},
    el("td", {colspan: columns.length + 2 + Number(kept)}, el("p", {lang: "en"}, sentences.join("; "))),
  );
  const word = text(`status_${state}`);
  const chip = sentences.length
    ? el(
        "button",
        {
          type: "button",
          class: `chip ${state}`,
          title: cell.short.join("; "),
          "aria-expanded": "false",
          "aria-label": `${word}: ${text("why", {status: word})}`,
          onclick: () => {
            why.hidden = !why.hidden;
            chip.setAttribute("aria-expanded", String(!why.hidden));
          },
        },
        word,
      )
    : el("span", {class: `chip ${state}`}, word);
  const number = ({key, form}) => {
    const interval = measured?.intervals[key],
      told = measured ? metricText(key, measured.numbers[key]) : "–";
    return el(
      "td",
      {class: "number"},
      dropped && measured ? `(${told})` : told,
      board.intervals && interval ? el("small", {}, bracketed(interval, form)) : null,
    );
  };
  const row = el(
    "tr",
    {class: state},
    el("th", {scope: "row", class: "cell", title: cell.name}, `${MARKS[state] ?? MARKS[cell.status]} ${nameOf(cell)}`),
    el("td", {}, chip),
    ...columns.map(number),
    kept && el("td", {}, cell.kept ?? ""),
  );
  return sentences.length ? [row, why] : [row];
}
