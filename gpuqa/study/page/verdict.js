// The verdict: one sentence, what it rests on, what it leaves open, and how to serve the winner.
const NEAREST = 4; // rivals that are named at once

// By which number of a winner a rule is told.
const NUMBERS = {
  fastest: "number_speed",
  best_quality: "number_quality",
  weighted: "number_quality",
  knee: "number_quality",
  goodput: "number_goodput",
  cheapest: "number_energy",
};

function numberOf(rule, {numbers}) {
  return text(NUMBERS[rule] ?? "number_speed", {
    speed: shown(numbers.chars_per_s, ",.0f"),
    rouge: shown(numbers.rouge_l_f1, ".4f"),
    goodput: shown(numbers.goodput_questions_per_s, ",.4g"),
    joules: shown(numbers.joules_per_output_token, ",.4g"),
  });
}

function drawVerdict() {
  const verdict = DATA.verdict,
    outcome = verdict.outcome ?? "none",
    winner = CELLS.get(verdict.winner);
  const title = text(`rule_${verdict.rule}`);
  const number = winner ? numberOf(verdict.rule, decisive(winner)) : "";
  const sentence = text(`said_${outcome}`, {winner: winner && nameOf(winner), title, number});
  const solid = ["WIN", "TIE", "ONLY_ELIGIBLE"].includes(outcome);
  $("verdict").className = `verdict${solid ? "" : " open"}`;
  const first = verdict.first !== verdict.winner && verdict.first ? text("other_first", {first: named(verdict.first)}) : "";
  $("verdict").replaceChildren(
    el("p", {class: "outcome"}, text(`outcome_${outcome}`)),
    el("p", {class: "sentence"}, `${sentence} ${first}`.trim()),
    el("dl", {class: "facts"}, ...(winner ? winnerFacts(verdict, winner) : []), ...factIfAny("not_told", notTold(verdict, winner))),
    ...(DATA.setup.commands.serve && winner
      ? [el("p", {class: "serve"}, text("serve")), commandLine(DATA.setup.commands.serve)]
      : []),
    el("details", {open: !winner}, el("summary", {}, text("full_text")), el("p", {lang: "en", class: "reason"}, verdict.reason)),
  );
}

function fact(key, items) {
  return [
    el("dt", {}, text(key)),
    el("dd", {}, items.length > 1 ? el("ul", {}, ...items.map((item) => el("li", {}, item))) : items),
  ];
}

function factIfAny(key, items) {
  return items.length ? fact(key, items) : [];
}

function winnerFacts(verdict, winner) {
  const {numbers, intervals} = decisive(winner),
    [low, high] = verdict.next ?? [];
  const quality = text("quality_is", {
    judge: shown(numbers.rouge_l_f1_judge, ".4f"),
    judge_interval: bracketed(intervals.rouge_l_f1_judge, ".4f"),
    floor: verdict.floor ?? "–",
    rouge: shown(numbers.rouge_l_f1, ".4f"),
    rouge_interval: bracketed(intervals.rouge_l_f1, ".4f"),
  });
  const leads = [...verdict.leads].sort((a, b) => a.share - b.share),
    beaten = leads.filter((lead) => lead.shown),
    rest = leads.filter((lead) => !lead.shown);
  return [
    verdict.confirmed ? fact("frozen_speed", [text("frozen_is", {speed: shown(verdict.frozen, ",.0f")})]) : [],
    fact("next", [verdict.next ? text("next_is", {low: shown(low, ",.0f"), high: shown(high, ",.0f")}) : text(`next_${verdict.next_open}`)]),
    fact("quality", [quality]),
    fact("beats", beaten.length ? nearestOf(beaten) : [text("beats_nothing")].filter(() => !rest.length)),
    rest.length ? fact("not_beaten", nearestOf(rest)) : [],
  ]
    .filter((pair) => pair.length && pair[1].childNodes.length > 0)
    .flat();
}

// The nearest rivals; the rest is folded away.
function nearestOf(leads) {
  const texts = leads.map(leadText),
    rest = texts.slice(NEAREST);
  return rest.length
    ? [
        ...texts.slice(0, NEAREST),
        el(
          "details",
          {},
          el("summary", {}, text("beats_more", {count: rest.length})),
          el("ul", {}, ...rest.map((line) => el("li", {}, line))),
        ),
      ]
    : texts;
}

function leadText(lead) {
  const other = named(lead.other),
    share = signed(lead.share).replace("+", "");
  if (lead.noisy) return text(lead.shown ? "noisy_lead_row" : "noisy_row", {other, p: pText(lead.p)});
  if (!lead.interval) return text("untested_row", {other, share});
  const [low, high] = lead.interval.map((end) => signed(end));
  return text("beats_row", {other, share, low, high, p: pText(lead.p), confidence: shown(DATA.verdict.confidence, ".0%")});
}

function notTold(verdict, winner) {
  const {counts} = verdict,
    floor = verdict.floor,
    judge = winner && decisive(winner).intervals.rouge_l_f1_judge;
  const items = [
    verdict.left_out && text("told_left_out", {count: verdict.left_out}),
    winner &&
      verdict.few_questions &&
      text("told_few_questions", {questions: verdict.questions, needed: verdict.fewest_questions}),
    winner && verdict.started_once && text("told_once"),
    DATA.drift &&
      DATA.drift.p_value <= 0.05 &&
      text("told_drift", {change: signed(DATA.drift.change), p: pText(DATA.drift.p_value)}),
    judge && judge[0] < floor && floor <= judge[1] && text("told_floor", {floor}),
    winner && winner.kept === "not shown" && text("told_quality"),
    counts.failed && text("told_failed", {count: counts.failed}),
    counts.dropped && text("told_dropped", {count: counts.dropped}),
  ].filter(Boolean);
  return items.length || !winner ? items : [text("told_all")];
}

function commandLine(command) {
  const button = el(
    "button",
    {
      type: "button",
      class: "copy",
      onclick: async () => {
        await navigator.clipboard?.writeText(command).catch(() => {});
        button.textContent = text("copied");
      },
    },
    text("copy"),
  );
  return el("div", {class: "command"}, el("code", {tabindex: "0"}, command), button);
}
