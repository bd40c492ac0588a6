"""Exit statuses of the commands."""

DONE, FAILED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
