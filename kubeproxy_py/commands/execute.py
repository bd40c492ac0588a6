"""What each command does with its arguments: it imports its own modules when it is executed, and no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from kubeproxy_py import __version__
from kubeproxy_py.commands import output
from kubeproxy_py.commands.exit_status import SUCCESS, UNUSABLE
from kubeproxy_py.commands.table import COMMANDS, PROGRAM

if TYPE_CHECKING:
    from argparse import Namespace

    from kubeproxy_py.config.load import ConfigInput, LoadedConfig


def execute(command: str, config_input: ConfigInput, arguments: Namespace) -> int:
    """Execute *command*, and return its exit status.

    Raises:
        ConfigError: The configuration cannot be used.
        HintedError: The kernel, or the source, cannot be used.
    """
    return EXECUTORS[command](config_input, arguments)


def _load(config_input: ConfigInput) -> LoadedConfig:
    """Load the configuration, set up the log by it, and log its warnings.

    Raises:
        ConfigError: The configuration cannot be used.
    """
    from kubeproxy_py.commands.interactive import log_warnings
    from kubeproxy_py.config.load import load

    loaded = load(config_input.flags, config_input.content)
    logging_config = loaded.config.logging
    return log_warnings(loaded, logging_config.format, logging_config.verbosity)


def _run(config_input: ConfigInput, _arguments: Namespace) -> int:
    """Run the proxy, or do what a flag of kube-proxy requests instead; the precedence is kube-proxy's."""
    from kubeproxy_py.commands.check import write_config
    from kubeproxy_py.commands.cleanup import cleanup
    from kubeproxy_py.commands.run import init_only, run

    loaded = _load(config_input)
    if loaded.agent.write_config_to:
        return write_config(loaded)
    if loaded.agent.cleanup:
        return cleanup(loaded)
    return init_only(loaded) if loaded.agent.init_only else run(loaded, config_input)


def _load_interactive(config_input: ConfigInput) -> LoadedConfig:
    from kubeproxy_py.commands.interactive import load_interactive

    return load_interactive(config_input)


def _plan(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.agent_config import Chosen, choose
    from kubeproxy_py.commands.plan import PlanOptions, plan

    options = PlanOptions(arguments.assume_empty, arguments.kernel_state or "", arguments.output, arguments.color)
    if arguments.hold:
        from kubeproxy_py.commands.hold import plan_and_hold

        return plan_and_hold(config_input, options)
    own = _load_interactive(config_input)
    chosen = Chosen(own) if options.kernel_state else choose(config_input, own)  # which may be of another host
    return plan(chosen.loaded, options, chosen.source())


def _status(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.status import status

    return status(config_input, arguments, lambda: _load_interactive(config_input))


def _explain(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.explain import explain

    return explain(config_input, arguments, lambda: _load_interactive(config_input))


def _top(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.top import top

    return top(config_input, arguments, lambda: _load_interactive(config_input))


def _doctor(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.agent_config import choose
    from kubeproxy_py.commands.doctor import doctor

    chosen = choose(config_input, _load_interactive(config_input))
    return doctor(chosen.loaded, as_json=arguments.output == "json")


def _trace(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.ask_trace import trace

    return trace(config_input, arguments, lambda: _load_interactive(config_input))


def _check(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.check import check

    return check(config_input, config_only=arguments.config_only)


def _dump(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.dump import dump
    from kubeproxy_py.commands.interactive import load_interactive

    return dump(load_interactive(config_input), arguments.file)


def _cleanup(config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.cleanup import cleanup
    from kubeproxy_py.commands.interactive import load_interactive

    loaded = load_interactive(config_input, is_quiet=False)
    return cleanup(loaded, is_forced=arguments.force, only_extras=arguments.extras)


def _completion(_config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.completion import script_of

    output.print_lines(script_of(arguments.shell))
    return SUCCESS


def _help(_config_input: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.help import help_text, parser_of, unknown_command_error

    name = arguments.command
    if name and name not in COMMANDS:
        unknown_command_error(name)
        return UNUSABLE
    output.print_lines(parser_of(name).format_help() if name else help_text())
    return SUCCESS


def _version(_config_input: ConfigInput, _arguments: Namespace) -> int:
    output.print_lines(f"{PROGRAM} {__version__}\n")
    return SUCCESS


EXECUTORS: Mapping[str, Callable[[ConfigInput, Namespace], int]] = {
    "run": _run,
    "plan": _plan,
    "status": _status,
    "explain": _explain,
    "doctor": _doctor,
    "trace": _trace,
    "top": _top,
    "check": _check,
    "dump": _dump,
    "cleanup": _cleanup,
    "completion": _completion,
    "help": _help,
    "version": _version,
}
