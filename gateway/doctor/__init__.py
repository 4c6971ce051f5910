"""What may be wrong with this gateway, and what to do: `rbdgate doctor`. It looks, and changes nothing.

`reading/` looks (files, kernel, etcd, Ceph) and never judges; `checks/` judges what was read and is pure; `sources`
is what several subjects share; `examination` gives each subject a thread and a bound. `host/` is what an
installation puts on a gateway so that nothing but LIO touches guests' disks.
"""
