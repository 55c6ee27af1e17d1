"""Models sent to a hub, with their card and certificate."""
