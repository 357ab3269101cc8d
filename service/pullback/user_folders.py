"""The user's folders for caches and state, also for users without a home folder (containers, services)."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

from pullback.errors import PullbackError


def cache_folder() -> Path:
    """Return the folder of files that can be fetched again."""
    return _folder(platformdirs.user_cache_path)


def state_folder() -> Path:
    """Return the folder of this machine's records of sweeps in object stores."""
    return _folder(platformdirs.user_state_path)


def _folder(usual: Callable[[str], Path]) -> Path:
    """Return the standard folder, or a temporary one for a user without a home folder.

    Raises:
        PullbackError: the temporary folder belongs to another user.
    """
    try:
        return usual("pullback")
    except RuntimeError:  # no HOME, and no entry in the password database
        user = os.getuid() if hasattr(os, "getuid") else 0
        folder = Path(tempfile.gettempdir()) / f"pullback-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or (hasattr(os, "getuid") and folder.stat().st_uid != user):
            raise PullbackError(
                f"{folder} belongs to another user, and you have no home folder. Set HOME to a folder of your own."
            ) from None
        return folder
