"""A configuration -> the document that kube-proxy would read it from; for ``--write-config-to`` and ``/configz``.

Law: reading what was written gives the same configuration back, save a health server that is off: the file has no
word for that.
"""

from typing import Any

from kubeproxy_py.config.types import API_VERSION, KIND, KubeProxyConfiguration, Section, fields_of


def as_document(config: KubeProxyConfiguration) -> dict[str, Any]:
    """Every field by its name in the file, with its effective value, as plain data."""
    return {"apiVersion": API_VERSION, "kind": KIND, **_section(config)}


def as_yaml(config: KubeProxyConfiguration) -> str:
    """The file's text."""
    import yaml

    return yaml.safe_dump(as_document(config), default_flow_style=False, allow_unicode=True)


def _section(section: Section) -> dict[str, Any]:
    return {
        field.key: field.kind.write(value) if field.kind else _section(value)
        for field in fields_of(type(section))
        for value in [getattr(section, field.name)]
    }
