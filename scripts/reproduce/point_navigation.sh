#!/bin/sh
# 2-D navigation: MAML, the paper's baselines, and the step without approximations.
# Options are added to every training: sh scripts/reproduce/point_navigation.sh --seed 1
set -eu
metarl train --config point_navigation --name maml "$@"
metarl train --config point_navigation --name exact --outer.curvature_fraction 1 \
  --outer.inner_hessian exact --compile false "$@"
metarl train --config point_navigation --config baselines/pretrained --iterations 500 \
  --name pretrained "$@"
metarl train --config point_navigation --config baselines/random --name random "$@"
metarl train --config point_navigation --config baselines/oracle --name oracle "$@"
metarl evaluate runs/maml runs/exact runs/pretrained runs/random runs/oracle
metarl evaluate runs/maml --tasks 400 --output runs/maml_400_tasks.json
metarl report runs/maml runs/pretrained runs/random runs/oracle
