"""Load a trained run, adapt its policy to a task, and act: ``python load_adapt_predict.py RUN``."""

import sys

import metarl


def main(path, velocity=1.5):
    """Adapt half-cheetah to a goal velocity (m/s); returns the return of one episode."""
    run = metarl.load(path)
    policy = run.adapt(task=[velocity], steps=1, trajectories=10)
    env = run.make_env(task=[velocity])
    observation, _ = env.reset(seed=0)
    total, over = 0.0, False
    while not over:
        action = policy.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        total += reward
        over = terminated or truncated
    before, after = policy.returns
    print(f"sampled actions: {before:.1f} before and {after:.1f} after one inner step")
    print(f"mean actions after it: {total:.1f}")
    policy.save("policy.pt")
    return total


if __name__ == "__main__":
    main(sys.argv[1])
