"""The one error that users see: a message of one line, and nothing in it that a terminal would obey."""

import errno

#: What to do about an error of the disk, by its number.
REMEDIES = {
    errno.ENOSPC: "; make room on the disk",
    errno.EDQUOT: "; your quota on this disk is used up: make room",
    errno.EFBIG: "; no file may grow so large here: see ulimit -f",
    errno.EROFS: "; choose a folder that can be written to",
    errno.EACCES: "; choose a folder that can be written to",
    errno.EIO: "; the disk is failing, or is no longer there",
}


class UserError(Exception):
    """Something the user can mend: a wrong path, a broken file, flags that contradict each other.

    The message is one line that names the file, the line or key, and the cure; what it quotes from a file is made
    printable. The command line prints it and exits with 2; everything else is our own bug and keeps its traceback.
    """

    def __init__(self, message: str):
        message = printable(message)
        super().__init__(message if len(message) <= 2000 else f"{message[:1600]} … {message[-300:]}")


class DiskError(UserError):
    """The disk refuses what is to be written."""


def printable(text: str) -> str:
    """A text without what would break the line, or move the cursor of a terminal: such characters as in "\\x1b"."""
    return "".join(c if c.isprintable() or c in "\u200c\u200d" else ascii(c)[1:-1] for c in text)


def remedy(error: OSError) -> str:
    """What to do about what the disk refused, where that is plain."""
    return REMEDIES.get(error.errno, "")
