"""What tests run against: real MLflow servers, what is in them, and a proxy in front of them."""
