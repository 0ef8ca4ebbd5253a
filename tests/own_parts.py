"""One part of every kind, as a user would write it: outside the package, in one file."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import nn
from torch.func import functional_call
from torch.utils.data import Dataset

from metarl.core.outer.adam import Adam
from metarl.core.outer.step import OuterStep
from metarl.rl.baselines import Baseline, Values
from metarl.rl.distributions import Gaussian
from metarl.rl.returns import masked_mean
from metarl.runtime.seeding import generator
from metarl.supervised import LabelledSet, RegressionFamily
from metarl.supervised.task_data import Examples, TaskBatch, TaskData
from metarl_envs.half_cheetah import HalfCheetah
from metarl_envs.point import PointNavigation


@dataclass(frozen=True, kw_only=True)
class HeavyCheetah(HalfCheetah):
    """Run forwards with another mass: tasks change the physics, and rewards are noisy."""

    mass_range: tuple[float, float] = (0.5, 2.0)
    task_fields = ("mass",)
    noise_dim = 1

    def sample_tasks(self, rng, n):
        return rng.uniform(*self.mass_range, (n, 1))

    def model_fields(self, tasks):
        return {"body_mass": tasks * self.model.body_mass}

    def velocity_reward(self, velocity, tasks):
        return velocity

    def reward(self, step):
        return super().reward(step) + 0.1 * (step.noise[:, 0] - 0.5)


class TwoHeads(nn.Module):
    """A convolution over the observation as a signal; a head for the mean, one for log std."""

    def __init__(self, observations, actions, channels):
        super().__init__()
        self.conv = nn.Conv1d(1, channels, 3)
        width = channels * (observations.shape[0] - 2)
        self.head = nn.Linear(width, actions.shape[0])
        self.spread = nn.Linear(width, actions.shape[0])

    def forward(self, observation):
        flat = observation.reshape(-1, 1, observation.shape[-1])
        x = torch.tanh(self.conv(flat)).flatten(1).reshape(*observation.shape[:-1], -1)
        return Gaussian(self.head(x), self.spread(x).tanh())


def two_heads(observation_space, action_space, channels: int = 2):
    """Args: channels: of the convolution."""
    return TwoHeads(observation_space, action_space, channels)


def squared_loss(policy, params, batch):
    """REINFORCE with a little pull towards small actions."""
    distribution = policy(params, batch.observations)
    log_probs = distribution.log_prob(batch.actions)
    pull = 0.01 * distribution.mode().square().sum(-1)
    return masked_mean(pull - log_probs * batch.advantages, batch.mask)


class Momentum(NamedTuple):
    mean: torch.Tensor


@dataclass(frozen=True)
class HeavyBall(OuterStep):
    """Gradient descent with momentum.

    Args:
        rate: length of a step.
    """

    rate: float = 0.01

    def init(self, theta):
        return Momentum(torch.zeros_like(theta))

    def step(self, objective, theta, state):
        values, gradient = objective.loss_gradient(theta)
        mean = 0.9 * state.mean + gradient
        return theta - self.rate * mean, Momentum(mean), {"loss_before": values[0]}


def clipped_surrogate(task):
    """ProMP's objective of one task: clipped ratios, and the KL of theta on the support data."""
    new = task.policy(task.phi, task.query.observations)
    ratio = torch.exp(new.log_prob(task.query.actions) - task.query.log_probs)
    advantages, mask = task.query.advantages, task.query.mask
    gain = torch.minimum(ratio * advantages, ratio.clamp(0.7, 1.3) * advantages)
    support = task.support[0]
    kl = support.sampling.kl(task.policy(task.theta, support.observations))
    return 5e-4 * masked_mean(kl, support.mask) - masked_mean(gain, mask)


@dataclass(frozen=True)
class RepeatedAdam(Adam):
    """ProMP: several epochs of Adam on one batch (Rothfuss et al. 2019).

    Args:
        epochs: of the same trajectories.
    """

    epochs: int = 5
    is_traceable = False

    def step(self, objective, theta, state):
        seen = []
        for _ in range(self.epochs):
            values, gradient = objective.gradient_of(clipped_surrogate, theta)
            theta, state = self.update(theta, gradient, state)
            seen.append(values[0])
        return theta, state, {"first": seen[0], "last": seen[-1]}


@dataclass(frozen=True)
class Critic(Baseline):
    """A small network fitted to the returns of all tasks; what it has learnt goes on.

    Args:
        steps: gradient steps of a fit.
    """

    steps: int = 3

    def init(self, observation_dim, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return {k: p.detach() for k, p in self.net(observation_dim).named_parameters()}

    def net(self, observation_dim):
        return nn.Sequential(nn.Linear(observation_dim + 1, 8), nn.Tanh(), nn.Linear(8, 1))

    def value(self, state, observations, times):
        x = torch.cat([observations, times[..., None] / 100], -1).float()
        return functional_call(self.net(x.shape[-1] - 1), state, (x,))[..., 0]

    def fit(self, state, data, task_map):
        def loss(params, task):
            value = self.value(params, task.observations, task.times)
            return masked_mean((value - task.targets).square(), task.mask)

        for _ in range(self.steps):
            _, gradient = task_map.mean_and_grad(loss, state, data)
            state = {name: p - 0.01 * gradient[name] for name, p in state.items()}
        with torch.no_grad():
            values = self.value(state, data.observations, data.times) * data.mask
            final = self.value(state, data.final_observations, data.final_times)
        return Values(values, final), state


@dataclass(frozen=True)
class Lines:
    """y = slope x.

    Args:
        steepest: largest slope.
    """

    steepest: float = 2.0
    task_fields = ("slope",)
    input_shape = (1,)
    variants = ()

    def require(self, what):
        pass

    def draw(self, what):
        rng = generator(what.seed, what.purpose, what.iteration)
        slopes = rng.uniform(-self.steepest, self.steepest, (what.tasks, 1)).astype(np.float32)

        def batch(size):
            x = rng.standard_normal((what.tasks, size, 1), np.float32)
            rows = slice(what.rows.start, what.rows.stop)
            x, y = (torch.from_numpy(a[rows]) for a in (x, slopes[:, None] * x))
            return Examples(x, y)

        rows = slice(what.rows.start, what.rows.stop)
        return TaskBatch(slopes[rows], TaskData(batch(what.shots), batch(what.queries)))


@dataclass(frozen=True, kw_only=True)
class Planes(RegressionFamily):
    """Two linear functions of three inputs.

    Args:
        steepest: largest slope.
    """

    steepest: float = 2.0
    task_fields = tuple("abcdef")
    input_shape = (3,)
    outputs = 2

    def sample_tasks(self, rng, n):
        return rng.uniform(-self.steepest, self.steepest, (n, 6))

    def targets(self, tasks, inputs):
        return inputs @ tasks.reshape(-1, 3, 2)


class Tiles(Dataset):
    """Patterns of 3x4 numbers and some noise, a label for each pattern."""

    def __init__(self, labels, each):
        self.labels = np.repeat(labels, each)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        label = self.labels[i]
        pattern = np.random.default_rng(int(label)).standard_normal((3, 4))
        return pattern + 0.1 * np.random.default_rng([1, i]).standard_normal((3, 4)), label


@dataclass(frozen=True)
class Patterns(LabelledSet):
    """A dataset to train on, arrays to validate and to test on.

    Args:
        each: examples of every class.
    """

    each: int = 8

    def load(self, folder):
        splits = {"train": range(12), "validation": range(20, 25), "test": range(30, 36)}
        sets = {split: Tiles([*labels], self.each) for split, labels in splits.items()}
        arrays = {
            split: tuple(map(np.stack, zip(*(tiles[i] for i in range(len(tiles))), strict=True)))
            for split, tiles in sets.items()
        }
        return {**arrays, "train": sets["train"]}


class Diary:
    """A sink: a line for every iteration."""

    def __init__(self, folder, config, start):
        self.file = (folder / "diary.txt").open("a")

    def log(self, iteration, metrics):
        print(iteration, len(metrics), file=self.file, flush=True)

    def show(self, iteration, media):
        print("shown", iteration, file=self.file, flush=True)

    def close(self):
        self.file.close()


def network(shape, outputs):
    return nn.Sequential(nn.Linear(shape[0], 5), nn.Tanh(), nn.Linear(5, outputs))


@dataclass(frozen=True, kw_only=True)
class Compass(PointNavigation):
    """Point navigation by four discrete moves."""

    @property
    def action_space(self):
        return spaces.Discrete(4)

    def control(self, action):
        moves = self.max_step * np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        return moves[action.astype(int)]


class Categorical(NamedTuple):
    """One of K actions, from the logits [..., K]."""

    logits: torch.Tensor

    @property
    def noise_dim(self):
        return 1

    def sample(self, noise):
        uniform = torch.special.ndtr(noise)
        return (self.logits.softmax(-1).cumsum(-1)[..., :-1] < uniform).sum(-1)

    def mode(self):
        return self.logits.argmax(-1)

    def log_prob(self, action):
        return self.logits.log_softmax(-1).gather(-1, action[..., None])[..., 0]

    def kl(self, other):
        ours, theirs = self.logits.log_softmax(-1), other.logits.log_softmax(-1)
        return (ours.exp() * (ours - theirs)).sum(-1)

    def entropy(self):
        logs = self.logits.log_softmax(-1)
        return -(logs.exp() * logs).sum(-1)

    def statistics(self):
        return {"largest_probability": self.logits.softmax(-1).amax(-1)}


class Moves(nn.Module):
    def __init__(self, observations, actions):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(observations.shape[0], 16), nn.Tanh())
        self.head = nn.Linear(16, int(actions.n))

    def forward(self, observation):
        return Categorical(self.head(self.body(observation)))


# --- what should be refused


def not_a_policy(observation_space, action_space):
    return 3


def raises(observation_space, action_space):
    raise RuntimeError("out of ideas")


class Linear(nn.Module):
    """The mean of a distribution, made by ``give``."""

    def __init__(self, observations, actions, give):
        super().__init__()
        self.head = nn.Linear(observations.shape[0], actions.shape[0])
        self.give = give

    def forward(self, observation):
        return self.give(self.head(observation))


def not_a_distribution(observation_space, action_space):
    return Linear(observation_space, action_space, lambda mean: mean)


class Squashed(NamedTuple):
    """Log-probabilities of squashed actions, but samples that are not."""

    mean: torch.Tensor
    log_std: torch.Tensor

    noise_dim = Gaussian.noise_dim
    sample = Gaussian.sample
    mode = Gaussian.mode
    kl = Gaussian.kl
    entropy = Gaussian.entropy
    statistics = Gaussian.statistics

    def log_prob(self, action):
        inside = action.clamp(-0.99, 0.99)
        jacobian = torch.log1p(-inside.square()).sum(-1)
        return Gaussian(self.mean, self.log_std).log_prob(torch.atanh(inside)) - jacobian


def squashed(observation_space, action_space):
    return Linear(
        observation_space, action_space, lambda mean: Squashed(mean, torch.zeros_like(mean))
    )


def noisy(observation_space, action_space):
    def give(mean):
        noise = torch.from_numpy(np.random.default_rng().standard_normal(mean.shape[-1]))
        return Gaussian(mean + noise.to(mean), torch.zeros_like(mean))

    return Linear(observation_space, action_space, give)


def batch_normed(observation_space, action_space):
    policy = Linear(observation_space, action_space, lambda mean: Gaussian(mean, mean * 0))
    policy.head = nn.Sequential(policy.head, nn.BatchNorm1d(2))
    return policy
