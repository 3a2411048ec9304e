"""Where PyTorch's compiler keeps the code that it generates, and loads again later."""

import os
from pathlib import Path

from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from flowerseg.errors import BackendUnavailable
from flowerseg.smallfiles import reason_of
from flowerseg.trust import distrust, make_private_folder

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def require_private_code_cache() -> None:
    """Refuse a folder of compiled code that other users can change; make torch's default private.

    The default lies in /tmp under a name that anybody can take first.

    Raises:
        BackendUnavailable: another user can change the folder, or it cannot be made.
    """
    chosen = os.environ.get(_VARIABLE)
    folder = Path(chosen or default_cache_dir())
    try:
        if not chosen:
            make_private_folder(folder)
        reason = distrust([folder]) if folder.exists() else ""
    except OSError as error:
        reason = reason_of(error)
    if reason:
        raise BackendUnavailable(
            f"{folder}: PyTorch keeps compiled code there, and it cannot be used: {reason}. Set "
            f"{_VARIABLE} to a folder of your own."
        )
