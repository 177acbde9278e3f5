"""The compiler for the data pipeline that people already have: read, plan, lower, verify."""
