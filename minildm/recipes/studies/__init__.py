"""Comparisons whose table goes into the record of shipped weights; those themselves stay as they are."""
