"""Where images and reports come from, one file a kind of source."""
