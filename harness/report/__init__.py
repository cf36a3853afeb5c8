"""Records -> a static web page: accuracy against latency, with the way from every point to its record."""
