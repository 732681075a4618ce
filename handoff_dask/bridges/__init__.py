"""From telemetry to what others use: OpenTelemetry's traces, Python's logging."""
