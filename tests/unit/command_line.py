"""The commands there are, read from the parsers themselves."""

from __future__ import annotations

import argparse

from gateway.cli.arguments import whole_parser


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """Every command by its words, as `image create`, with its parser."""
    return dict(_leaves((), whole_parser()))


def _leaves(words: tuple[str, ...], parser: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser]]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        return [(" ".join(words), parser)]
    return [
        leaf for group in groups for word, inner in group.choices.items() for leaf in _leaves((*words, word), inner)
    ]
