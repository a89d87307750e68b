"""What one ingestion leaves behind for another."""
