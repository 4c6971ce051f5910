"""The doors to Ceph: RADOS, RBD images and the kernel's RBD driver. Blocking calls, no threads of their own to keep.

Every call opens what it needs for itself, so that an image that hangs holds up nothing but its own caller.
"""
