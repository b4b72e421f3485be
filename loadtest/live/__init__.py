"""Live users: streams in real time, the samples they take, and the rule that checks them."""
