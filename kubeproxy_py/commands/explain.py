"""explain: print all that is known of one Service, address or endpoint, and what is wrong with it."""

from typing import TYPE_CHECKING

import msgspec

from kubeproxy_py.commands.agent_client import NoAgentError, RefusedError, ask, socket_path
from kubeproxy_py.commands.exit_status import FAILED, SUCCESS, WRONG
from kubeproxy_py.commands.output import print_lines, print_note, print_to_stderr
from kubeproxy_py.commands.status import Load, encoded, refusal_text
from kubeproxy_py.diagnose.document import ErrorDocument, Explanation
from kubeproxy_py.diagnose.explain_text import explain_text

if TYPE_CHECKING:
    from argparse import Namespace

    from kubeproxy_py.config.load import ConfigInput, LoadedConfig


def explain(config_input: "ConfigInput", arguments: "Namespace", load: Load) -> int:
    """Print the explanation; return SUCCESS, WRONG, or FAILED if the target is unknown or could not be looked at."""
    try:
        explanation = _explanation(config_input, arguments.target, load)
    except RefusedError as error:
        print_to_stderr(refusal_text(error) + "\n")
        return FAILED
    print_lines(encoded(explanation, arguments.output) or explain_text(explanation))
    if explanation.agent.problem:
        return FAILED
    return SUCCESS if explanation.verdict == "well" else WRONG


def _explanation(config_input: "ConfigInput", target: str, load: Load) -> Explanation:
    """Return the agent's explanation, or that of this command itself.  Raises RefusedError."""
    path = socket_path(config_input.flags)
    if path:
        try:
            return msgspec.json.decode(ask(path, "/v1/explain", {"target": target}), type=Explanation)
        except NoAgentError as error:
            print_note(f"{error}; this is what this command sees itself")
    return _own_explanation(target, load())


def _own_explanation(target: str, loaded: "LoadedConfig") -> Explanation:
    from kubeproxy_py.commands.own_view import OwnView
    from kubeproxy_py.diagnose.explain import explain as explanation_of
    from kubeproxy_py.diagnose.scope import Scope, servers_of
    from kubeproxy_py.diagnose.targets import TargetFormError, UnknownTargetError, parse_target
    from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
    from kubeproxy_py.server.documents import Kernel

    try:
        asked = parse_target(target)
    except TargetFormError as error:
        raise RefusedError(400, ErrorDocument(str(error))) from None
    view = OwnView(loaded)
    snapshot = view.wait()
    try:
        scope = Scope(snapshot, asked)
    except UnknownTargetError as error:
        problem = f"; {snapshot.about.problem}" if snapshot.about.problem else ""
        raise RefusedError(404, ErrorDocument(f"{error}{problem}", error.nearest)) from None
    return explanation_of(snapshot, scope, Kernel(IpvsAdapter).connections(servers_of(snapshot, scope)))
