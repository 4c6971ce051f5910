"""Judges what was read: pure functions from a subject's facts to findings, one file a subject."""
