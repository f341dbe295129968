// Every question with its reference and the answers of any two cells, the words marked in which they differ.
const STEP = 20,
  MOST_WORDS = 4e6; // questions at a time; product of two answers' words above which nothing is compared
const reading = {a: null, b: null, filter: "all", search: "", score: null, count: STEP};
const FLAGS = {
  empty: (answer) => answer.text === "",
  truncated: (answer) => answer.end === "length",
  loops: (answer) => answer.loops,
  failed: (answer) => answer.error !== null,
};

function drawAnswers() {
  const {cells, questions, elsewhere} = DATA.answers,
    names = Object.keys(cells);
  if (!names.length) return $("answers").replaceChildren(el("p", {}, text("answers_none")));
  const scores = ["rouge_l_f1_judge", "rouge_l_f1"].filter((key) =>
    names.some((name) => cells[name][key].some((score) => score !== null)),
  );
  reading.a ??= names.includes(DATA.verdict.winner) ? DATA.verdict.winner : names[0];
  const apart = (name) => cells[name].text.some((place, question) => place !== cells[reading.a].text[question]);
  reading.b ??= names.find(apart) ?? names.find((name) => name !== reading.a) ?? reading.a;
  reading.score ??= scores[0] ?? null;
  const set = (key) => (value) => {
    Object.assign(reading, {[key]: value, count: STEP});
    showQuestions();
  };
  const filters = [
    "all",
    ...(names.length > 1 ? [...(scores.length ? ["won", "lost"] : []), "differ"] : []),
    ...Object.keys(FLAGS),
    ...(questions.some((row) => row.again) ? ["again"] : []),
  ];
  const options = names.map((name) => [name, `${MARKS[CELLS.get(name).status]} ${named(name)}`]);
  const search = el(
    "label",
    {class: "choice"},
    el("span", {}, text("search")),
    el("input", {
      type: "search",
      value: reading.search,
      placeholder: text("search_hint"),
      oninput: (event) => set("search")(event.target.value),
    }),
  );
  const hidden = Object.entries(elsewhere);
  $("answers").replaceChildren(
    el(
      "div",
      {class: "controls"},
      choice(text("cell_a"), options, reading.a, set("a")),
      names.length > 1 && choice(text("cell_b"), options, reading.b, set("b")),
      choice(
        text("filter"),
        filters.map((key) => [key, text(`filter_${key}`)]),
        reading.filter,
        set("filter"),
      ),
      scores.length > 1 &&
        choice(
          text("scores_by"),
          scores.map((key) => [key, heading(key)]),
          reading.score,
          set("score"),
        ),
      search,
    ),
    hidden.length
      ? el(
          "details",
          {class: "elsewhere"},
          el("summary", {}, text("elsewhere")),
          el("ul", {}, ...hidden.map(([name, file]) => el("li", {}, `${named(name)}: `, el("code", {}, file)))),
        )
      : "",
    el("p", {id: "shown-count", role: "status", class: "note-text"}),
    el("div", {id: "questions"}),
  );
  showQuestions();
}

function answerOf(name, place) {
  const columns = DATA.answers.cells[name];
  if (columns.text[place] === null) return null;
  return {
    ...Object.fromEntries(Object.entries(columns).map(([key, values]) => [key, values[place]])),
    text: DATA.answers.texts[columns.text[place]],
  };
}

function fits(question, a, b) {
  const {filter, search, score} = reading,
    wanted = search.trim().toLowerCase(),
    two = [a, b].filter(Boolean);
  if (
    wanted &&
    ![question.id, question.text, ...question.references, ...two.map((answer) => answer.text)].some((part) =>
      part.toLowerCase().includes(wanted),
    )
  )
    return false;
  if (filter === "again") return question.again;
  if (filter in FLAGS) return two.some(FLAGS[filter]);
  if (filter === "all") return true;
  if (!a || !b) return false;
  return {won: a[score] > b[score], lost: a[score] < b[score], differ: a.text !== b.text}[filter];
}

function showQuestions(count = reading.count) {
  const {questions} = DATA.answers;
  if (!$("questions")) return; // no answers are at hand
  const rows = questions
    .map((question, place) => [question, answerOf(reading.a, place), answerOf(reading.b, place)])
    .filter((row) => fits(...row));
  $("shown-count").textContent =
    `${text("shown_count", {shown: rows.length, all: questions.length})} ${reading.a === reading.b ? "" : text("marked")}`;
  const rest = rows.length - count;
  $("questions").replaceChildren(
    ...rows.slice(0, count).map((row) => questionBox(...row)),
    rest > 0
      ? el(
          "button",
          {
            type: "button",
            onclick: () => {
              reading.count += STEP;
              showQuestions();
            },
          },
          text("more", {count: Math.min(STEP, rest)}),
        )
      : "",
  );
}

function questionBox(question, a, b) {
  const [inA, inB] = a && b && reading.a !== reading.b ? marked(a.text, b.text) : [a && [a.text], b && [b.text]];
  return el(
    "article",
    {class: "question"},
    el(
      "h3",
      {},
      el("span", {class: "id"}, question.id),
      ` ${question.text}`,
      question.again && el("span", {class: "flag"}, text("flag_again")),
    ),
    el(
      "div",
      {class: "reference"},
      el("h4", {}, text("reference")),
      ...question.references.map((reference) => el("p", {}, reference || text("empty"))),
    ),
    el(
      "div",
      {class: "pair"},
      answerBox("A", reading.a, a, inA, b),
      reading.a !== reading.b && answerBox("B", reading.b, b, inB, a),
    ),
  );
}

function answerBox(letter, name, answer, parts, other) {
  const head = el("h4", {}, el("b", {}, letter), ` ${named(name)}`);
  if (!answer) return el("div", {class: "answer"}, head, el("p", {class: "dim"}, text("not_asked")));
  const ahead = other && answer[reading.score] > other[reading.score];
  const scores = ["rouge_l_f1_judge", "rouge_l_f1"]
    .filter((key) => answer[key] !== null)
    .map((key) =>
      el(
        "span",
        {class: `score${ahead && key === reading.score ? " better" : ""}`},
        `${heading(key)} ${shown(answer[key], ".4f")}`,
      ),
    );
  const flags = [
    answer.end === "length" && "flag_length",
    answer.error !== null && "flag_error",
    answer.loops && "flag_loops",
  ].filter(Boolean);
  return el(
    "div",
    {class: "answer"},
    head,
    el("p", {class: "scores"}, ...scores, ...flags.map((flag) => el("span", {class: "flag"}, text(flag)))),
    el("p", {class: "text"}, ...(answer.text ? parts : [el("i", {}, text("empty"))])),
    answer.error && el("p", {class: "error"}, answer.error),
    el(
      "p",
      {class: "dim"},
      text("lengths", {
        chars: [...answer.text].length.toLocaleString("en"),
        tokens: answer.tokens,
        ms: shown(answer.ms, ",.0f"),
      }),
    ),
  );
}

// Both texts in pieces, of which those that are not in the longest common run of words are <mark> elements.
function marked(first, second) {
  const words = (whole) => whole.match(/[A-Za-z0-9_]+|\s+|[^A-Za-z0-9_\s]/gu) ?? [],
    a = words(first),
    b = words(second);
  if (a.length * b.length > MOST_WORDS) return [[first], [second]];
  const width = b.length + 1,
    best = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1)
    for (let j = b.length - 1; j >= 0; j -= 1) {
      best[i * width + j] =
        a[i] === b[j] ? best[(i + 1) * width + j + 1] + 1 : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
    }
  const keptA = new Set(),
    keptB = new Set();
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) {
      keptA.add(i);
      keptB.add(j);
      i += 1;
      j += 1;
    } else if (best[(i + 1) * width + j] >= best[i * width + j + 1]) i += 1;
    else j += 1;
  }
  return [pieces(a, keptA), pieces(b, keptB)];
}

function pieces(words, kept) {
  const runs = [];
  words.forEach((word, place) => {
    const same = kept.has(place);
    if (runs.length && runs.at(-1).same === same) runs.at(-1).text += word;
    else runs.push({same, text: word});
  });
  return runs.map((run) => (run.same ? run.text : el("mark", {}, run.text)));
}
