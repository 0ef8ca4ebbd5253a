#!/bin/sh
# The comparison of algorithms in docs/comparison.md. Runs that are done are left alone, those that were
# stopped go on.
#   EXPERIMENT=point_navigation_sparse scripts/reproduce/comparison.sh
#   EXPERIMENT=half_cheetah_direction SEEDS="0 1" scripts/reproduce/comparison.sh --iterations 100
set -e
experiment=${EXPERIMENT:-point_navigation}
for seed in ${SEEDS:-0 1 2}; do
  metarl train --config $experiment --seed $seed --evaluation.every 25 \
    --name comparison-$experiment-trpo-seed$seed --resume auto "$@"
  for algorithm in promp ppo adam lvc dice loaded_dice emaml critic fomaml anil boil meta_sgd; do
    metarl train --config $experiment --config algorithms/$algorithm --seed $seed \
      --evaluation.every 25 --name comparison-$experiment-$algorithm-seed$seed --resume auto "$@"
  done
done
