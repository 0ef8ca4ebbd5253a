"""The linear feature baseline (Duan et al. 2016), one fit per task."""

import torch
from torch import Tensor


def features(observations: Tensor, steps: Tensor) -> Tensor:
    """(s, s^2, t/100, (t/100)^2, (t/100)^3, 1) with s clipped to +-10.

    Args:
        observations: [..., O].
        steps: t of each, broadcasts to [...].

    Returns:
        [..., 2 O + 4] in float64.
    """
    s = observations.double().clamp(-10, 10)
    t = (steps.double() / 100).expand(s.shape[:-1])[..., None]
    return torch.cat([s, s.square(), t, t**2, t**3, torch.ones_like(t)], dim=-1)


def fit(x: Tensor, targets: Tensor, mask: Tensor, ridge: float = 1e-5) -> Tensor:
    """Ridge least squares w = (X'X + ridge I)^-1 X'y over the env steps where ``mask`` is 1.

    float64 throughout: in float32 the normal equations are singular.

    Args:
        x: features [N, T, F], float64.
        targets: [N, T].
        mask: [N, T].

    Returns:
        Coefficients [F], float64.
    """
    rows = (x * mask[..., None]).reshape(-1, x.shape[-1])
    gram = rows.T @ rows + ridge * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return torch.linalg.solve(gram, rows.T @ (targets * mask).double().reshape(-1))
