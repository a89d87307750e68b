"""`make demo`: a real MLflow server, filled by real training, ingested into an embedded catalog."""
