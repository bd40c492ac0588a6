"""What the agent knows, in documents for operators: pure functions from a snapshot of its state."""
