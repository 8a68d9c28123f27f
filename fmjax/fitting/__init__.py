"""The batch engine: Huber fits of a law over any number of lanes, and what is drawn from them."""
