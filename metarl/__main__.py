"""``python -m metarl``, and the ``metarl`` command: whatever happens at the start is one line."""

import os
import sys
from collections.abc import Sequence

from metarl.runtime.console import complain, settle
from metarl.runtime.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; nothing that takes time to import is imported before.

    Args:
        argv: the command and its arguments; None: those of the process.
    """
    try:
        _require_mujoco()
        from metarl.commands import main as commands

        code = commands.main(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        complain("metarl: interrupted")
        code = 130
    except UserError as error:
        complain(f"metarl: error: {error}")
        code = 2
    except OSError as error:
        complain(f"metarl: error: standard output: {error.strerror}")
        code = 1
    settle(sys.stdout)
    return code


def _require_mujoco() -> None:
    """Raise UserError where MuJoCo does not import because of the library to draw with."""
    if (library := os.environ.get("MUJOCO_GL")) is None:
        return
    try:
        import mujoco  # noqa: F401
    except Exception as error:  # of many kinds, by library
        reason = " ".join(str(error).split())
        raise UserError(
            f"MUJOCO_GL={library} does not work here ({reason}); set it to egl, osmesa or disabled"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
