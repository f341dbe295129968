// How it was measured: prompts, overrides, configuration, machine, versions, digests, commands.
function drawSetup() {
  const {setup} = DATA,
    differing = rowsOf(setup.configuration, (values) => values.length > 1),
    same = rowsOf(setup.configuration, (values) => values.length === 1);
  const block = (key, ...parts) => [el("h3", {}, text(key)), ...parts];
  $("setup").replaceChildren(
    ...block(
      "commands",
      ...Object.entries(setup.commands).flatMap(([name, command]) => [
        el("p", {class: "what"}, text(`command_${name}`)),
        commandLine(command),
      ]),
    ),
    ...(setup.questions.length
      ? block("questions", el("ul", {class: "questions", lang: "en"}, ...setup.questions.map((line) => el("li", {}, line))))
      : []),
    ...block("prompts", ...setup.prompts.map(promptBox)),
    ...block("overrides", ...overrides()),
    ...block(
      "machine",
      valueTable([
        ...rowsOf(setup.machine),
        ...rowsOf(setup.versions),
        ...(setup.commit ? [["git commit", [setup.commit]]] : []),
      ]),
    ),
    ...block(
      "configuration",
      differing.length ? el("h4", {}, text("differs")) : "",
      valueTable(differing),
      el("details", {}, el("summary", {}, text("same")), valueTable(same)),
    ),
    ...block("digests", valueTable(rowsOf(setup.digests))),
  );
}

function rowsOf(values, wanted = () => true) {
  return Object.entries(values).filter(([, of]) => wanted(of));
}

function valueTable(rows) {
  const shownValue = (value) => (value === null ? "–" : typeof value === "string" ? value : JSON.stringify(value));
  return rows.length
    ? el(
        "div",
        {class: "scroll"},
        el(
          "table",
          {class: "values"},
          el(
            "tbody",
            {},
            ...rows.map(([key, values]) =>
              el("tr", {}, el("th", {scope: "row"}, key), el("td", {}, values.map(shownValue).join("  |  "))),
            ),
          ),
        ),
      )
    : "";
}

function promptBox(prompt) {
  const facts = [
    prompt.tokens !== null && text("prompt_tokens", {tokens: prompt.tokens.toLocaleString("en")}),
    prompt.mean_tokens && text("prompt_mean", {tokens: prompt.mean_tokens.toFixed(1)}),
  ].filter(Boolean);
  const configured = Object.entries(prompt.configured)
    .map(([key, value]) => `${key}: ${typeof value === "string" ? value : JSON.stringify(value, null, 1)}`)
    .join("\n");
  return el(
    "details",
    {class: "prompt"},
    el("summary", {}, el("b", {}, prompt.name), ` ${facts.join(language === "zh" ? "；" : "; ")}`),
    prompt.digest ? el("p", {class: "dim"}, "sha256 ", el("code", {}, prompt.digest)) : "",
    prompt.text === null ? el("p", {class: "note-text"}, text("prompt_configured")) : "",
    el("pre", {tabindex: "0"}, prompt.text ?? configured),
  );
}

function overrides() {
  const counts = new Map(),
    all = DATA.cells.length;
  for (const {overrides: ran} of DATA.cells)
    for (const one of ran) {
      const key = JSON.stringify(one);
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
  const rows = [...counts].map(([key, count]) => {
    const {part, asked, ran, reason, version} = JSON.parse(key),
      why = [ran !== asked && text("override_asked", {asked}), reason].filter(Boolean).join(": ");
    return el(
      "li",
      {class: why ? "off" : ""},
      text("override_row", {part, ran, count, all}),
      version && el("code", {}, ` ${version}`),
      why && el("span", {lang: "en"}, `: ${why}`),
    );
  });
  return rows.length ? [el("p", {class: "note-text"}, text("overrides_note")), el("ul", {}, ...rows)] : ["–"];
}
