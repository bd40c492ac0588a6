"""Access to the host that is not netlink: programs, sysctls, socket options."""
