"""Why is a bearer not accepted? A reason in few words for the log, which repeats nothing of the bearer."""


class BearerRefused(Exception):
    """A bearer lets nobody in.

    `reason` is one of a few fixed texts; the `detail` can be different each time.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}, {detail}" if detail else reason)
        self.reason = reason
