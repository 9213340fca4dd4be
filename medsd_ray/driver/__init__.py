"""What runs in a run's head pod."""
