"""An image on its way up on this node, in seconds: what its takeover took, step by step. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.steps import Build, Claim, Map, OpenPath, Step, TakeHold

_WORDS = {Claim: "claim", TakeHold: "hold", Map: "map", Build: "build", OpenPath: "paths"}
"""The steps of a takeover in their order, and how they are told."""


@dataclass
class Takeover:
    """Times are the caller's clock's; `reason` is why the image was claimed."""

    began: float
    ended: float = 0.0
    reason: str = ""
    _spans: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def has(step: Step) -> bool:
        """Whether a step is one of a takeover's."""
        return type(step) in _WORDS

    def count(self, step: Step, began: float, ended: float) -> None:
        """Add a step that was taken; a new `TakeHold` means that an earlier try failed further down."""
        if isinstance(step, TakeHold):
            self._spans = {word: took for word, took in self._spans.items() if word == _WORDS[Claim]}
        word = _WORDS[type(step)]
        self._spans[word] = self._spans.get(word, 0.0) + ended - began
        self.ended = ended

    @property
    def built(self) -> bool:
        """Whether the export was built."""
        return _WORDS[Build] in self._spans

    @property
    def seconds(self) -> float:
        """From its first step, the claim where this node claimed it, to its last."""
        return self.ended - self.began

    def __str__(self) -> str:
        return ", ".join(f"{word} {self._spans[word]:.2f} s" for word in _WORDS.values() if word in self._spans)
