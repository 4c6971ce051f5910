"""What an operator can do, once, for every front end: functions of values, a store and Ceph; nothing is printed here.

Each returns a value or raises an error of `gateway.errors`. What takes its time in the cluster returns when it is
written down; `waiting` then looks on until it is reached.
"""
