"""Reconciliation: one thread brings kernel state from the actual to the desired rows, and repairs drift."""
