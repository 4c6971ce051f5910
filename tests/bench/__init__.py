"""Measurements, run by hand: never part of the tests, for times on a busy machine prove nothing."""
