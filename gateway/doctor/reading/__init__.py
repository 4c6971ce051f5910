"""Looks, and never judges: each file reads some subjects' facts. What cannot be read is `Unread`, with the reason."""
