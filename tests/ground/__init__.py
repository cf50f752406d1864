"""The modules that everything else reads: errors, times, quoting, credentials, settings."""
