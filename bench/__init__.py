"""make bench: what the agent costs, measured on the lab kernel against what the kernel itself takes.

Law: a figure is measured, never taken from elsewhere; figures that are divided come from one boot, turn about, so
that what else the machine does meets both.  On the host there is only arithmetic (``__main__``, ``rows``,
``figures``); all that is timed runs inside the lab (``inside``), and what it programmed is read back.
"""
