"""What a user describes, and what it comes to before anything runs."""
