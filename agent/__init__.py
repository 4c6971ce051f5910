"""The daemons of rbdgate: every thread and every clock lives here."""
