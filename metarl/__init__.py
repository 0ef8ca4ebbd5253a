"""metarl: meta-reinforcement-learning by gradient-based adaptation."""

__version__ = "0.1.0"
