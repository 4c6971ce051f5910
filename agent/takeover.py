"""An image on its way up on this node, in seconds: what its takeover took, phase by phase. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.phases import Phase
from gateway.steps import Build, Claim, Map, OpenPath, Step, TakeHold

_PHASES = {
    Claim: Phase.CLAIM,
    TakeHold: Phase.FENCE,
    Map: Phase.MAP,
    Build: Phase.EXPORT,
    OpenPath: Phase.EXPORT,
}
"""The phase of each of a takeover's steps, but for what is counted by itself within it."""


@dataclass
class Takeover:
    """Times are the caller's clock's; `reason` is why the image was claimed, `trace` ties together what is told of it.

    `detected` is when this node saw that nobody holds the image, if it did.
    """

    began: float
    ended: float = 0.0
    reason: str = ""
    trace: str = ""
    detected: float | None = None
    built: bool = False
    """Whether the export was built."""
    _spans: dict[Phase, float] = field(default_factory=dict)
    _within: dict[Phase, float] = field(default_factory=dict)

    @staticmethod
    def has(step: Step) -> bool:
        """Whether a step is one of a takeover's."""
        return type(step) in _PHASES

    def within(self, phase: Phase, seconds: float) -> None:
        """Count part of the step that is under way as a phase of its own."""
        self._within[phase] = self._within.get(phase, 0.0) + seconds

    def count(self, step: Step, began: float, ended: float) -> None:
        """Add a step that was taken; a new `TakeHold` means that an earlier try failed further down."""
        if isinstance(step, TakeHold):
            self._spans = {phase: took for phase, took in self._spans.items() if phase is Phase.CLAIM}
        self.built = (self.built and not isinstance(step, TakeHold)) or isinstance(step, Build)
        took = ended - began - sum(self._within.values())
        for phase, seconds in ({_PHASES[type(step)]: took} | self._within).items():
            self._spans[phase] = self._spans.get(phase, 0.0) + seconds
        self._within = {}
        self.ended = ended

    def failed(self) -> None:
        """A step failed: what was counted within it is counted with the next try."""
        self._within = {}

    @property
    def seconds(self) -> float:
        """From the moment nobody held it, or where that was not seen from the first step, to its last step."""
        return self.ended - (self.began if self.detected is None else self.detected)

    @property
    def phases(self) -> dict[str, float]:
        """The seconds of each phase there was, in order; what is missing to the whole was spent between the steps."""
        spans = dict(self._spans)
        if self.detected is not None:
            spans[Phase.DETECT] = self.began - self.detected
        return {phase.value: round(spans[phase], 3) for phase in Phase if phase in spans}

    def __str__(self) -> str:
        return ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in self.phases.items())
