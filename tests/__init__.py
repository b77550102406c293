"""What the product promises, on real services."""
