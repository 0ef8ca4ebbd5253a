"""Moving averages that are not biased towards where they started."""

from torch import Tensor, lerp


def moving_mean(mean: Tensor, value: Tensor, decay: float, count: Tensor) -> Tensor:
    """Return the weighted mean [P] of ``count`` values, of which ``value`` [P] is the last one.

    Every value weighs ``decay`` times what the next one does (Kingma and Ba 2015, section 3).

    Args:
        mean: of the values before; of the first one it counts nothing.
        count: [], float64.
    """
    weight = (1 - decay) / (1 - decay**count)
    return lerp(mean, value, weight.to(value))
