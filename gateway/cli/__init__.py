"""The command line: reads arguments, calls one of `gateway.actions`, prints. It decides nothing."""
