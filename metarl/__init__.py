"""metarl: meta-reinforcement-learning by gradient-based adaptation."""

__version__ = "0.2.0.dev0"
