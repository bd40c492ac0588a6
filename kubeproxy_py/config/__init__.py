"""What the operator asked for: kube-proxy's configuration file and flags, as frozen values.

Law: a value that comes out of here is whole and checked, nothing further in checks it again; and whatever is wrong
is told at once, each problem with the field's path (or the flag) as the operator wrote it.
"""
