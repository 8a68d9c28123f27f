"""Plans: recommendations corrected by measured final losses, and forecasts of runs in progress."""
