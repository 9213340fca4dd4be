"""medsd-small, the base model that ships with the package, and how it was trained."""
