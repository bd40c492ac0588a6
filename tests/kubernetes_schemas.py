"""Validation of objects by the schemas of the Kubernetes API, each of which is parsed once in a process."""

from functools import cache
from typing import Any

import kubernetes_validate
from kubernetes_validate import utils

# The library parses a megabyte of definitions for each object: nine tenths of the time of a validation.
utils.schema_contents = cache(utils.schema_contents)
utils.all_versions = cache(utils.all_versions)


def validate(document: dict[str, Any], version: str) -> None:
    """Check *document* against the schema of Kubernetes *version*, as 1.36, in which unknown fields are errors.

    Raises:
        kubernetes_validate.ValidationError: It is not valid.
    """
    kubernetes_validate.validate(document, version, strict=True)
