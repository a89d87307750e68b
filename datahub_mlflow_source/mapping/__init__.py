"""Mapping: MLflow records in, DataHub aspects out. Pure: no I/O, no clock, no report, no recipe."""
