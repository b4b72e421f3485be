"""Live users: streams in real time, the samples of their latencies, and the rule for a level."""
