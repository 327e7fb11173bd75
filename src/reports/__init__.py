"""What people read: tables, figures, the listening page; from records alone."""
