"""What a fit can say of itself: tables, predictions, simulated responses, pictures, an archive of plain arrays."""
