"""Searches: grids of schedules, their final losses on all devices, and schedules of any shape."""
