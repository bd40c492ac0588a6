"""Values only: the cluster's objects as we use them, the events that carry them, and the kernel's rows.

Law: nothing here does anything.  Every value is frozen, compares by content, and imports nothing of ours.
"""
