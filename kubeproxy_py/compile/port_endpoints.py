"""The real servers of a virtual server, from the endpoints of its Service port and all that changes their weights."""

from collections.abc import Sequence

from msgspec import Struct

from kubeproxy_py.compile.conditions import Behind, weighed
from kubeproxy_py.compile.topology import MakeRows, SelectionRule, SliceEndpoints
from kubeproxy_py.model.conditions import NO_CONDITIONS, Conditions
from kubeproxy_py.model.rows import Rows, VirtualServer, VirtualServerSpec


class PortEndpoints(Struct, frozen=True, gc=False):
    """The endpoints of one port of a Service in one family."""

    slices: Sequence[SliceEndpoints]
    make_rows: MakeRows
    conditions: Conditions
    starts_slowly: bool  # new endpoints do: the setting is in force here

    def server_parts(
        self,
        server: VirtualServer,
        spec: VirtualServerSpec,
        rule: SelectionRule,
        nodes: Rows | None = None,
        behind: Behind = {},  # noqa: B006 - never changed
    ) -> list[Rows]:
        """Return the rows of *server*, with the real servers that *rule* selects, and *nodes* with what is *behind*.

        The first part is for the rows that a Service port has in common; the others are one for each slice.  The real
        servers of a single slice are in the first, because 10,000 small dicts need more memory.
        """
        if len(self.slices) == 1:
            real_servers = {**self.make_rows(server, self.slices[0].selected(rule)), **(nodes or {})}
            [real_servers] = self._weighed([real_servers], spec, behind)
            return [{server: spec, **real_servers}]
        parts = [slice_endpoints.rows(server, rule, self.make_rows) for slice_endpoints in self.slices]
        return [{server: spec}, *self._weighed([*parts, nodes] if nodes else parts, spec, behind)]

    def _weighed(self, parts: list[Rows], spec: VirtualServerSpec, behind: Behind) -> list[Rows]:
        if self.conditions is NO_CONDITIONS and not self.starts_slowly:  # nearly always
            return parts
        return weighed(parts, self.conditions, spec, starts_slowly=self.starts_slowly, behind=behind)
