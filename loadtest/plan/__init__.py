"""From a measured capacity to replicas, the values of the chart, and a day simulated with them."""
