"""What a search needs (generation), what it holds (group), and the tree that it leaves (node)."""
