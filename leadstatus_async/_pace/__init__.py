"""The default limiter: token buckets, one queue, one timer, one pause gate."""
