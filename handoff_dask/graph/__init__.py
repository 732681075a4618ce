"""What a user describes: functions and DAGs; and what follows from them before anything runs."""
