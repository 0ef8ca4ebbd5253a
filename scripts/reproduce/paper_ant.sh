#!/bin/sh
# Ant with goal velocities, and forwards or backwards: rllab's environment, the paper's settings and
# its 40 tasks. Several hours each on 2 cores.
set -eu
for task in velocity forward_backward; do
  metarl train --config paper/ant_$task --evaluation.every 25 --name paper_ant_$task "$@"
  metarl train --config paper/ant_$task --config baselines/oracle --name paper_ant_${task}_oracle "$@"
done
