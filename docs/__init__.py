"""Documentation; `generate.py` writes the parts that are made from code."""
