"""Planning: compares desired with actual rows and returns the least steps, in a safe order; pure functions only."""
