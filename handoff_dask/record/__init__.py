"""What is known of an execution afterwards: its record, result, time split and lower bounds."""
