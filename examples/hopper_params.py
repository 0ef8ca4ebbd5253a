"""A hopper whose masses, inertias, dampings and frictions differ by task (Rothfuss et al. 2019)."""

import metarl


def main(**settings):
    return metarl.train("hopper_params", {"iterations": 60}, settings)


if __name__ == "__main__":
    main()
