"""How far two trials differ over the same questions, by few values that may look surer than they are.

Quantization changes few answers: of 24 questions it often happens that none, or hardly any, comes out differently. Their own
spread then says that nothing is in doubt. So it is drawn towards what such values usually have, as heavily as `PRIOR_FREEDOM`
further values would (G. K. Smyth, "Linear models and empirical Bayes methods", Statistical Applications in Genetics and
Molecular Biology 3, 2004: the moderated t).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean

from gpuqa.measure.statistics import Estimate, clustered

PRIOR_FREEDOM = 4


def moderated_mean(values: Sequence[float], clusters: Sequence[str], usual_sd: float) -> Estimate:
    """The mean of values, with an error that rests on their own spread and on the usual one.

    Args:
        clusters: of each value its question. Values of one question tell little more than one: they count together, by the sum
            of their distances from the mean (W. G. Cochran, Sampling Techniques, 1977, section 9A.2).
        usual_sd: of such values between clusters, in their unit.
    """
    mean = fmean(values)
    sums, _ = clustered([value - mean for value in values], clusters)
    squares = sum((value * len(sums) / len(values)) ** 2 for value in sums)
    freedom = PRIOR_FREEDOM + len(sums) - 1
    return Estimate(mean, math.sqrt((PRIOR_FREEDOM * usual_sd**2 + squares) / freedom / len(sums)), freedom)


def clusters_needed(sd: float, margin: float, confidence: float, power: float = 0.8) -> int:
    """How many clusters it takes until the one-sided bound of a difference that is 0 stays within a margin in most samples.

    Args:
        sd: of the differences between clusters, in the unit of the margin.
        power: the share of samples in which it shall.
    """
    normal = NormalDist()
    return math.ceil(((normal.inv_cdf(confidence) + normal.inv_cdf(power)) * sd / margin) ** 2)
