"""The bench: what a card can do, what every kernel and layer of a plan takes of it, and its peers."""
