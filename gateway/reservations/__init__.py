"""Persistent reservations: the state, its text on the image, SCSI's and LIO's words for it, the trap and the commit."""
