"""Make pages and tables from results."""
