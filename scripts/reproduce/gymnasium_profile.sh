#!/bin/sh
# Short runs in gymnasium's environments.
set -eu
metarl train --config half_cheetah_velocity --iterations 100 --evaluation.every 20 \
  --outer.inner_hessian exact --name half_cheetah_velocity "$@"
metarl train --config ant_direction --iterations 20 --outer.curvature_fraction 1 \
  --outer.inner_hessian exact --name ant_direction "$@"
