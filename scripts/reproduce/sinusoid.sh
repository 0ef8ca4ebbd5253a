#!/bin/sh
# Sinusoid regression: about a minute a run.
set -eu
S="metarl train --config sinusoid_5shot"
for seed in 0 1 2; do
  $S --seed $seed --name sinusoid_5shot-seed$seed "$@"
  metarl train --config sinusoid --seed $seed --name sinusoid_10shot-seed$seed "$@"
done
for algorithm in fomaml anil meta-sgd; do
  $S --inner.algorithm $algorithm --name sinusoid_5shot_$algorithm "$@"
done
$S --inner.algorithm reptile --inner.steps 5 --name sinusoid_5shot_reptile "$@"
for baseline in pretrained random oracle; do
  $S --config baselines/$baseline --name sinusoid_5shot_$baseline "$@"
done
metarl train --config paper/sinusoid --name paper_sinusoid_10shot "$@"
metarl train --config paper/sinusoid_5shot --name paper_sinusoid_5shot "$@"
metarl train --config paper/sinusoid_5shot --inner.algorithm meta-sgd \
  --name paper_sinusoid_5shot_meta-sgd "$@"
metarl train --config paper/sinusoid_5shot --config baselines/pretrained \
  --name paper_sinusoid_5shot_pretrained "$@"
