"""Signatures of this user, made with the key in the user's state folder.

An owner or a host name in a run's folder would say less: an archive that is unpacked becomes its
user's, and whoever writes it can write any host into it. The key never leaves its folder.
"""

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Any


def signature(content: Any) -> str | None:
    """Return this user's signature of plain values; None where the user can keep no key."""
    key = _key()
    data = json.dumps(content, sort_keys=True).encode()
    return hmac.new(key, data, hashlib.sha256).hexdigest() if key else None


def is_signed(content: Any, claim: Any) -> bool:
    """Return whether ``claim`` is this user's signature of the content."""
    own = signature(content)
    return own is not None and isinstance(claim, str) and hmac.compare_digest(own, claim)


def key_file() -> Path:
    """Return where the user's key is."""
    state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(state) / "metarl" / "key"


def _key() -> bytes | None:
    """Return the user's key, which is made where there is none yet."""
    file = key_file()
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            new = file.with_name(secrets.token_hex(8))
            new.touch(mode=0o600)
            new.write_text(secrets.token_hex(32))
            try:
                os.link(new, file)
            except FileExistsError:  # another process was faster
                pass
            finally:
                new.unlink()
        return file.read_bytes()
    except (OSError, RuntimeError):  # there is no home
        return None
