"""The Ansible collection, tried: what it looks like, and its playbooks against hosts that nothing was installed on.

`provisions` what the hosts are served, packages and wheels · `fresh` the hosts · `controller` who plays to them ·
`stage` the site · `operator` what is done with it.
"""
