"""JSON documents of measurements, and the facts about the machine in them."""
