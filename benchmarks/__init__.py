"""How fast the connector is, beside DataHub's built-in mlflow source and the framework's own ceiling.

`make benchmark`, or `python -m benchmarks --quick`; docs/performance.md says what is measured.
"""
