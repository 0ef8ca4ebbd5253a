"""Convert recorded episodes to trajectories that a policy can adapt to."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from metarl.core.params import Params, tree_map
from metarl.rl.losses import Policy
from metarl.rl.rollout import Trajectories


class Episode(NamedTuple):
    """One episode of T env steps."""

    observations: NDArray[np.floating]  # [T, *observation_shape], before every env step
    actions: NDArray[np.floating]  # [T, *action_shape], numbers of the actions if discrete
    rewards: NDArray[np.floating]  # [T]
    final_observation: NDArray[np.floating]  # [*observation_shape], after the last env step
    terminated: bool  # whether the environment ended it, and not a time limit


def as_trajectories(episodes: Sequence[Episode], policy: Policy, phi: Params) -> Trajectories:
    """Return N episodes as the trajectories of one task (M = 1), padded to the longest one.

    Actions count as drawn from the policy with parameters ``phi``.

    Raises:
        ValueError: there are none, or shapes or numbers are not those of episodes.
    """
    if not episodes:
        raise ValueError("there should be at least one episode")
    for number, episode in enumerate(episodes):
        _require_sound(number, episode, episodes[0])
    dtype = next(iter(phi.values())).dtype
    lengths = [len(episode.rewards) for episode in episodes]

    def stack(name: str) -> torch.Tensor:
        arrays = [np.asarray(getattr(episode, name)) for episode in episodes]
        block = np.zeros((1, len(arrays), max(lengths), *arrays[0].shape[1:]))
        for n, array in enumerate(arrays):
            block[0, n, : len(array)] = array
        return torch.from_numpy(block).to(dtype)

    steps = np.arange(max(lengths))
    mask = torch.from_numpy(steps < np.array(lengths)[:, None])[None].to(dtype)
    terminations = np.array([episode.terminated for episode in episodes])
    last = (steps == np.array(lengths)[:, None] - 1) & terminations[:, None]
    observations, actions = stack("observations"), stack("actions")
    with torch.no_grad():
        sampling = policy(phi, observations)
        log_probs = sampling.log_prob(actions) * mask
        sampling = tree_map(lambda x: x * mask.reshape(*mask.shape, *[1] * (x.dim() - 3)), sampling)
    final = np.stack([np.asarray(episode.final_observation) for episode in episodes])[None]
    return Trajectories(
        observations,
        actions,
        sampling,
        log_probs,
        stack("rewards"),
        mask * torch.from_numpy(~last)[None],
        mask,
        torch.from_numpy(final).to(dtype),
        torch.zeros(1, len(episodes), dtype=dtype),
        torch.full((1, len(episodes)), torch.nan, dtype=dtype),
    )


def _require_sound(number: int, episode: Episode, first: Episode) -> None:
    """Raise ValueError unless an episode fits itself and the first one."""
    steps = len(episode.rewards)
    for name in ("observations", "actions", "rewards"):
        array, like = np.asarray(getattr(episode, name)), np.asarray(getattr(first, name))
        if len(array) != steps or steps == 0 or array.shape[1:] != like.shape[1:]:
            shape = (steps, *like.shape[1:])
            raise ValueError(f"episode {number}: {name} should be {shape}, got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"episode {number}: {name} should be finite")
    if np.shape(episode.final_observation) != np.shape(episode.observations)[1:]:
        raise ValueError(
            f"episode {number}: final_observation should have shape "
            f"{np.shape(episode.observations)[1:]}, got {np.shape(episode.final_observation)}"
        )
