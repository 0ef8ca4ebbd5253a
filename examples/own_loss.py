"""An inner loss of one's own: REINFORCE that rewards entropy, on point navigation."""

import metarl
from metarl.rl.returns import masked_mean


def entropic_reinforce(policy, params, batch):
    """Return -mean(log pi(a|s) A + 0.01 H(pi(.|s))) over the valid env steps of one task.

    Args:
        policy: function of parameters and observations [S, O] to a distribution.
        params: the task's parameters.
        batch: its S env steps; ``batch.mask`` [S] is 0 in the padding.
    """
    distribution = policy(params, batch.observations)
    gain = distribution.log_prob(batch.actions) * batch.advantages + 0.01 * distribution.entropy()
    return -masked_mean(gain, batch.mask)


def main(**settings):
    return metarl.train("point_navigation", {"inner.loss": entropic_reinforce}, settings)


if __name__ == "__main__":
    main()
