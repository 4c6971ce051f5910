"""`rbdgate completion`: what a shell sources so that it completes commands, options and live names."""

from __future__ import annotations

import argparse

from gateway.cli.parsers import Parser, furnish_alone
from gateway.cli.session import Answer

_DESCRIPTION = """Prints what a shell sources so that it completes commands, options, and the names of images, nodes,
networks and groups as they are in etcd now (asked for one second at most; without an answer nothing is offered).

    bash:  rbdgate completion bash > /etc/bash_completion.d/rbdgate
    zsh:   eval "$(rbdgate completion zsh)"      (in ~/.zshrc, after compinit)
    fish:  rbdgate completion fish > ~/.config/fish/completions/rbdgate.fish"""


def add(parser: Parser) -> None:
    """The command, which is a group of its own."""
    parser.description = _DESCRIPTION
    furnish_alone(parser, _completion, "shell completion")
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell it is for")


def _completion(arguments: argparse.Namespace) -> Answer:
    from argcomplete.shell_integration import shellcode  # noqa: PLC0415 - loaded for this command only

    script = shellcode(["rbdgate"], shell=arguments.shell)
    return Answer(script, {"shell": arguments.shell, "script": script})
