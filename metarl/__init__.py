"""metarl: meta-reinforcement-learning by gradient-based adaptation.

``metarl.train`` and ``metarl.load`` are the Python interface; see ``metarl.interface``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarl.interface import AdaptedPolicy, Episode, Run, UserError, load, train

__version__ = "0.2.0.dev0"
__all__ = ["AdaptedPolicy", "Episode", "Run", "UserError", "load", "train"]


def __getattr__(name: str) -> Any:
    """Import the interface when it is first used, so that ``import metarl.core`` stays light."""
    if name in __all__:
        from metarl import interface

        return getattr(interface, name)
    raise AttributeError(f"module 'metarl' has no attribute {name!r}")
