"""Decode Kubernetes objects from JSON or YAML into the values of the model."""
