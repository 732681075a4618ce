"""What is known of an execution afterwards: result, timings, where the time went, lower bounds."""
