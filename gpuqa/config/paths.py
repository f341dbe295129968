"""Where things are: the package, the YAML that it came with, and files that a config names."""

from __future__ import annotations

import os
from pathlib import Path

from gpuqa.config import UserError

PACKAGE = Path(__file__).resolve().parent.parent


def find(path: str, key: str) -> Path:
    """A file or folder from the config: relative ones in the working folder first, then beside the installed package.

    Raises:
        UserError: it is in neither place; the message names the key and both places.
    """
    places = [Path(os.path.expanduser(path))]  # pathlib's raises for an unknown user
    if not places[0].is_absolute():
        places.append(PACKAGE.parent / path)
    for place in places:
        if os.path.exists(place):  # pathlib's raises for a name that is too long
            return place
    looked = " or ".join(dict.fromkeys(str(place.absolute()) for place in places))  # the same place for one in a checkout
    raise UserError(f"{key}: {path!r} does not exist; looked for {looked}")


def conf_folder() -> Path:
    """Where the YAML lies: inside an installed wheel, or beside the package in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"
