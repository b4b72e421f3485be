"""The JSON documents that measurements write, and the facts about the machine in them."""
