"""Pure: the cluster's objects -> the rows that this node's kernel should have."""
