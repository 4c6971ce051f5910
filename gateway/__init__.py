"""The library and the command line of rbdgate: what should be, what is, and the steps between."""
