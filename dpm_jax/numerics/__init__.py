"""Numerics that the mathematics is computed with: scans, small matrices, sums that do not cancel."""
