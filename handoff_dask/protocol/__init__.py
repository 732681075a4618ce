"""All that crosses the wire: names, the manifest of a run, telemetry messages, explanations, calls.

The scheduler, the workers and the client know this package, and not each other.
"""
