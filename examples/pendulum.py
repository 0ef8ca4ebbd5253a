"""Pendulum with random mass, length and gravity: a config of metarl, and settings of one's own."""

import metarl


def main(**settings):
    return metarl.train("pendulum", {"env.length_range": [0.8, 1.2], "iterations": 100}, settings)


if __name__ == "__main__":
    main()
