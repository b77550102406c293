"""What the tests stand on: services, the sample project, a TCP proxy, processes."""
