"""What pools and searches say of the compute spent: statistics, figures, tables."""
