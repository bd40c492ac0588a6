"""Pure: desired rows against actual rows -> the least steps, in a safe order."""
