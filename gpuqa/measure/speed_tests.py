"""By how much the speed of one cell leads that of another, with an error that holds for noise that has a memory.

Speeds are compared as logarithms, because noise on speed is relative. What counts as one observation depends on the engines:

    one engine      the passes of both cells took turns on it, so a round (one pass of each) is one observation: a slow minute
                    slows both. Below four rounds a test of rounds has no power, and the passes are compared as they are.
                    From ten rounds on the ranks of the rounds decide, which a few torn rounds do not disturb.
    two engines     engines of one configuration differ from start to start, and that error does not shrink with more passes.
                    So a start is one observation: the mean of its passes. On several devices (`gpuqa.measure.devices`) the
                    cells are compared on each of them, and these leads are put together.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from statistics import fmean

import numpy as np

from gpuqa.measure.devices import DEVICE_SD, ONE_DEVICE, Devices, by_device, squares_of, start_squares
from gpuqa.measure.statistics import Estimate, welch
from gpuqa.records import Interval, Measurement

Starts = Mapping[str, Sequence[float]]  # log speeds of the passes of one cell, by the id of the start of their engine
ROUNDS_TO_PAIR, ROUNDS_TO_RANK = 4, 10
NEIGHBOURS = 6, 12  # so many passes in a row tell as much as one: twice those of a start, within these bounds
STARTS_TO_TELL = 8  # so many degrees of freedom between starts halve what is assumed of neighbours, since they show it


class Unit(Enum):
    """What a test of speeds counts as one observation."""

    passes = "repeat"
    rounds = "round"
    starts = "engine start"


LOOKS = {Unit.rounds: (4, 7, 12, 20, 32), Unit.starts: (3, 6, 10, 18)}  # when finalists are judged, and may be measured on


@dataclass(frozen=True, slots=True)
class StartNoise:
    """How much the log speed of one cell usually varies between starts of its engine, and how many starts know that.

    A variance is drawn towards it as in the moderated t of G. K. Smyth (Statistical Applications in Genetics and Molecular
    Biology 3, 2004). Starts on an H200 had standard deviations of 0.009 to 0.018 (experiments/h200/start_spread.txt).
    """

    sd: float = 0.02
    freedom: float = 4.0


@dataclass(frozen=True, slots=True)
class SpeedNoise:
    """How much the log speed of one cell varies from start to start and from pass to pass.

    Few starts know their variance badly, so it is drawn towards that of usual starts and of passes of which `NEIGHBOURS` tell
    as much as one, since what slows a machine lasts longer than a pass. Starts that are there show that themselves, so that
    the more there are, the less of it is assumed.
    """

    usual_sd: float
    usual_freedom: float
    start_squares: float  # of the means of `passes` passes, about the mean of their cell
    start_freedom: int  # of these: the starts that there are, less one for each cell
    pass_variance: float  # between the passes of one start
    pass_freedom: float
    passes: float  # of one start

    @property
    def passes_add(self) -> float:
        """What the passes of a start usually add to the variance of its mean."""
        fewest, most = NEIGHBOURS
        alike = min(most, max(fewest, 2 * self.passes))
        neighbours = 1 + (alike - 1) / (1 + self.start_freedom / STARTS_TO_TELL)
        return neighbours * self.pass_variance / self.passes

    @property
    def weight(self) -> float:
        """Of what is usual, in starts: as many as know it, at most those that know usual starts."""
        doubt = self.usual_sd**4 / self.usual_freedom + self.passes_add**2 / self.pass_freedom
        return min(self.usual_freedom, (self.usual_sd**2 + self.passes_add) ** 2 / doubt)

    @property
    def freedom(self) -> float:
        """How many observations know the variance of a start."""
        return self.weight + self.start_freedom

    def variance(self, passes: float) -> float:
        """Of the mean of so many passes on one start; more passes than were seen make it no smaller."""
        usual = self.weight * (self.usual_sd**2 + self.passes_add)
        one_start = (usual + self.start_squares) / self.freedom
        return one_start + self.pass_variance * max(0.0, 1 / passes - 1 / self.passes)

    def with_passes(self, logs: Sequence[float]) -> SpeedNoise:
        """The same, known better by more passes of another start, whose own mean is left out."""
        freedom = self.pass_freedom + len(logs) - 1
        variance = (self.pass_freedom * self.pass_variance + squares_of(logs)) / freedom
        return replace(self, pass_variance=variance, pass_freedom=freedom)


@dataclass(frozen=True, slots=True)
class SignedRank:
    """Wilcoxon's signed-rank test of the differences of rounds (F. Wilcoxon, Biometrics Bulletin 1, 1945).

    Its estimate is the median of the means of all pairs of rounds, and its interval lies between two of these means (J. L.
    Hodges and E. L. Lehmann, The Annals of Mathematical Statistics 34, 1963), so number, interval and test agree.
    """

    differences: tuple[float, ...]

    @property
    def by_means(self) -> Estimate:
        """The same lead by the mean of the rounds: an estimate that can be added to others."""
        return lead_by_rounds(self.differences)

    @property
    def means(self) -> list[float]:
        """The means of all pairs of rounds, a round with itself too, in ascending order."""
        values = np.asarray(self.differences)
        first, second = np.triu_indices(len(values))
        return sorted(((values[first] + values[second]) / 2).tolist())

    @property
    def difference(self) -> float:
        """The lead in log speed."""
        return float(np.median(self.means))

    @property
    def p_value(self) -> float:
        """Two-sided, against no lead; exact but where rounds are equal."""
        means = self.means
        above = sum(mean > 0 for mean in means) + sum(mean == 0 for mean in means) / 2
        farther = max(above, len(means) - above)
        return min(1.0, 2 * signed_rank_tail(len(self.differences))[math.ceil(farther)])

    def interval(self, confidence: float = 0.95) -> Interval:
        """Two-sided; the whole range where so few rounds support no such confidence."""
        means, tail = self.means, signed_rank_tail(len(self.differences))
        cut = next((rank for rank in range(len(tail)) if 2 * tail[rank] <= 1 - confidence), len(means))
        return Interval(means[max(0, len(means) - cut)], means[min(len(means) - 1, cut - 1)])


@dataclass(frozen=True, slots=True)
class SpeedLead:
    """How far one cell leads another in log speed."""

    test: Estimate | SignedRank
    unit: Unit
    count: int  # of observations; of the cell that has fewer where the cells have them apart


@functools.cache
def signed_rank_tail(count: int) -> list[float]:
    """The probability that the signed ranks of so many rounds sum to each value or more, where no cell leads."""
    chances = np.zeros(count * (count + 1) // 2 + 1)
    chances[0] = 1.0
    for rank in range(1, count + 1):
        shifted = np.zeros_like(chances)
        shifted[rank:] = chances[:-rank]
        chances = (chances + shifted) / 2
    return np.cumsum(chances[::-1])[::-1].tolist()  # type: ignore[no-any-return]


def starts_of(measurement: Measurement, owner: str, repeats: Sequence[float] | None = None) -> Starts | None:
    """The log speeds of a trial by the starts of its engine; None where a pass gave no characters.

    Args:
        owner: stands for the start of a trial that does not say which engine answered: one that no other trial shares.
        repeats: of each pass another figure that is relative like a speed, instead of its chars/s.
    """
    speeds = measurement.chars_per_s_repeats if repeats is None else repeats
    if not speeds or min(speeds) <= 0:
        return None
    starts: dict[str, list[float]] = {}
    engines = measurement.engine_ids if len(measurement.engine_ids) == len(speeds) else [owner] * len(speeds)
    for engine, speed in zip(engines, speeds, strict=True):
        starts.setdefault(engine, []).append(math.log(speed))
    return starts


def speed_lead(
    first: Starts, other: Starts, usual: StartNoise, known: Sequence[Starts] = (), devices: Devices = ONE_DEVICE
) -> SpeedLead | None:
    """How far the first leads the other; None where there are too few passes for any test, or only unlike devices.

    Args:
        known: more starts of both cells, which show how much starts vary; none: those that are compared.
    """
    rounds = rounds_of(first, other)
    if not rounds:
        noise = speed_noise(known or [first, other], usual, devices=devices)
        lead = None if noise is None else lead_by_starts(first, other, noise, devices)
        return None if lead is None else SpeedLead(lead, Unit.starts, min(len(first), len(other)))
    if len(rounds) >= ROUNDS_TO_RANK:
        return SpeedLead(SignedRank(tuple(rounds)), Unit.rounds, len(rounds))
    if len(rounds) >= ROUNDS_TO_PAIR:
        return SpeedLead(lead_by_rounds(rounds), Unit.rounds, len(rounds))
    passes = [[math.exp(log) for logs in starts.values() for log in logs] for starts in (first, other)]
    estimate = welch(*passes)
    return None if estimate is None else SpeedLead(estimate, Unit.passes, min(map(len, passes)))


def rounds_of(first: Starts, other: Starts) -> list[float]:
    """The difference of both cells' log speeds in every round on the engines that they share."""
    pairs = [zip(first[engine], other[engine], strict=False) for engine in first if engine in other]
    return [one - two for pair in pairs for one, two in pair]


def lead_by_rounds(differences: Sequence[float]) -> Estimate:
    """The mean difference of rounds."""
    count = len(differences)
    return Estimate(float(np.mean(differences)), float(np.std(differences, ddof=1)) / math.sqrt(count), count - 1)


def lead_by_starts(first: Starts, other: Starts, noise: SpeedNoise, devices: Devices = ONE_DEVICE) -> Estimate | None:
    """The difference of the means over starts, with an error that holds for cells that share no start of an engine.

    It is formed on each device that both ran on, and the devices count by what they tell. Without a common one, cards of one
    model are taken to differ by `DEVICE_SD`; None where the models differ.
    """
    parts = [by_device(cell, devices) for cell in (first, other)]
    pairs: list[tuple[Starts, Starts]] = [(parts[0][device], parts[1][device]) for device in parts[0] if device in parts[1]]
    between = 0.0
    if not pairs:
        if len({device.model for part in parts for device in part}) > 1:
            return None
        pairs, between = [(first, other)], DEVICE_SD**2 * sum(1 / len(part) for part in parts)
    variances = [
        sum(noise.variance(len(logs)) / len(cell) ** 2 for cell in pair for logs in cell.values()) + between for pair in pairs
    ]
    shares = [1 / variance / sum(1 / each for each in variances) for variance in variances]
    leads = [fmean(map(fmean, one.values())) - fmean(map(fmean, two.values())) for one, two in pairs]
    error = math.sqrt(sum(share**2 * variance for share, variance in zip(shares, variances, strict=True)))
    return Estimate(sum(share * lead for share, lead in zip(shares, leads, strict=True)), error, noise.freedom)


def speed_noise(
    cells: Sequence[Starts], usual: StartNoise, passes: int | None = None, devices: Devices = ONE_DEVICE
) -> SpeedNoise | None:
    """What the starts of cells show of their noise; None where no start has two passes.

    Args:
        passes: only so many, the first, make the mean of a start; all of them where it is None.
    """
    starts = [logs for cell in cells for logs in cell.values()]
    pass_freedom = sum(len(logs) - 1 for logs in starts)
    if pass_freedom == 0:
        return None
    pass_variance = sum(map(squares_of, starts)) / pass_freedom
    heads = [{start: logs[:passes] for start, logs in cell.items()} for cell in cells if cell]
    share = fmean(1 / len(logs) for cell in heads for logs in cell.values())
    squares, freedom = start_squares(heads, devices)
    return SpeedNoise(usual.sd, usual.freedom, squares, freedom, pass_variance, pass_freedom, 1 / share)
