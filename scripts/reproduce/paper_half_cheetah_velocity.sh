#!/bin/sh
# Half-cheetah with goal velocities: rllab's environment, the paper's settings and its 40 goals.
# About an hour a seed on 2 cores.
set -eu
for seed in 0 1 2; do
  metarl train --config paper/half_cheetah_velocity --seed $seed --evaluation.every 25 \
    --name paper_half_cheetah_velocity-seed$seed "$@"
done
metarl train --config paper/half_cheetah_velocity --config baselines/oracle --iterations 500 \
  --name paper_half_cheetah_velocity_oracle "$@"
metarl train --config paper/half_cheetah_velocity --config baselines/pretrained \
  --name paper_half_cheetah_velocity_pretrained "$@"
metarl train --config paper/half_cheetah_velocity --config baselines/random \
  --name paper_half_cheetah_velocity_random "$@"
