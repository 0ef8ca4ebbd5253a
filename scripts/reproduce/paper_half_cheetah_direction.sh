#!/bin/sh
# Half-cheetah, forwards or backwards: rllab's environment, the paper's settings and its 40 tasks.
# About half an hour a seed on 2 cores.
set -eu
for seed in 0 1 2; do
  metarl train --config paper/half_cheetah_direction --seed $seed --evaluation.every 10 \
    --name paper_half_cheetah_direction-seed$seed "$@"
done
metarl train --config paper/half_cheetah_direction --config baselines/oracle --iterations 500 \
  --name paper_half_cheetah_direction_oracle "$@"
