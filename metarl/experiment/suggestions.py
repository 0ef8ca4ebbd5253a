"""Suggest existing names for one that does not exist."""

import difflib
from collections.abc import Iterable

SYNONYMS = {
    "rate": "lr learning_rate inner_lr fast_lr step_size alpha update_lr",
    "learning_rate": "lr outer_lr meta_lr beta",
    "max_kl": "kl delta step_size max_kl_step",
    "seed": "random_seed rng_seed rng s",
    "tasks": "batch_size meta_batch_size num_tasks n_tasks task_batch",
    "trajectories": "k rollouts fast_batch_size num_trajectories episodes rollouts_per_task",
    "iterations": "n_itr epochs num_iterations n_iterations steps meta_iterations max_iterations",
    "steps": "inner_steps num_updates num_grad_updates adaptation_steps num_inner_steps",
    "family": "env environment env_name env_id",
    "horizon": "max_path_length episode_length max_episode_steps",
    "discount": "gamma",
    "gae_lambda": "lambda gae lam",
    "device": "gpu cuda use_cuda",
    "folder": "output_dir log_dir logdir output out save_dir",
    "threads": "workers num_workers n_jobs num_threads cpus",
    "hidden_sizes": "hidden hidden_size layers hidden_dim",
    "activation": "nonlinearity",
    "ways": "n_way num_classes way",
    "algorithm": "algo method",
    "shots": "k_shot shot num_shots",
}
"""Other names that people try, for did-you-mean."""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return `` (did you mean ...?)`` with the known names that are nearest, or nothing.

    Args:
        word: an unknown name, or the dotted path of an unknown setting.
        names: names or paths that exist.
    """
    names = list(names)
    group, dot, name = word.replace("-", "_").rpartition(".")
    meanings = {name, *(each for each, others in SYNONYMS.items() if name in others.split())}
    matches = [path for path in names if path.rpartition(".")[2] in meanings]
    matches = [path for path in matches if path.startswith(group)] or matches
    inside = [path.rpartition(".")[2] for path in names if path.rpartition(".")[0] == group]
    if not matches and inside and dot:
        matches = [f"{group}.{near}" for near in difflib.get_close_matches(name, inside, n=1)]
    elif not matches:
        groups = {path.partition(".")[0] for path in names}
        matches = difflib.get_close_matches(word, [*names, *groups], n=1)
    return f" (did you mean {' or '.join(matches[:3])}?)" if matches else ""
