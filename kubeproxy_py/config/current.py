"""The configuration in use, shared by the part that replaces it and the parts that read it."""

from kubeproxy_py.config.load import LoadedConfig


class CurrentConfig:
    """Holder of the configuration in use.

    One thread calls ``replace``; any thread may call ``get``. A configuration is immutable, and replacing it is one
    assignment, so a reader sees either the old or the new one and needs no lock.
    """

    def __init__(self, loaded: LoadedConfig) -> None:
        self._loaded = loaded

    def get(self) -> LoadedConfig:
        """Return the configuration in use."""
        return self._loaded

    def replace(self, loaded: LoadedConfig) -> None:
        """Use *loaded* from now on."""
        self._loaded = loaded
