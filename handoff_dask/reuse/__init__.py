"""What need not run again: fingerprints of functions, a cache of their results, why one runs again."""
