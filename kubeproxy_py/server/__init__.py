"""Who asks us: load balancers and the kubelet about health, Prometheus about numbers.

Law: nothing here can hold up the sync.  Answers are made of immutable values that its thread has handed over; each
server has one thread of its own, and bounds on clients, sizes and times.
"""
