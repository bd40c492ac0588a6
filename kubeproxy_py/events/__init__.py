"""Kubernetes Events: what is reported about the Node and Services, how often, and how it is posted."""
