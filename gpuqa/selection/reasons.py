"""A verdict in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from gpuqa.config.measurement import SelectionConfig
from gpuqa.measure.metric_table import shown
from gpuqa.measure.speed_tests import LOOKS, Unit
from gpuqa.records import SETTINGS, Measurement, Trial
from gpuqa.selection.comparison import WIDEST_RATIO, Comparison, is_finalist, lead_texts, looks_at, narrow
from gpuqa.selection.constraints import quantization_of, score_text, without_baseline
from gpuqa.selection.ranking import RANKINGS
from gpuqa.selection.ratios import FEWEST_QUESTIONS
from gpuqa.selection.reach import reach_of
from gpuqa.selection.verdict import Outcome, Standing, Verdict, not_shown, started_once, tied_of
from gpuqa.selection.wording import counted, listed


def reason_of(verdict: Verdict, rule: SelectionConfig) -> str:
    """A verdict in sentences: who won among how many and who failed, by how much, and what is uncertain about it."""
    winner, comparisons = verdict.winner, verdict.comparisons
    if winner is None or verdict.outcome is None:
        return reason_without_winner(verdict.standings)
    sentences = [f"{verdict.outcome.value}: {winner.name} is {place_of(verdict, rule)}: {numbers_of(winner, rule)}"]
    if verdict.first is not None and verdict.first is not winner:
        against = next(comparison for comparison in comparisons if comparison.other is winner)
        lead = lead_of(verdict.first, against, rule)
        sentences.append(f"The first, {verdict.first.name}, {lead}: too little to prefer it.")
    elif comparisons:
        sentences.append(f"It {lead_of(verdict.first or winner, nearest_of(comparisons), rule)}.")
    if winner.measurement and (first_round := winner.measurement.first_round_chars_per_s) is not None:
        again = "The finalists were measured again, and that decides"
        sentences.append(f"{again}; in the first round it had {first_round:,.0f} chars/s.")
    if verdict.outcome is Outcome.INCONCLUSIVE:
        sentences.append(f"Not conclusive: {why_inconclusive(verdict, rule)}.")
        sentences += filter(None, [reach_of(verdict.first or winner, nearest_of(comparisons))] if comparisons else [])
    elif verdict.questions < FEWEST_QUESTIONS:
        sentences.append(f"This is no verdict on quality: {few_questions(verdict)}.")
    return " ".join([*sentences, *warnings(verdict, rule)])


def place_of(verdict: Verdict, rule: SelectionConfig) -> str:
    """What the winner is among the trials of a study, with the names of those that failed and the number of the dropped."""
    trials, best = [standing.trial for standing in verdict.standings], RANKINGS[rule.rule].title
    failed = [trial.name for trial in trials if trial.error is not None]
    lost = f"; {len(failed)} failed: {listed(failed)}" if failed else ""
    dropped = sum(trial.dropped is not None for trial in trials)
    lost += f"; {dropped} dropped by the race" if dropped else ""
    if verdict.outcome is Outcome.ONLY_ELIGIBLE:
        return f"the only eligible trial (of {len(trials)}{lost})"
    eligible = sum(not standing.violations for standing in verdict.standings)
    among = f"{counted(eligible, 'eligible trial')} (of {len(trials)}{lost})"
    if is_finalist(trials[0]):
        among = f"{counted(1 + len(verdict.comparisons), 'finalist')} of {among}"
    if verdict.outcome is Outcome.TIE:
        return f"the simplest of {len(tied_of(verdict.comparisons, rule)) + 1} that share the first place ({best}) of {among}"
    return f"the {best} of {among}"


def why_inconclusive(verdict: Verdict, rule: SelectionConfig) -> str:
    """Why a verdict is neither a win nor a tie, and how many trials that leaves open."""
    if not verdict.comparisons and not verdict.left_out:
        return "no other trial was measured again, so there is nothing to compare it with"
    tied = not_shown(verdict.comparisons, rule)
    reasons = [few_questions(verdict)] if verdict.questions < FEWEST_QUESTIONS else []
    if (untested := RANKINGS[rule.rule].untested) is not None:
        reasons.append(untested)
    elif any(comparison.interval is None for comparison in tied):
        reasons.append("without two repeats of every trial (workload.repeats) and the same questions there is no test")
    elif started_once(verdict.comparisons):
        starts = f"{LOOKS[Unit.starts][0]} starts of each engine are needed between engines"
        reasons.append(f"{starts}, since no two starts are alike; study.finalists=2 or more measures them")
    if verdict.left_out:
        others = f"{counted(verdict.left_out, 'other trial')} may be as good by the first round"
        reasons.append(f"{others} and {'was' if verdict.left_out == 1 else 'were'} not measured again (study.finalists)")
    return "; ".join([*reasons, *([f"{counted(len(tied), 'other trial')} may be as good or better"] if tied else [])])


def nearest_of(comparisons: Sequence[Comparison]) -> Comparison:
    """The comparison with the trial that is nearest to the first."""
    return min(comparisons, key=lambda comparison: comparison.difference)


def few_questions(verdict: Verdict) -> str:
    """That too few questions were asked, in words."""
    only, share = counted(verdict.questions, "question"), 1 / max(verdict.questions, 1)
    return f"only {only} {'was' if verdict.questions == 1 else 'were'} asked, and one answer is {share:.0%} of a score; " + (
        f"a verdict needs {FEWEST_QUESTIONS}"
    )


def numbers_of(winner: Trial, rule: SelectionConfig) -> str:
    """What the winner reached."""
    measurement = winner.measurement
    assert measurement is not None, "a trial without numbers is not eligible"
    number = RANKINGS[rule.rule].number
    ranked_by = f"{number} {shown(number, getattr(measurement, number))}, " if number else ""
    return (
        f"{ranked_by}{measurement.chars_per_s:,.0f} chars/s (MAD {measurement.chars_per_s_mad:,.0f} over "
        f"{counted(measurement.repeats, 'repeat')}) at rouge_l_f1_judge {score_text(measurement.rouge_l_f1_judge)} "
        f"(floor {rule.min_rouge_l_f1_judge:g}), rouge_l_f1 {score_text(measurement.rouge_l_f1)}."
    )


def lead_of(first: Trial, comparison: Comparison, rule: SelectionConfig) -> str:
    """How the first stands to another trial, as a predicate: with the interval, the p-value and what they count."""
    name, interval = comparison.other.name, comparison.interval
    if interval is None:
        return f"leads {name} by {comparison.difference:.1%} (no test)"
    if not narrow(interval, WIDEST_RATIO):
        return f"is not told from {name}: too noisy, the highest ratio that fits is more than twice the lowest"
    share, ends, p_value = lead_texts(comparison.difference, interval, comparison.p_value)
    lead, looks = comparison.speed, 1
    if lead is not None:
        looks = looks_at(first, comparison.other, lead)
    corrected = f", corrected for {looks} looks" if looks > 1 else ""
    over = f" over {counted_unit(lead.unit, lead.count)}" if lead is not None else ""
    tested = f"{rule.confidence:.0%} interval {ends}{over}; by chance alone p {p_value}{corrected}"
    if comparison.difference <= 0:
        return f"is level with {name} ({tested})"
    return f"leads {name} by {share.removeprefix('+')} ({tested})"


def counted_unit(unit: Unit, count: int) -> str:
    """What a test of speeds counts, in words."""
    if unit is Unit.starts:
        return f"{counted(count, 'start')} of each engine"
    return f"{counted(count, unit.value)} on one engine"


def warnings(verdict: Verdict, rule: SelectionConfig) -> list[str]:
    """What the verdict could not check, and what disturbed the measurements, a sentence each."""
    trials, sentences = [standing.trial for standing in verdict.standings], devices_text(verdict)
    for standing in verdict.standings:
        if standing.trial is verdict.winner and standing.beside_baseline and standing.not_shown:
            sentences.append(f"The winner's {standing.beside_baseline.text}.")
    unchecked = without_baseline(trials, rule)
    if unchecked and not rule.min_rouge_l_f1_ratio == rule.min_answer_chars_ratio == 0:
        names, were = ", ".join(dict.fromkeys(map(quantization_of, unchecked))), "was" if len(unchecked) == 1 else "were"
        sentences.append(
            f"{counted(len(unchecked), 'quantized trial')} ({names}) {were} not checked for lost quality and length, because "
            f"no trial with quantization={rule.baseline_quantization} that is otherwise the same was measured."
        )
    if drift := drift_text(verdict, rule):
        sentences.append(
            f"{drift}: cells of one engine took turns and are fair to each other, cells of different engines are not."
        )
    measurements = [trial.measurement for trial in trials if trial.measurement]
    throttled = list(filter(None, map(held_back, measurements)))
    if throttled:
        slowest = min(measurement.sm_clock_mhz_min or 0 for measurement in measurements)
        names = ", ".join(sorted(set.union(*throttled)))
        held = f"The GPU was held back in {counted(len(throttled), 'trial')}"
        sentences.append(f"{held} ({names}; SM clock down to {slowest} MHz).")
    return sentences


def devices_text(verdict: Verdict) -> list[str]:
    """On which devices the winner was measured, a sentence; none where there is one."""
    measurement = verdict.winner.measurement if verdict.winner else None
    devices = list(dict.fromkeys(measurement.devices)) if measurement else []
    if len(devices) < 2:
        return []
    named = "; ".join(", ".join(filter(None, [one.model, one.place])) + f" of {one.host}" for one in devices)
    unlike = ", which are not alike" if len({one.model for one in devices}) > 1 else ""
    return [f"Measured on {len(devices)} devices ({named}){unlike}; speeds were compared on each of them only."]


def drift_text(verdict: Verdict, rule: SelectionConfig) -> str:
    """By how much speeds drifted over a study; "" where no drift is shown."""
    drift = verdict.drift
    if drift is None or drift.p_value > 1 - rule.confidence:
        return ""
    return f"Speeds drifted by {drift.change:+.1%} from a cell's first repeat to its last (p {drift.p_value:.3g})"


def held_back(measurement: Measurement) -> set[str]:
    """Why the GPU of a trial was slower than its clock allows, beside its settings."""
    return set(measurement.throttle_reasons or ()) - SETTINGS


def reason_without_winner(standings: Sequence[Standing]) -> str:
    """Names the trial that came nearest: the one with the fewest violations, among equals with the best judge's score."""
    measured = [(standing, standing.trial.measurement) for standing in standings if standing.trial.measurement]
    if not measured:
        return "no trial was measured, so there is no winner"
    nearest, _ = min(measured, key=lambda row: (len(row[0].violations), -(row[1].rouge_l_f1_judge or 0.0)))
    return f"no trial is eligible; the nearest is {nearest.trial.name}: {'; '.join(nearest.violations)}"
