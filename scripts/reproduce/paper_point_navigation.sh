#!/bin/sh
# 2-D navigation with the settings of the paper's evaluated model, on its 40 goals.
set -eu
for seed in 0 1 2; do
  metarl train --config paper/point_navigation --seed $seed \
    --name paper_point_navigation-seed$seed "$@"
done
metarl train --config paper/point_navigation --config baselines/random \
  --name paper_point_navigation_random "$@"
metarl train --config paper/point_navigation --config baselines/oracle \
  --name paper_point_navigation_oracle "$@"
