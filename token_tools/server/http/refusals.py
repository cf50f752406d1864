"""Why is a bearer or an ID token not accepted? A reason in few words for the log, which repeats nothing of it."""


class BearerRefused(Exception):
    """A bearer lets nobody in, or an ID token does not say who signed in.

    `reason` is one of a few fixed texts; the `detail` can be different each time.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}, {detail}" if detail else reason)
        self.reason = reason
