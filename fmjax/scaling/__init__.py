"""How optima carry over: across peak rates, lengths, sizes and batches."""
