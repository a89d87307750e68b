"""Readers: they know MLflow and nothing of DataHub."""
