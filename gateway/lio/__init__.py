"""The only room that knows LIO: its configfs tree, read and written.

`observation` reads, `creation` builds up, `removal` takes down (and is all the guard needs), `sessions` tells who is
logged in, `modules` makes sure the kernel is ready, `lock` keeps writers of different processes apart, `configfs` is
the door to the files. Nothing here decides, sleeps on its own account or starts a thread; nothing is remembered.

The files are written directly. rtslib-fb is used where it is right and cheap, for the full dump (`dump`), and not for
creations: it rewrites `naa.6...` target names, refuses IQNs with one dot after the date, replays left-over
reservations when it makes a storage object, hides the errno, and walks every fabric to delete one.
"""
