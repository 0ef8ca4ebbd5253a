#!/bin/sh
# Omniglot, 5 ways and 1 shot: --data_folder FOLDER says where the images are.
set -eu
metarl train --config omniglot_5way_1shot --evaluation.every 4000 --name omniglot_5way_1shot "$@"
