"""What the agent shows of itself (figures, health, status), and what a site makes of it: rules, runbook and dashboards,
which are files, one copy each.

Rule: nothing here touches configfs, krbd, etcd or RADOS when it is asked. What is shown was published before, by
whoever did the work, or lies in `/proc` and `/run`. So a scrape answers whatever hangs.

`building` makes the dashboards' JSON and needs a library that no gateway has; nothing else of the agent imports it.
"""
