"""What a training does with its time, and what the hardware could do."""
