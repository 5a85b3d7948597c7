"""What is known of a user now: recent history and features. This package reads it; training writes it."""
