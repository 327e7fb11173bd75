"""What searches cost: measuring, what was found, figures, tables."""
