"""A bandit with 10 arms and 10 pulls (Duan et al. 2016), and the optimum beside the scores."""

import numpy as np

import metarl


def main(**settings):
    run = metarl.train("bandit", settings)
    best = np.mean([run.family.optimum(np.array(task)) for task in run.evaluation.tasks])
    for row in run.evaluation.rows:
        print(f"after {row.inner_steps} inner steps: {row.mean:.2f} of {best:.2f}")
    return run


if __name__ == "__main__":
    main()
