"""What each signal does to a process that does not handle it."""

import signal

FAULT_SIGNALS = {"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"}
HARMLESS_SIGNALS = {"SIGCHLD", "SIGCONT", "SIGPIPE", "SIGURG", "SIGWINCH", "SIGXFSZ"}
STOP_SIGNALS = {"SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"}
KILL_SIGNALS = FAULT_SIGNALS | {"SIGKILL"}


def format_signal(signum: int) -> str:
    """Return the name of a signal, also of one that Python has no name for."""
    return signal.Signals(signum).name if signum in {*signal.Signals} else f"SIG{signum}"
