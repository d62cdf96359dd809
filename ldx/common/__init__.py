"""What every folder stands on: errors, files, interrupts, progress, flags, config sections."""
