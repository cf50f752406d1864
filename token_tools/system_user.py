"""Who runs this process, and has somebody else a file in their hands?

Windows tells neither owners by numbers nor permissions by modes. What cannot be known there is not held against a file,
and `SECURITY.md` says so.
"""

import os
import stat
from functools import cache
from typing import Final

from token_tools.posix import IS_WINDOWS, geteuid, getpwuid, getuid

_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


@cache
def find_system_user() -> str:
    """Return the name of the user who runs this process, or the number of one without a name."""
    if IS_WINDOWS:
        return _find_login()
    return find_user_name(getuid())


def find_user_name(number: int) -> str:
    """Return the name of a user of this system, or the number of one without a name."""
    try:
        return getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"


def _find_login() -> str:
    """Return the name that the system tells, and no variable of the environment."""
    import psutil  # noqa: PLC0415 - it takes time, and only Windows needs it here

    return psutil.Process().username()


def belongs_to_other(status: os.stat_result) -> bool:
    """Tell whether a file belongs to neither this user nor root; on Windows that is not known, and False."""
    return not IS_WINDOWS and status.st_uid not in {geteuid(), 0}


def can_others_write(status: os.stat_result) -> bool:
    """Tell whether the mode of a file lets others write it; on Windows that is not known, and False."""
    return not IS_WINDOWS and bool(status.st_mode & _WRITABLE_BY_OTHERS)
