"""Configuration -> the file that kube-proxy would read it from, for ``--write-config-to`` and ``/configz``.

Invariants:
- Reading the written file gives the same configuration, except for a health server that is off, which the file cannot
  express.
"""

from typing import Any

from kubeproxy_py.config.types import API_VERSION, KIND, KubeProxyConfiguration, Section, fields_of


def as_document(config: KubeProxyConfiguration) -> dict[str, Any]:
    """Return every field with its effective value, by its name in the file, as plain data."""
    return {"apiVersion": API_VERSION, "kind": KIND, **section_fields(config)}


def section_fields(section: Section) -> dict[str, Any]:
    """Return every field of *section* with its value, by its name in a file, as plain data."""
    return {
        field.key: field.field_type.write(value) if field.field_type else section_fields(value)
        for field in fields_of(type(section))
        for value in [getattr(section, field.name)]
    }


def as_yaml(config: KubeProxyConfiguration) -> str:
    """Return the text of the file."""
    import yaml

    return yaml.safe_dump(as_document(config), default_flow_style=False, allow_unicode=True)
